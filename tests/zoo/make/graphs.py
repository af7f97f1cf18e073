"""The exporters: a model in, an ONNX graph without a cache out. `cached.py` has those with one."""

import contextlib
import inspect
import io
import os
import sys
import warnings

import onnx
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "examples", "atlas", "make"))
import export  # noqa: E402

from families import POSITIONS  # noqa: E402


def example(model, batch, sequence, seed=0, mask=True):
    """Example inputs by name, rows after the first padded on the right; position ids only where the model takes them."""
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return export.inputs(batch, sequence, model.config.vocab_size, mask, takes, seed)


def dynamo(model, opset=20, optimize=True, attention="eager", mask=True, fuse=False):
    """The dynamo exporter; `fuse` runs onnxscript's fusions into the operators of opset 23 as well."""
    named = example(model, 2, 5, mask=mask)
    batch = torch.export.Dim("batch", min=1)
    sequence = torch.export.Dim("sequence", min=1, max=POSITIONS)
    with export._prepared(model, list(named), attention, trace=False):
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
    if fuse:
        from onnxscript.rewriter import onnx_fusions

        print("   fused:", onnx_fusions.fuse(program.model))
        program.optimize()
    return export.clean(program.model_proto, model)


def torchscript(model, opset=17, attention="eager", mask=True):
    """The TorchScript exporter."""
    named = example(model, 2, 5, mask=mask)
    buffer = io.BytesIO()
    with export._prepared(model, list(named), attention, trace=True):
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
    return export.clean(onnx.load_from_string(buffer.getvalue()), model)
