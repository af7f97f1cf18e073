"""The exporters of decoders with a key/value cache: `past_key_values.L.key|value` in, `present.L.key|value` out.

Through the dynamo exporter and through the TorchScript one the model wears a forward of ours over transformers'
`DynamicCache`; `optimum` is optimum-onnx's own export, untouched but for what tells of the machine. The mask covers
past and new positions. `check` decodes greedily with the cache and compares each step with PyTorch's whole pass.
"""

import inspect
import io
import os
import tempfile

import onnx
import torch
from transformers import DynamicCache

from families import POSITIONS
from graphs import dressed, export


def heads(model):
    """How many heads a cached tensor has, and how wide they are, read off a real cache."""
    with torch.no_grad():
        cache = model(torch.zeros(1, 2, dtype=torch.int64), use_cache=True).past_key_values
    key, _ = next(iter(pairs(cache)))
    return key.shape[1], key.shape[3]


def pairs(cache):
    """The (key, value) of every layer."""
    cache = getattr(cache, "self_attention_cache", cache)
    return [(layer.keys, layer.values) for layer in cache.layers]


def example(model, batch, past, new, seed=0):
    """Example inputs by name: a random past, a mask of ones over past and new positions."""
    generator = torch.Generator().manual_seed(seed)
    named = {
        "input_ids": torch.randint(0, model.config.vocab_size, (batch, new), generator=generator),
        "attention_mask": torch.ones(batch, past + new, dtype=torch.int64),
    }
    if "position_ids" in inspect.signature(model.forward).parameters:
        named["position_ids"] = torch.arange(past, past + new)[None].repeat(batch, 1)
    count, width = heads(model)
    for layer in range(model.config.num_hidden_layers):
        for part in ("key", "value"):
            shape = (batch, count, past, width)
            named[f"past_key_values.{layer}.{part}"] = torch.randn(shape, generator=generator).to(model.dtype)
    return named


def axes(named):
    """The names of the free axes of every input and output."""
    free = {}
    for name in named:
        if name.startswith("past"):
            free[name] = {0: "batch", 2: "past_sequence"}
            free[name.replace("past_key_values", "present")] = {0: "batch", 2: "total_sequence"}
        else:
            free[name] = {0: "batch", 1: "total_sequence" if name == "attention_mask" else "sequence"}
    return free | {"logits": {0: "batch", 1: "sequence"}}


def _forward(names):
    """A forward over flat tensors."""
    plain = [name for name in names if not name.startswith("past")]

    def of(kind):
        def forward(self, *values):
            named = dict(zip(names, values, strict=True))
            flat = [named.pop(name) for name in names if name not in plain]
            cache = DynamicCache()
            for layer, (key, value) in enumerate(zip(flat[::2], flat[1::2], strict=True)):
                cache.update(key, value, layer)
            out = kind.forward(self, **named, past_key_values=cache, use_cache=True, return_dict=True)
            return (out.logits, *(tensor for pair in pairs(out.past_key_values) for tensor in pair))

        return forward

    return of


def outputs(names):
    """The graph's outputs, in order."""
    return ["logits", *(name.replace("past_key_values", "present") for name in names if name.startswith("past"))]


def dynamo(model, opset=20, optimize=True, attention="eager"):
    """The dynamo exporter."""
    named = example(model, 2, 3, 5)
    names = list(named)
    sizes = {"batch": torch.export.Dim("batch", min=1), "sequence": torch.export.Dim("sequence", min=1, max=POSITIONS)}
    sizes["past_sequence"] = torch.export.Dim("past_sequence", min=0, max=POSITIONS)
    sizes["total_sequence"] = torch.export.Dim.DYNAMIC
    free = axes(names)
    with dressed(model, _forward(names), attention, trace=False):
        program = torch.onnx.export(
            model,
            tuple(named.values()),
            input_names=names,
            output_names=outputs(names),
            dynamic_shapes=(tuple({axis: sizes[size] for axis, size in free[name].items()} for name in names),),
            opset_version=opset,
            optimize=optimize,
            dynamo=True,
            verbose=False,
        )
    return clean(program.model_proto, model)


def torchscript(model, opset=17, attention="eager"):
    """The TorchScript exporter."""
    named = example(model, 2, 3, 5)
    names = list(named)
    buffer = io.BytesIO()
    with dressed(model, _forward(names), attention, trace=True):
        torch.onnx.export(
            model,
            tuple(named.values()),
            buffer,
            input_names=names,
            output_names=outputs(names),
            dynamic_axes=axes(names),
            opset_version=opset,
            dynamo=False,
        )
    return clean(onnx.load_from_string(buffer.getvalue()), model)


def optimum(model, opset=None, task="text-generation-with-past"):
    """optimum-onnx's export."""
    from optimum.exporters.onnx import onnx_export_from_model

    with tempfile.TemporaryDirectory() as folder:
        onnx_export_from_model(model, folder, task=task, opset=opset, do_validation=False)
        proto = onnx.load(os.path.join(folder, "model.onnx"))
    return clean(proto, model)


def clean(proto, model):
    """As `export.clean`, which knows one output: the others keep the shapes the exporter gave them."""
    others = list(proto.graph.output)
    (logits,) = (value for value in others if value.name == "logits")
    del proto.graph.output[:]
    proto.graph.output.append(logits)
    export.clean(proto, model)
    cleaned = proto.graph.output[0]
    kept = [cleaned if value.name == "logits" else value for value in others]
    copies = [onnx.ValueInfoProto.FromString(value.SerializeToString()) for value in kept]
    del proto.graph.output[:]
    for copy in copies:
        copy.doc_string = ""
        del copy.metadata_props[:]
        proto.graph.output.append(copy)
    return proto
