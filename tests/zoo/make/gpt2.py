"""Makes the zoo: one tiny random GPT-2, exported in several ways, and what PyTorch says about it.

`main` rewrites `gpt2.safetensors` and the folders of `VARIANTS`; the same versions of the libraries give the same
bytes (GPT-2 in other exporters' hands comes from `__main__.py`, as every other family does). Every folder holds the same weights, so one record serves all.
The record's spelling of sites is the house's; weight gradients are [in, out], whatever the file's layout.
"""

import copy
import json
import os
import shutil
import sys

import torch
from transformers import GPT2Config, GPT2LMHeadModel

HERE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(HERE, "..", "..", "examples", "atlas", "make"))
import export  # noqa: E402

TARGET = 17
LIMIT = 360 * 1024

# folder: (exporter, its arguments, weights outside the graph's file)
VARIANTS = {
    "gpt2-dynamo-mask": (export.dynamo, {}, True),
    "gpt2-dynamo-nomask": (export.dynamo, {"mask": False, "positions": False}, True),
    "gpt2-dynamo-raw": (export.dynamo, {"optimize": False}, True),
    "gpt2-dynamo-sdpa": (export.dynamo, {"attention": "sdpa"}, True),
    "gpt2-torchscript-mask": (export.torchscript, {}, True),
    "gpt2-torchscript-nomask": (export.torchscript, {"mask": False, "positions": False}, False),
    "gpt2-torchscript-opset14": (export.torchscript, {"opset": 14}, True),
}


def tiny():
    """A GPT-2 of 3 layers whose every parameter is random, biases and norms too."""
    config = GPT2Config(
        vocab_size=128,
        n_positions=64,
        n_embd=32,
        n_layer=3,
        n_head=4,
        n_inner=128,
        activation_function="gelu_new",
        attn_pdrop=0.0,
        embd_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=0,
        eos_token_id=0,
        use_cache=False,
    )
    config._attn_implementation = "eager"
    model = GPT2LMHeadModel(config).eval()
    generator = torch.Generator().manual_seed(20240717)
    scale = {"wte.weight": 0.35, "wpe.weight": 0.2, "c_attn.weight": 0.25, "c_proj.weight": 0.2, "c_fc.weight": 0.25}
    with torch.no_grad():
        for name, value in sorted(model.named_parameters()):
            random = torch.randn(value.shape, generator=generator)
            if ".ln_" in name and name.endswith("weight"):
                value.copy_(1 + 0.2 * random)
            else:
                value.copy_(next((s for end, s in scale.items() if name.endswith(end)), 0.1) * random)
    return model


def watch(model, taps):
    """Hooks that put every site's tensor into `taps`; returns their handles."""
    heads = model.config.n_head
    handles = []

    def into(module, name, shape=lambda t: t):
        def hook(_, args, kwargs):
            taps[name] = shape(args[0] if args else kwargs["hidden_states"])

        handles.append(module.register_forward_pre_hook(hook, with_kwargs=True))

    def out_of(module, name, shape=lambda t: t):
        def hook(_, args, result):
            taps[name] = shape(result if isinstance(result, torch.Tensor) else result[0])

        handles.append(module.register_forward_hook(hook))

    into(model.transformer.h[0], "embed")
    for index, block in enumerate(model.transformer.h):
        at = f"blocks.{index}."
        into(block, at + "resid_pre")
        out_of(block.ln_1, at + "ln1.out")
        out_of(block.attn.c_attn, at + "attn.qkv")
        into(block.attn.c_proj, at + "attn.z")
        out_of(block.attn.c_proj, at + "attn.out")
        out_of(block.attn, at + "attn_out")
        into(block.ln_2, at + "resid_mid")
        out_of(block.ln_2, at + "ln2.out")
        out_of(block.mlp.c_fc, at + "mlp.pre")
        into(block.mlp.c_proj, at + "mlp.post")
        out_of(block.mlp.c_proj, at + "mlp.out")
        out_of(block.mlp, at + "mlp_out")
        out_of(block, at + "resid_post")

        def pattern(_, args, result, name=at + "attn.pattern"):
            taps[name] = result[1]

        handles.append(block.attn.register_forward_hook(pattern))
    out_of(model.transformer.ln_f, "ln_final.out")
    return handles, heads


def split(name, value, heads):
    """The recorded tensors of one tap: the packed projection gives three, per head."""
    per_head = lambda t: t.reshape(*t.shape[:2], heads, -1)  # noqa: E731
    if name.endswith("attn.qkv"):
        for letter, part in zip("qkv", value.chunk(3, dim=-1), strict=True):
            yield name[: -len("qkv")] + letter, per_head(part)
    elif name.endswith("attn.z"):
        yield name, per_head(value)
    else:
        yield name, value


def record(model):
    """Every site of three full rows, gradients of a loss, and the logits of a padded batch."""
    generator = torch.Generator().manual_seed(7)
    ids = torch.randint(0, model.config.vocab_size, (3, 11), generator=generator)
    out = {"ids": ids}

    # The unembedding becomes a copy, so that each use of the tied matrix has its own gradient.
    tied = model.lm_head.weight
    model.lm_head.weight = torch.nn.Parameter(tied.detach().clone())
    taps = {}
    handles, heads = watch(model, taps)
    logits = model(ids, use_cache=False).logits
    for handle in handles:
        handle.remove()
    for value in taps.values():
        value.retain_grad()
    loss = -logits[:, -1].log_softmax(-1)[:, TARGET].mean()
    model.zero_grad()
    loss.backward()

    out["logits"], out["loss"] = logits, loss
    for name, value in taps.items():
        out.update(split(name, value, heads))
        if not name.endswith(("pattern", "ln1.out", "ln2.out", "mlp.pre", "ln_final.out")):
            out.update(("grad:" + site, part) for site, part in split(name, value.grad, heads))
    out["grad:W_E"] = model.transformer.wte.weight.grad
    out["grad:W_pos"] = model.transformer.wpe.weight.grad
    out["grad:W_U"] = model.lm_head.weight.grad.T
    out["grad:ln_final.w"] = model.transformer.ln_f.weight.grad
    out["grad:ln_final.b"] = model.transformer.ln_f.bias.grad
    for index, block in enumerate(model.transformer.h):
        at = f"grad:blocks.{index}."
        for letter, weight, bias in zip(
            "QKV",
            block.attn.c_attn.weight.grad.chunk(3, dim=1),
            block.attn.c_attn.bias.grad.chunk(3),
            strict=True,
        ):
            out[f"{at}attn.W_{letter}"], out[f"{at}attn.b_{letter}"] = weight, bias
        for short, module in (
            ("attn.{}_O", block.attn.c_proj),
            ("mlp.{}_in", block.mlp.c_fc),
            ("mlp.{}_out", block.mlp.c_proj),
        ):
            out[at + short.format("W")], out[at + short.format("b")] = module.weight.grad, module.bias.grad
        for short, module in (("ln1", block.ln_1), ("ln2", block.ln_2)):
            out[f"{at}{short}.w"], out[f"{at}{short}.b"] = module.weight.grad, module.bias.grad
    model.lm_head.weight = tied

    padded = torch.randint(0, model.config.vocab_size, (2, 9), generator=generator)
    mask = torch.ones_like(padded)
    mask[1, 6:] = 0
    positions = torch.arange(9)[None].repeat(2, 1)
    with torch.no_grad():
        answer = model(padded, attention_mask=mask, position_ids=positions, use_cache=False).logits
    with torch.no_grad():
        out["half.logits"] = copy.deepcopy(model).half().float()(ids, use_cache=False).logits
    out |= {"padded.ids": padded, "padded.mask": mask, "padded.logits": answer}
    return {name: value.detach().clone().contiguous() for name, value in out.items()}


def main():
    torch.set_num_threads(1)
    model = tiny()
    import record as records  # which needs `tiny`

    kept = record(model)
    with torch.no_grad():
        kept |= records.decoded(lambda ids: model(ids, use_cache=False).logits, kept["ids"])
    records.save(kept, os.path.join(HERE, "gpt2.safetensors"))

    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in ("torch_dtype", "dtype")}
    for name, (exporter, arguments, outside) in VARIANTS.items():
        folder = os.path.join(HERE, name)
        shutil.rmtree(folder, ignore_errors=True)
        os.makedirs(folder)
        path = os.path.join(folder, "model.onnx")
        proto = exporter(model, **arguments)
        if outside:
            export.externalise([proto], path + ".data")
        export.write(proto, path)
        with open(os.path.join(folder, "config.json"), "w") as file:
            json.dump(config | {"architectures": ["GPT2LMHeadModel"]}, file, indent=2, sort_keys=True)
            file.write("\n")
        worst = export.check(model, path)
        size = sum(os.path.getsize(os.path.join(folder, f)) for f in os.listdir(folder))
        if size > LIMIT:
            raise SystemExit(f"{name}: {size} bytes")
        print(f"{name}: {size} bytes, off by at most {worst:.1e}")


if __name__ == "__main__":
    main()
