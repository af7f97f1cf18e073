"""The exporters: a model in, an ONNX graph without a cache out. `cached.py` has those with one."""

import contextlib
import inspect
import io
import os
import sys
import warnings

import onnx
import torch
from transformers import masking_utils

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "..", "..", "examples", "atlas", "make"))
import export  # noqa: E402

from families import POSITIONS  # noqa: E402


def example(model, batch, sequence, seed=0, mask=True):
    """Example inputs by name, rows after the first padded on the right; position ids only where the model takes them."""
    takes = "position_ids" in inspect.signature(model.forward).parameters
    return export.inputs(batch, sequence, model.config.vocab_size, mask, takes, seed)


def allowed(batch_size, cache_position, kv_length, kv_offset=0, mask_function=None, attention_mask=None, **_):
    """Transformers' boolean mask by broadcasting instead of functorch's vmap, which torch.jit.trace cannot follow."""
    function = mask_function or masking_utils.causal_mask_function
    padding = masking_utils.prepare_padding_mask(attention_mask, kv_length, kv_offset, _slice=False)
    if padding is not None:
        function = masking_utils.and_masks(function, masking_utils.padding_mask_function(padding))
    rows = torch.arange(batch_size)[:, None, None, None]
    keys = torch.arange(kv_length)[None, None, None, :] + kv_offset
    queries = cache_position[None, None, :, None]
    mask = function(rows, torch.zeros(1, 1, 1, 1, dtype=torch.int64), queries, keys)
    return mask.expand(batch_size, 1, cache_position.shape[0], kv_length)


def added(*args, dtype=torch.float32, **kwargs):
    """The same as a term added to the scores."""
    return torch.where(allowed(*args, **kwargs), torch.zeros((), dtype=dtype), torch.finfo(dtype).min)


@contextlib.contextmanager
def dressed(model, forward, attention, trace):
    """The model in its export dress: the wanted attention, `forward(kind)` as its forward, masks that can be traced."""
    if getattr(model.config, "attn_logit_softcapping", None):
        attention = "eager"  # transformers' sdpa leaves the soft cap out
    kind, used = model.__class__, model.config._attn_implementation
    masks = masking_utils.ALL_MASK_ATTENTION_FUNCTIONS
    try:
        model.set_attn_implementation(attention)
        model.__class__ = type(kind.__name__, (kind,), {"forward": forward(kind), "__module__": kind.__module__})
        if trace:
            masks["eager"], masks["sdpa"] = added, allowed
        with torch.no_grad(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        if trace:
            del masks["eager"], masks["sdpa"]
        model.__class__ = kind
        model.set_attn_implementation(used)


def _forward(names):
    """A forward method which takes the graph's inputs in order and gives the logits alone."""

    def of(kind):
        def forward(self, *values):
            named = dict(zip(names, values, strict=True))
            return kind.forward(self, **named, use_cache=False, return_dict=True).logits

        return forward

    return of


def dynamo(model, opset=20, optimize=True, attention="eager", mask=True):
    """The dynamo exporter. At opset 23 it fuses norms, rotary embeddings and (over `sdpa`) attention by itself."""
    named = example(model, 2, 5, mask=mask)
    batch = torch.export.Dim("batch", min=1)
    sequence = torch.export.Dim("sequence", min=1, max=POSITIONS)
    with dressed(model, _forward(list(named)), attention, trace=False):
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
    return export.clean(program.model_proto, model)


def torchscript(model, opset=17, attention="eager", mask=True):
    """The TorchScript exporter."""
    named = example(model, 2, 5, mask=mask)
    buffer = io.BytesIO()
    with dressed(model, _forward(list(named)), attention, trace=True):
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
