"""Makes a model of Llama's shape with random weights, to measure loading, memory and anatomy with.

`python make_llama.py FOLDER [--layers 22 --hidden 2048 --heads 32 --kv-heads 4 --inner 5632 --vocab 32000]
[--hollow]` writes model.onnx and model.onnx.data: float32, 1.1 billion parameters (4.4 GB) unless other
sizes are given. The graph is written node by node: RMS norms, rotary embeddings and grouped queries in
elementary operators, anonymous weights `[in, out]`. With `--hollow` the data file is a hole of the right
size: every weight is zero and takes no room on the disk. Needs onnx and numpy.
"""

import argparse
import os

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Writer:
    """A graph and its data file, while they grow."""

    def __init__(self, data, hollow):
        self.nodes, self.initializers = [], []
        self.data, self.hollow, self.offset = data, hollow, 0
        self.random = np.random.default_rng(0)
        self.count = 0

    def weight(self, *shape, scale=0.02, ones=False):
        """A float32 tensor in the data file."""
        self.count += 1
        tensor = TensorProto(name=f"val_{self.count}", data_type=TensorProto.FLOAT, dims=shape)
        tensor.data_location = TensorProto.EXTERNAL
        length = 4 * int(np.prod(shape))
        place = {"location": os.path.basename(self.data.name), "offset": str(self.offset), "length": str(length)}
        for key, value in place.items():
            tensor.external_data.add(key=key, value=value)
        if not self.hollow:
            for _ in range(shape[0] if len(shape) > 1 else 1):
                row = self.random.standard_normal(shape[-1], dtype=np.float32) * np.float32(scale)
                self.data.write((row + np.float32(1 if ones else 0)).tobytes())
        self.offset += length
        padding = -self.offset % 4096
        if not self.hollow:
            self.data.write(b"\0" * padding)
        self.offset += padding
        self.initializers.append(tensor)
        return tensor.name

    def constant(self, value):
        self.count += 1
        name = f"const_{self.count}"
        self.initializers.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def op(self, op, *inputs, outputs=1, **attributes):
        self.count += 1
        names = [f"edge_{self.count}_{i}" for i in range(outputs)]
        self.nodes.append(helper.make_node(op, list(inputs), names, name=f"node_{self.count}", **attributes))
        return names[0] if outputs == 1 else names


def decoder(writer, sizes):
    """The nodes from `input_ids` and `position_ids` to `logits`."""
    w, op, const = writer.weight, writer.op, writer.constant
    width, head = sizes.hidden, sizes.hidden // sizes.heads
    half, f32 = head // 2, np.float32
    two, minus, eps = const(f32(2)), const(np.array([-1])), const(f32(1e-5))

    def norm(x):
        mean = op("ReduceMean", op("Pow", x, two), minus, keepdims=1)
        return op("Mul", op("Mul", x, op("Reciprocal", op("Sqrt", op("Add", mean, eps)))), w(width, scale=0.1, ones=True))

    # Rotary tables [batch, 1, pos, head].
    frequencies = const((10000.0 ** (-np.arange(half, dtype=np.float64) / half)).astype(f32).reshape(1, 1, half))
    positions = op("Cast", op("Unsqueeze", "position_ids", const(np.array([2]))), to=TensorProto.FLOAT)
    angles = op("Mul", positions, frequencies)
    angles = op("Unsqueeze", op("Concat", angles, angles, axis=2), const(np.array([1])))
    cos, sin = op("Cos", angles), op("Sin", angles)
    halves = const(np.array([half, half]))

    def rotary(x):
        first, second = op("Split", x, halves, outputs=2, axis=3)
        turned = op("Concat", op("Neg", second), first, axis=3)
        return op("Add", op("Mul", x, cos), op("Mul", turned, sin))

    # A causal mask [pos, pos], and padding [batch, 1, 1, pos].
    length = op("Gather", op("Shape", "input_ids"), const(np.array(1)))
    row = op("Range", const(np.array(0)), length, const(np.array(1)))
    later = op("Greater", op("Unsqueeze", row, const(np.array([0]))), op("Unsqueeze", row, const(np.array([1]))))
    causal = op("Where", later, const(f32(-1e9)), const(f32(0)))
    padding = op("Equal", op("Unsqueeze", "attention_mask", const(np.array([1, 2]))), const(np.array(0)))
    mask = op("Add", causal, op("Where", padding, const(f32(-1e9)), const(f32(0))))

    def heads(x, n):
        return op("Transpose", op("Reshape", x, const(np.array([0, 0, n, head]))), perm=[0, 2, 1, 3])

    groups = sizes.heads // sizes.kv_heads
    shape = op("Shape", "input_ids")
    grouped = op("Concat", op("Gather", shape, const(np.array([0]))), const(np.array([sizes.kv_heads, groups])),
                 op("Gather", shape, const(np.array([1]))), const(np.array([head])), axis=0)
    whole = op("Concat", op("Gather", shape, const(np.array([0]))), const(np.array([sizes.heads])),
               op("Gather", shape, const(np.array([1]))), const(np.array([head])), axis=0)

    def repeated(x):
        return op("Reshape", op("Expand", op("Unsqueeze", x, const(np.array([2]))), grouped), whole)

    table = w(sizes.vocab, width)
    stream = op("Gather", table, "input_ids")
    scale = const(f32(head**-0.5))
    for _ in range(sizes.layers):
        x = norm(stream)
        q, k, v = (op("MatMul", x, w(width, n * head)) for n in (sizes.heads, sizes.kv_heads, sizes.kv_heads))
        q, k = rotary(heads(q, sizes.heads)), rotary(heads(k, sizes.kv_heads))
        k, v = repeated(k), repeated(heads(v, sizes.kv_heads))
        scores = op("Add", op("Mul", op("MatMul", q, op("Transpose", k, perm=[0, 1, 3, 2])), scale), mask)
        z = op("Transpose", op("MatMul", op("Softmax", scores, axis=-1), v), perm=[0, 2, 1, 3])
        z = op("Reshape", z, const(np.array([0, 0, width])))
        stream = op("Add", stream, op("MatMul", z, w(width, width)))
        x = norm(stream)
        gate = op("MatMul", x, w(width, sizes.inner))
        up = op("MatMul", x, w(width, sizes.inner))
        post = op("Mul", op("Mul", gate, op("Sigmoid", gate)), up)
        stream = op("Add", stream, op("MatMul", post, w(sizes.inner, width)))
    logits = op("MatMul", norm(stream), w(width, sizes.vocab))
    writer.nodes.append(helper.make_node("Identity", [logits], ["logits"], name="head"))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder")
    for name, value in [("layers", 22), ("hidden", 2048), ("heads", 32), ("kv-heads", 4), ("inner", 5632), ("vocab", 32000)]:
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--hollow", action="store_true")
    sizes = parser.parse_args()
    os.makedirs(sizes.folder, exist_ok=True)
    with open(os.path.join(sizes.folder, "model.onnx.data"), "wb") as data:
        writer = Writer(data, sizes.hollow)
        decoder(writer, sizes)
        data.truncate(writer.offset)
    inputs = [helper.make_tensor_value_info(n, TensorProto.INT64, ["batch", "pos"])
              for n in ("input_ids", "attention_mask", "position_ids")]
    outputs = [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", "pos", sizes.vocab])]
    graph = helper.make_graph(writer.nodes, "decoder", inputs, outputs, writer.initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, os.path.join(sizes.folder, "model.onnx"))
    print(f"{len(writer.nodes)} nodes, {writer.offset / 1e9:.2f} GB of weights")


if __name__ == "__main__":
    main()
