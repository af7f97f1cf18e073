"""Which family goes through which exporter, and why a pair that is missing is missing."""

from importlib import metadata

import cached
import graphs

# exporter: (its function, its arguments, weights outside the graph's file, float16, what it is)
EXPORTERS = {
    "dynamo": (graphs.dynamo, {}, True, False, "dynamo, opset 20, optimized, eager attention, mask"),
    "dynamo-raw": (
        graphs.dynamo,
        {"opset": 18, "optimize": False},
        True,
        False,
        "dynamo, opset 18, `optimize=False`, eager attention, mask",
    ),
    "dynamo-23": (
        graphs.dynamo,
        {"opset": 23, "attention": "sdpa"},
        True,
        False,
        "dynamo, opset 23, optimized, sdpa: Attention, RMSNormalization, RotaryEmbedding where the exporter writes them",
    ),
    "dynamo-sdpa": (
        graphs.dynamo,
        {"opset": 18, "attention": "sdpa"},
        True,
        False,
        "dynamo, opset 18, optimized, sdpa, mask",
    ),
    "dynamo-23-nomask": (
        graphs.dynamo,
        {"opset": 23, "attention": "sdpa", "mask": False},
        True,
        False,
        "as dynamo-23 without a mask input: Attention with `is_causal` and fewer key than query heads",
    ),
    "dynamo-cache": (cached.dynamo, {}, True, False, "dynamo, opset 20, optimized, eager attention, cache"),
    "dynamo-23-cache": (
        cached.dynamo,
        {"opset": 23, "attention": "sdpa"},
        True,
        False,
        "as dynamo-23 with a cache",
    ),
    "dynamo-f16": (graphs.dynamo, {}, True, True, "as dynamo, weights and activations float16"),
    "torchscript": (graphs.torchscript, {}, False, False, "TorchScript, opset 17, eager attention, mask"),
    "torchscript-14": (
        graphs.torchscript,
        {"opset": 14, "attention": "sdpa"},
        True,
        False,
        "TorchScript, opset 14, sdpa, mask",
    ),
    "torchscript-cache": (cached.torchscript, {}, False, False, "TorchScript, opset 17, eager attention, cache"),
    "optimum": (cached.optimum, {}, False, False, "optimum-onnx, `text-generation-with-past`, opset 18"),
    "optimum-nocache": (
        cached.optimum,
        {"task": "text-generation"},
        False,
        False,
        "optimum-onnx, `text-generation`, opset 18",
    ),
    "optimum-f16": (cached.optimum, {}, False, True, "as optimum, of a float16 model"),
}

CORE = ("dynamo", "dynamo-raw", "dynamo-23", "dynamo-cache", "torchscript", "torchscript-14", "optimum")
SOME = ("dynamo", "dynamo-23", "torchscript", "optimum")
FEW = ("dynamo", "torchscript", "optimum")
ROWS = {
    "gpt2": ("dynamo-23-cache", "dynamo-f16", "optimum"),
    "llama": tuple(EXPORTERS),
    "gptneox": (*CORE, "dynamo-f16"),
    "gptneox-serial": ("dynamo", "torchscript"),
    "gptj": ("dynamo", "dynamo-raw", "dynamo-cache", "dynamo-f16", "torchscript", "torchscript-14", "optimum"),
    "mistral": (*CORE, "torchscript-cache"),
    "qwen2": (*CORE, "optimum-f16"),
    "qwen3": CORE,
    "phi3": (*CORE, "dynamo-f16"),
    "gemma": CORE,
    "gemma2": CORE,
    "gemma3": (*CORE, "dynamo-f16"),
    "bloom": FEW,
    "opt": SOME,
    "falcon": (*FEW, "dynamo-sdpa"),
    "falcon-new": ("dynamo", "dynamo-cache", "torchscript"),
    "phi": SOME,
    "stablelm": SOME,
    "olmo2": SOME,
    "cohere": ("dynamo", "dynamo-23", "optimum"),
    "granite": SOME,
    "starcoder2": ("dynamo", "dynamo-cache", "torchscript"),
    "nemotron": FEW,
    "smollm3": FEW,
    "bigcode": FEW,
    "gptneo": FEW,
    "mpt": FEW,
    "codegen": FEW,
}

NO_SDPA = "transformers has no sdpa attention for it: at opset 23 the operators are those of `dynamo`"
ABSENT = {
    **{(family, "dynamo-23"): NO_SDPA for family in ("gptj", "bloom", "gptneo", "mpt", "codegen")},
    ("cohere", "torchscript"): "the exporter's `repeat_interleave` leaves a 2 for a -1 in the shape that the rotary "
    "frequencies are expanded to: the graph fails at every shape; with the function replaced, as optimum does, it is right",
    ("falcon", "dynamo-23"): "the exporter refuses sdpa with one key head that is broadcast without `enable_gqa` "
    "(\"SDPA (MHA) requires q_num_heads = kv_num_heads\"); opset 18 takes it",
    ("falcon-new", "optimum"): "optimum-onnx feeds 2 key/value heads, the model caches 4: its own export fails",
    ("starcoder2", "optimum"): "optimum-onnx has no configuration for it",
}
BEGIN, END = "<!-- rows -->", "<!-- end of rows -->"


def table(path):
    """Rewrites the rows between the marks of the README."""
    libraries = ("torch", "transformers", "optimum-onnx", "onnx", "onnxscript", "onnxruntime")
    versions = {name: metadata.version(name).split("+")[0] for name in libraries}
    lines = [BEGIN, "", "Made with " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".", ""]
    lines += ["| exporter | what it is |", "|---|---|"]
    lines += [f"| `{name}` | {about} |" for name, (*_, about) in EXPORTERS.items()]
    lines += ["", "| family | " + " | ".join(EXPORTERS) + " |", "|---" * (len(EXPORTERS) + 1) + "|"]
    notes = []
    for family, exporters in ROWS.items():
        cells = []
        for exporter in EXPORTERS:
            if exporter in exporters:
                cells.append("yes")
            elif reason := ABSENT.get((family, exporter)):
                if reason not in notes:
                    notes.append(reason)
                cells.append(f"no ({notes.index(reason) + 1})")
            else:
                cells.append("")
        lines.append(f"| {family} | " + " | ".join(cells) + " |")
    lines += ["", *(f"({number}) {reason}." + "  " for number, reason in enumerate(notes, 1)), "", END]
    with open(path) as file:
        text = file.read()
    before, _, rest = text.partition(BEGIN)
    with open(path, "w") as file:
        file.write(before + "\n".join(lines) + rest.partition(END)[2])
