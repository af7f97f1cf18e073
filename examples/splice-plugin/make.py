"""Makes `src/steer.onnx` (`pip install onnx`): what the plugin puts behind a block.

Where the stream points almost the way of a key, the value beside the key is added, in rows that see the patch of both.
"""

import pathlib

from onnx import TensorProto, checker, helper, save

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


def port(name, *extents):
    return helper.make_tensor_value_info(name, FLOAT, extents)


def node(op, inputs, output, **attributes):
    return helper.make_node(op, inputs, [output], **attributes)


graph = helper.make_graph(
    [
        node("Transpose", ["keys"], "across", perm=[1, 0]),
        node("MatMul", ["reads.0", "across"], "dots"),
        node("Mul", ["reads.0", "reads.0"], "squares"),
        node("ReduceSum", ["squares", "last"], "square", keepdims=1),
        node("Sqrt", ["square"], "norm"),
        node("Mul", ["norm", "cosine"], "least"),
        node("Greater", ["dots", "least"], "alike"),
        node("Cast", ["alike"], "chosen", to=FLOAT),
        node("Unsqueeze", ["keys.gate", "middle"], "seen"),
        node("Mul", ["chosen", "seen"], "open"),
        node("MatMul", ["open", "values"], "sum"),
        node("Add", ["reads.0", "sum"], "steered"),
    ],
    "steer",
    [
        port("reads.0", "rows", "columns", "width"),
        port("keys", "entries", "width"),
        port("values", "entries", "width"),
        port("keys.gate", "rows", "entries"),
    ],
    [port("steered", "rows", "columns", "width")],
    [
        helper.make_tensor("last", INT64, [1], [-1]),
        helper.make_tensor("middle", INT64, [1], [1]),
        helper.make_tensor("cosine", FLOAT, [], [0.99]),
    ],
)
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8, producer_name="engraft")
checker.check_model(model, full_check=True)
save(model, pathlib.Path(__file__).parent / "src/steer.onnx")
