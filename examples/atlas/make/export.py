"""Writes a transformers GPT-2 as ONNX, once through each of PyTorch's two exporters.

`export(model, folder)` writes `model.onnx` (the dynamo exporter) and `model_torchscript.onnx` (the
TorchScript one) over one external data file, `model.onnx.data`. Both graphs take `input_ids` and, where
asked for, `attention_mask` and `position_ids`, all int64 [batch, sequence], and give `logits`
[batch, sequence, vocab]. There is no KV cache; `export_cached` writes a graph of the TorchScript exporter with one.
The same model gives the same bytes on every run.

Needs torch, transformers 4.57, onnx, onnxscript; `check` needs onnxruntime as well.
"""

import contextlib
import hashlib
import io
import os
import tempfile
import warnings

import onnx
import torch
from transformers import masking_utils
from transformers.cache_utils import DynamicCache

NAME_SCOPES = "pkg.torch.onnx.name_scopes"
ALIGN = 64
INLINE_BELOW = 1024


def inputs(batch, sequence, vocab, mask=True, positions=True, seed=0):
    """Example inputs by name; every row but the first is padded on the right when there is a mask."""
    generator = torch.Generator().manual_seed(seed)
    named = {"input_ids": torch.randint(0, vocab, (batch, sequence), generator=generator)}
    if mask:
        named["attention_mask"] = torch.ones(batch, sequence, dtype=torch.int64)
        for row in range(1, batch):
            named["attention_mask"][row, max(1, sequence - 2 * row) :] = 0
    if positions:
        named["position_ids"] = torch.arange(sequence)[None].repeat(batch, 1)
    return named


def _forward(kind, names):
    """A forward method which takes the graph's inputs in order and gives the logits alone."""

    def forward(self, *values):
        named = dict(zip(names, values, strict=True))
        return kind.forward(self, **named, use_cache=False, return_dict=True).logits

    return forward


def _mask_without_vmap(*args, dtype=torch.float32, **kwargs):
    """The eager mask without functorch's vmap, which torch.jit.trace cannot follow (optimum does the same)."""
    from transformers.integrations.executorch import sdpa_mask_without_vmap

    kwargs.pop("allow_is_causal_skip", None)
    allowed = sdpa_mask_without_vmap(*args, allow_is_causal_skip=False, **kwargs)
    return torch.where(allowed, torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


@contextlib.contextmanager
def _prepared(model, names, attention, trace):
    """The model in its export dress: evaluation mode, the wanted attention, the graph's own forward."""
    kind, training, used = model.__class__, model.training, model.config._attn_implementation
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    try:
        model.eval()
        model.set_attn_implementation(attention)
        dress = {"forward": _forward(kind, names), "__module__": kind.__module__}
        model.__class__ = type(kind.__name__, (kind,), dress)
        if trace:
            masks["eager"] = _mask_without_vmap
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if trace:
            del masks["eager"]
        model.__class__ = kind
        model.set_attn_implementation(used)
        model.train(training)


def dynamo(model, mask=True, positions=True, opset=20, optimize=True, attention="eager"):
    """The graph of the dynamo exporter, weights inline."""
    named = inputs(2, 5, model.config.vocab_size, mask, positions)
    batch = torch.export.Dim("batch", min=1)
    sequence = torch.export.Dim("sequence", min=1, max=model.config.n_positions)
    with _prepared(model, list(named), attention, trace=False):
        program = torch.onnx.export(
            model,
            tuple(named.values()),
            input_names=list(named),
            output_names=["logits"],
            dynamic_shapes=(tuple({0: batch, 1: sequence} for _ in named),),
            opset_version=opset,
            optimize=optimize,
            dynamo=True,
            verbose=False,
        )
    return clean(program.model_proto, model)


class _Cached(torch.nn.Module):
    """A model that takes keys and values, block by block, after its other inputs, and gives them back after the logits."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, input_ids, attention_mask, position_ids, *past):
        cache = DynamicCache.from_legacy_cache(tuple(zip(past[::2], past[1::2], strict=True)))
        named = {"input_ids": input_ids, "attention_mask": attention_mask, "position_ids": position_ids}
        out = self.model(**named, past_key_values=cache, use_cache=True, return_dict=True)
        return out.logits, *(t for pair in out.past_key_values.to_legacy_cache() for t in pair)


def torchscript(model, mask=True, positions=True, opset=17, attention="eager"):
    """The graph of the TorchScript exporter, weights inline."""
    named = inputs(2, 5, model.config.vocab_size, mask, positions)
    buffer = io.BytesIO()
    with _prepared(model, list(named), attention, trace=True):
        torch.onnx.export(
            model,
            tuple(named.values()),
            buffer,
            input_names=list(named),
            output_names=["logits"],
            dynamic_axes={name: {0: "batch", 1: "sequence"} for name in [*named, "logits"]},
            opset_version=opset,
            dynamo=False,
        )
    return clean(onnx.load_from_string(buffer.getvalue()), model)


def torchscript_cached(model, opset=17, attention="eager"):
    """The graph of the TorchScript exporter with cached keys and values, [batch, head, past, width], weights inline."""
    config = model.config
    width = config.n_embd // config.n_head
    past, sequence = 4, 3
    named = inputs(2, sequence, config.vocab_size)
    named["attention_mask"] = torch.ones(2, past + sequence, dtype=torch.int64)
    named["position_ids"] += past
    kinds = [f"{i}.{kind}" for i in range(config.n_layer) for kind in ("key", "value")]
    for kind in kinds:
        named["past_key_values." + kind] = torch.randn(2, config.n_head, past, width)
    axes = {name: {0: "batch", 1: "sequence"} for name in ("input_ids", "position_ids", "logits")}
    axes["attention_mask"] = {0: "batch", 1: "past + sequence"}
    for kind in kinds:
        axes["past_key_values." + kind] = {0: "batch", 2: "past"}
        axes["present." + kind] = {0: "batch", 2: "past + sequence"}
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    eager_mask = masks["eager"]
    buffer = io.BytesIO()
    try:
        model.eval()
        model.set_attn_implementation(attention)
        masks["eager"] = _mask_without_vmap
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                _Cached(model).eval(),
                tuple(named.values()),
                buffer,
                input_names=list(named),
                output_names=["logits", *("present." + kind for kind in kinds)],
                dynamic_axes=axes,
                opset_version=opset,
                dynamo=False,
            )
    finally:
        masks["eager"] = eager_mask
    return clean(onnx.load_from_string(buffer.getvalue()), model)


def clean(proto, model):
    """Drops what tells of the machine (stack traces, doc strings) and states the shape of the logits."""

    def graph(g):
        g.doc_string = ""
        del g.metadata_props[:]
        for value in [*g.input, *g.output, *g.value_info, *g.initializer]:
            value.doc_string = ""
            del value.metadata_props[:]
        nodes(g.node)

    def nodes(some):
        for node in some:
            node.doc_string = ""
            kept = [(p.key, p.value) for p in node.metadata_props if p.key == NAME_SCOPES]
            del node.metadata_props[:]
            for key, value in kept:
                node.metadata_props.add(key=key, value=value)
            for attribute in node.attribute:
                attribute.doc_string = ""
                for inner in [attribute.g, *attribute.graphs]:
                    if inner.node:
                        graph(inner)

    proto.doc_string = ""
    del proto.metadata_props[:]
    graph(proto.graph)
    for function in proto.functions:
        function.doc_string = ""
        del function.metadata_props[:]
        nodes(function.node)
    logits = proto.graph.output[0]
    for dim, value in zip(logits.type.tensor_type.shape.dim, ("batch", "sequence", model.config.vocab_size), strict=True):
        if isinstance(value, str):
            dim.dim_param = value
        else:
            dim.dim_value = value
    return proto


def externalise(protos, path):
    """Moves the weights of some graphs into one data file beside them, each tensor stored once.

    Two graphs share a stored tensor when its bytes are equal. Within one graph two weights never share,
    even when equal, so that a file edited in place changes one weight only; constant tables of integers
    and booleans do.
    """
    name = os.path.basename(path)
    places = {}
    end = 0
    with open(path, "wb") as file:
        for proto in protos:
            taken = set()
            for tensor in proto.graph.initializer:
                raw = tensor.raw_data if tensor.HasField("raw_data") else onnx.numpy_helper.to_array(tensor).tobytes()
                if len(raw) < INLINE_BELOW:
                    continue
                floating = tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
                known = places.setdefault((tensor.data_type, hashlib.sha256(raw).digest()), [])
                offset = next((o for o in known if not floating or o not in taken), None)
                if offset is None:
                    offset = -(-end // ALIGN) * ALIGN
                    file.write(b"\0" * (offset - end) + raw)
                    end = offset + len(raw)
                    known.append(offset)
                taken.add(offset)
                for field in ("raw_data", "float_data", "int32_data", "int64_data"):
                    tensor.ClearField(field)
                tensor.data_location = onnx.TensorProto.EXTERNAL
                for key, value in (("location", name), ("offset", offset), ("length", len(raw))):
                    tensor.external_data.add(key=key, value=str(value))


def write(proto, path):
    """Writes a graph, and refuses one which still names a place on this machine."""
    data = proto.SerializeToString(deterministic=True)
    names = onnx.ModelProto()
    names.CopyFrom(proto)
    for tensor in names.graph.initializer:
        tensor.ClearField("raw_data")
    text = names.SerializeToString()
    places = (os.getcwd(), os.path.expanduser("~"), tempfile.gettempdir())
    for hint in (b"site-packages", b".py", *(place.encode() for place in places)):
        if len(hint) > 2 and hint in text:
            raise ValueError(f"{os.path.basename(path)}: the graph still has {hint!r} in it")
    with open(path, "wb") as file:
        file.write(data)


def export(
    model,
    folder,
    stem="model",
    mask=True,
    positions=True,
    opset=20,
    torchscript_opset=17,
    both=True,
):
    """Writes `stem.onnx`, `stem_torchscript.onnx` unless `both` is false, and `stem.onnx.data`; returns the paths."""
    os.makedirs(folder, exist_ok=True)
    paths = [os.path.join(folder, f"{stem}.onnx")]
    protos = [dynamo(model, mask, positions, opset)]
    if both:
        paths.append(os.path.join(folder, f"{stem}_torchscript.onnx"))
        protos.append(torchscript(model, mask, positions, torchscript_opset))
    externalise(protos, os.path.join(folder, f"{stem}.onnx.data"))
    for proto, path in zip(protos, paths, strict=True):
        write(proto, path)
    return paths


def export_cached(model, folder, stem="model", opset=17):
    """Writes `stem.onnx` with cached keys and values, and `stem.onnx.data`; returns the path."""
    os.makedirs(folder, exist_ok=True)
    path = os.path.join(folder, f"{stem}.onnx")
    proto = torchscript_cached(model, opset)
    externalise([proto], os.path.join(folder, f"{stem}.onnx.data"))
    write(proto, path)
    return path


def check_cached(model, path, sequence=9, tolerance=1e-4):
    """Runs a prompt over an empty cache and then one token more in ONNX Runtime against PyTorch; returns the largest
    difference of a logit."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    ids = inputs(2, sequence, model.config.vocab_size)["input_ids"]
    with torch.no_grad():
        wanted = model(ids, use_cache=False).logits
    names = [i.name for i in session.get_inputs() if i.name.startswith("past")]
    heads, width = model.config.n_head, model.config.n_embd // model.config.n_head
    past, done, worst = [torch.zeros(2, heads, 0, width).numpy()] * len(names), 0, 0.0
    for new in (ids[:, :-1], ids[:, -1:]):
        end = done + new.shape[1]
        feeds = {"input_ids": new, "attention_mask": torch.ones(2, end, dtype=torch.int64)}
        feeds["position_ids"] = torch.arange(done, end)[None].repeat(2, 1)
        feeds = {name: value.numpy() for name, value in feeds.items()} | dict(zip(names, past, strict=True))
        logits, *past = session.run(None, feeds)
        worst = max(worst, (torch.from_numpy(logits) - wanted[:, done:end]).abs().max().item())
        done = end
    if not worst <= tolerance:
        raise ValueError(f"{os.path.basename(path)} is off by {worst}")
    return worst


def check(model, path, shapes=((1, 1), (1, 7), (3, 19)), tolerance=1e-4):
    """Runs a graph in ONNX Runtime against PyTorch; returns the largest difference of a logit not on padding."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    worst = 0.0
    for seed, (batch, sequence) in enumerate(shapes):
        named = inputs(
            batch,
            sequence,
            model.config.vocab_size,
            "attention_mask" in names,
            "position_ids" in names,
            seed + 1,
        )
        with torch.no_grad():
            wanted = model(**named, use_cache=False).logits
        (got,) = session.run(["logits"], {name: value.numpy() for name, value in named.items()})
        real = named.get("attention_mask", torch.ones(batch, sequence)).bool()
        difference = (torch.from_numpy(got) - wanted)[real].abs().max().item()
        if got.shape != tuple(wanted.shape) or not difference <= tolerance:
            raise ValueError(f"{os.path.basename(path)} at {batch}x{sequence}: shape {got.shape}, off by {difference}")
        worst = max(worst, difference)
    return worst
