"""What PyTorch says of a family: `FAMILY.safetensors`, with every tensor under the house's name for it.

Taps and logits of three rows, gradients of one loss with respect to taps and weights ([in, out]; packed projections
split), logits of a right-padded batch, eight greedy tokens for each row, and the logits of the weights rounded to
float16. Before anything is kept, the taps and weights must satisfy the block's own equations.
"""

import copy
import inspect
import json
import os

import torch
from safetensors.torch import save_file

import families
from structure import STRUCTURES

TARGET = 17
GREEDY = 8
RAGGED = (11, 4, 7)
NO_GRADIENT = ("attn.pattern", "ln1.out", "ln2.out", "mlp.pre", "mlp.pre_linear", "ln_final.out")


class Reader:
    """One family's model and where its parts are."""

    def __init__(self, family):
        self.model = families.tiny(family)
        self.parts = STRUCTURES[family]
        config = self.model.config
        self.heads = config.num_attention_heads
        self.width = getattr(config, "head_dim", None) or config.hidden_size // self.heads
        packed = self.parts.get("qkv", (None, None))[1]
        grouped = getattr(config, "num_kv_heads", self.heads) if packed == "groups" else self.heads
        self.key_heads = 1 if packed == "last" else getattr(config, "num_key_value_heads", grouped)
        # What Granite multiplies a sub-layer's output by before it joins the stream.
        self.multiplier = getattr(config, "residual_multiplier", 1.0)
        self.blocks = self.model.get_submodule(self.parts["blocks"])
        self.takes_positions = "position_ids" in inspect.signature(self.model.forward).parameters

    def module(self, block, part):
        """A part of a block, or nothing."""
        name = self.parts.get(part)
        return name and block.get_submodule(name)

    def logits(self, ids, mask=None, model=None):
        """Logits of whole rows, position ids from 0 in each."""
        named = {"input_ids": ids}
        if self.takes_positions:
            named["position_ids"] = torch.arange(ids.shape[1])[None].repeat(ids.shape[0], 1)
        if mask is not None:
            named["attention_mask"] = mask
        with torch.no_grad():
            return (model or self.model)(**named, use_cache=False).logits

    def split(self, packed, lie):
        """The q, k and v of a packed projection whose last axis is its output, heads flat."""
        lead = packed.shape[:-1]
        if lie in ("heads", "qvk"):
            q, k, v = packed.reshape(*lead, self.heads, 3, self.width).unbind(-2)
            return [part.reshape(*lead, -1) for part in ((q, v, k) if lie == "qvk" else (q, k, v))]
        if lie == "groups":
            groups = packed.reshape(*lead, self.key_heads, -1, self.width)
            return [part.reshape(*lead, -1) for part in (groups[..., :-2, :], groups[..., -2, :], groups[..., -1, :])]
        # "thirds" and "last" differ in nothing but the number of key heads.
        sizes = [self.heads * self.width, self.key_heads * self.width, self.key_heads * self.width]
        return packed.split(sizes, dim=-1)

    def per_head(self, flat):
        """[batch, position, heads, width]."""
        return flat.reshape(*flat.shape[:2], -1, self.width)


def watch(reader, taps):
    """Hooks that put the raw tensor of every part into `taps`; returns their handles.

    A hooked output goes on as a copy, so that no later addition in place touches what was kept.
    """
    handles = []

    def into(module, name):
        def hook(_, args, kwargs):
            taps[name] = args[0] if args else kwargs["hidden_states"]

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def out_of(module, name):
        def hook(_, args, result):
            plain = isinstance(result, torch.Tensor)
            taps[name] = result if plain else result[0]
            return taps[name].clone() if plain else (taps[name].clone(), *result[1:])

        handles.append(module.register_forward_hook(hook))

    for index, block in enumerate(reader.blocks):
        at = f"blocks.{index}."
        into(block, at + "resid_pre")
        if "qkv" in reader.parts:
            out_of(block.get_submodule(reader.parts["qkv"][0]), at + "attn.qkv")
        names = {"ln1": "ln1.out", "ln2": "ln2.out", "q": "attn.q", "k": "attn.k", "v": "attn.v", "o": "attn.out"}
        names |= {"gate": "mlp.pre", "up": "mlp.pre_linear", "gate_up": "mlp.gate_up", "down": "mlp.out"}
        names |= {"after_attn": "attn_out", "after_mlp": "mlp_out"}
        if "gate" not in reader.parts:
            names["up"] = "mlp.pre"
        for part, name in names.items():
            if module := reader.module(block, part):
                out_of(module, at + name)
        for part, name in {"o": "attn.z", "down": "mlp.post", "mid": "resid_mid"}.items():
            if module := reader.module(block, part):
                into(module, at + name)
        out_of(block, at + "resid_post")
    out_of(reader.model.get_submodule(reader.parts["final"]), "ln_final.out")
    return handles


def sites(reader, raw, gradient):
    """The tensors of the house's sites from raw ones, or from the gradients of raw ones."""
    scale = 1 / reader.multiplier if gradient else reader.multiplier
    for name, value in raw.items():
        at, _, part = name.rpartition("attn.")
        if name.startswith("blocks.") and value.dim() == 2:
            value = value.reshape(*raw["blocks.0.resid_pre"].shape[:2], -1)
        if part == "qkv":
            for letter, piece in zip("qkv", reader.split(value, reader.parts["qkv"][1]), strict=True):
                yield at + "attn." + letter, reader.per_head(piece)
        elif part in ("q", "k", "v", "z"):
            yield name, reader.per_head(value)
        elif name.endswith("mlp.gate_up"):
            gate, up = value.chunk(2, dim=-1)
            yield from ((name.replace("gate_up", "pre"), gate), (name.replace("gate_up", "pre_linear"), up))
        else:
            yield name, value
            if name == "blocks.0.resid_pre":
                yield "embed", value
            for own, joined in (("attn.out", "attn_out"), ("mlp.out", "mlp_out")):
                if name.endswith(own) and name.replace(own, joined) not in raw:
                    yield name.replace(own, joined), value * scale


def parameters(reader, of):
    """`of(parameter)` of every weight under the house's name, linear ones [in, out]."""
    model, parts = reader.model, reader.parts
    yield "W_E", of(model.get_input_embeddings().weight)
    unembedding = model.get_output_embeddings()
    yield "W_U", of(unembedding.weight).T
    if unembedding.bias is not None:
        yield "b_U", of(unembedding.bias)
    if "positions" in parts:
        yield "W_pos", of(model.get_submodule(parts["positions"]).weight)

    def norm(module, name):
        yield name + ".w", of(module.weight)
        if getattr(module, "bias", None) is not None:
            yield name + ".b", of(module.bias)

    yield from norm(model.get_submodule(parts["final"]), "ln_final")
    names = {"q": "attn.{}_Q", "k": "attn.{}_K", "v": "attn.{}_V", "o": "attn.{}_O", "down": "mlp.{}_out"}
    names |= {"gate": "mlp.{}_gate", "up": "mlp.{}_in"}
    norms = {"ln1": "ln1", "ln2": "ln2", "after_attn": "ln1_post", "after_mlp": "ln2_post"}
    norms |= {"q_norm": "attn.q_norm", "k_norm": "attn.k_norm"}
    for index, block in enumerate(reader.blocks):
        at = f"blocks.{index}."
        for part, name in norms.items():
            if module := reader.module(block, part):
                yield from norm(module, at + name)
        linear = [(name, reader.module(block, part)) for part, name in names.items() if part in parts]
        for name, module in linear:
            yield at + name.format("W"), of(module.weight).T
            if module.bias is not None:
                yield at + name.format("b"), of(module.bias)
        packed = []
        if "qkv" in parts:
            module = block.get_submodule(parts["qkv"][0])
            packed.append((module, ["attn.{}_Q", "attn.{}_K", "attn.{}_V"], lambda t: reader.split(t, parts["qkv"][1])))
        if "gate_up" in parts:
            packed.append((reader.module(block, "gate_up"), ["mlp.{}_gate", "mlp.{}_in"], lambda t: t.chunk(2, dim=-1)))
        for module, spelled, split in packed:
            for name, piece in zip(spelled, split(of(module.weight).T), strict=True):
                yield at + name.format("W"), piece
            if module.bias is not None:
                for name, piece in zip(spelled, split(of(module.bias)), strict=True):
                    yield at + name.format("b"), piece


def prove(reader, out, weights):
    """The block's own equations, between recorded taps and weights."""

    def near(one, other, what):
        if not torch.allclose(one, other, atol=2e-5):
            raise ValueError(f"{what}: off by {(one - other).abs().max()}")

    for layer in range(len(reader.blocks)):
        tap = {name.removeprefix(f"blocks.{layer}."): value for name, value in out.items()}
        w = {name.removeprefix(f"blocks.{layer}."): value for name, value in weights.items()}

        def linear(x, name, w=w):
            return x.flatten(2) @ w[name.format("W")] + w.get(name.format("b"), 0)

        reads = tap.get("ln1.out", tap["resid_pre"])
        for letter in "qkv":
            near(tap[f"attn.{letter}"].flatten(2), linear(reads, f"attn.{{}}_{letter.upper()}"), f"{layer} {letter}")
        near(tap["attn.out"], linear(tap["attn.z"], "attn.{}_O"), f"{layer} attn.out")
        near(tap["mlp.out"], linear(tap["mlp.post"], "mlp.{}_out"), f"{layer} mlp.out")
        reads = tap.get("ln2.out", tap.get("resid_mid") if "mid" in reader.parts else reads)
        gated = "mlp.pre_linear" in tap
        near(tap["mlp.pre"], linear(reads, "mlp.{}_gate" if gated else "mlp.{}_in"), f"{layer} mlp.pre")
        if gated:
            near(tap["mlp.pre_linear"], linear(reads, "mlp.{}_in"), f"{layer} mlp.pre_linear")
        if "resid_mid" in tap:
            near(tap["resid_mid"], tap["resid_pre"] + tap["attn_out"], f"{layer} resid_mid")
        near(tap["resid_post"], tap["resid_pre"] + tap["attn_out"] + tap["mlp_out"], f"{layer} resid_post")
        group = reader.heads // reader.key_heads
        values = tap["attn.v"].repeat_interleave(group, dim=2)
        near(tap["attn.z"], torch.einsum("bhqk,bkhd->bqhd", tap["attn.pattern"], values), f"{layer} attn.z")


def greedy(logits, ids):
    """Eight more tokens for each row, recomputed whole each time; refused where the choice is close."""
    whole = ids
    for _ in range(GREEDY):
        best = logits(whole)[:, -1].topk(2)
        if (best.values[:, 0] - best.values[:, 1]).min() < 2e-4:
            raise ValueError("two tokens are equally good: another seed is needed")
        whole = torch.cat([whole, best.indices[:, :1]], dim=1)
    return whole[:, ids.shape[1] :]


def decoded(logits, ids):
    """Greedy tokens of whole rows, and of rows cut to different lengths, each decoded by itself."""
    lengths = torch.tensor(RAGGED)
    cut = torch.cat([greedy(logits, row[None, :length]) for row, length in zip(ids, RAGGED, strict=True)])
    return {"greedy": greedy(logits, ids), "ragged.lengths": lengths, "ragged.greedy": cut}


def record(family):
    """The record, as named tensors."""
    reader = Reader(family)
    model, vocab = reader.model, reader.model.config.vocab_size
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, vocab, (3, 11), generator=generator)
    padded = torch.randint(0, vocab, (2, 9), generator=generator)
    mask = torch.ones_like(padded)
    mask[1, 6:] = 0
    out = {"ids": ids, "padded.ids": padded, "padded.mask": mask, "padded.logits": reader.logits(padded, mask)}
    out |= decoded(reader.logits, ids)
    out["half.logits"] = reader.logits(ids, model=copy.deepcopy(model).half().float())

    # The unembedding becomes a copy, so that each use of a tied matrix has its own gradient.
    unembedding = model.get_output_embeddings()
    unembedding.weight = torch.nn.Parameter(unembedding.weight.detach().clone())
    raw = {}
    handles = watch(reader, raw)
    answer = model(ids, use_cache=False, output_attentions=True)
    for handle in handles:
        handle.remove()
    for value in raw.values():
        value.retain_grad()
    loss = -answer.logits[:, -1].log_softmax(-1)[:, TARGET].mean()
    model.zero_grad()
    loss.backward()

    out |= {"logits": answer.logits, "loss": loss}
    out.update(sites(reader, raw, False))
    out.update((f"blocks.{layer}.attn.pattern", pattern) for layer, pattern in enumerate(answer.attentions))
    gradients = sites(reader, {name: value.grad for name, value in raw.items()}, True)
    out.update(("grad:" + name, value) for name, value in gradients if not name.endswith(NO_GRADIENT))
    out.update(("grad:" + name, value) for name, value in parameters(reader, lambda parameter: parameter.grad))
    out = {name: value.detach().clone().contiguous() for name, value in out.items()}
    prove(reader, out, dict(parameters(reader, lambda parameter: parameter.detach())))
    return out


def write(family, folder):
    """Writes the record of a family."""
    out = record(family)
    save(out, os.path.join(folder, f"{family}.safetensors"))


def save(out, path):
    """Writes a record with its explanations."""
    about = {
        "loss": f"mean over the three rows of the NLL (nats) of token {TARGET} after the last position",
        "grad:W_E": "the embedding's use alone; the unembedding counts as a separate copy (grad:W_U)",
        "padded": "padded on the right; position ids are 0, 1, 2, ... in both rows",
        "greedy": f"the {GREEDY} tokens of highest logit after each row of ids",
        "ragged.greedy": "the same for the first ragged.lengths[i] tokens of row i",
        "half.logits": "logits of ids, in float32, of the weights rounded to float16",
    }
    out = {name: value.detach().clone().contiguous() for name, value in out.items()}
    save_file(out, path, {"about": json.dumps(about, sort_keys=True)})
    os.chmod(path, 0o644)
    logits = out["logits"]
    print(f"{os.path.basename(path)}: {os.path.getsize(path)} bytes, logits: std {logits.std():.2f}, largest {logits.abs().max():.2f}")
