"""Makes the zoo: `python tests/zoo/make [FOLDER or FAMILY ...]`, everything when nothing is named.

Each graph is run in ONNX Runtime against PyTorch before it is kept; a folder over the limit is refused. The same
versions of the libraries give the same bytes. `gpt2.py` beside this file makes the GPT-2 rows.
"""

import fnmatch
import json
import os
import shutil
import sys

import torch
from safetensors.torch import load_file

import check
import families
import gpt2
import graphs
import record
import rows
from graphs import export

ZOO = os.path.join(graphs.HERE, "..")
LIMIT = 300 * 1024

def without_scopes(proto):
    """Drops the names of PyTorch's modules from the nodes: for graphs that would be too large with them."""
    for node in proto.graph.node:
        del node.metadata_props[:]


def folder(family, exporter):
    """Exports one row, checks it, and only then puts it in its place."""
    name = f"{family}-{exporter}"
    function, arguments, outside, half, _ = rows.EXPORTERS[exporter]
    model = families.tiny(family, arguments.get("attention", "eager"))
    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in ("torch_dtype", "dtype")}
    config["architectures"] = [type(model).__name__]
    if half:
        model.half()
    made = os.path.join(ZOO, ".making-" + name)
    shutil.rmtree(made, ignore_errors=True)
    os.makedirs(made)
    try:
        path = os.path.join(made, "model.onnx")
        proto = function(model, **arguments)
        if proto.ByteSize() > LIMIT - 2048:
            without_scopes(proto)
        if outside:
            export.externalise([proto], path + ".data")
        export.write(proto, path)
        with open(os.path.join(made, "config.json"), "w") as file:
            json.dump(config, file, indent=2, sort_keys=True)
            file.write("\n")
        worst = check.graph(model.float(), path, 6e-2 if half else 1e-4)
        kept = load_file(os.path.join(ZOO, f"{family}.safetensors"))
        worst = max(worst, check.recorded(path, kept, half, 6e-2 if half else 1e-4))
        size = sum(os.path.getsize(os.path.join(made, f)) for f in os.listdir(made))
        if size > (gpt2.LIMIT if family == "gpt2" else LIMIT):
            raise ValueError(f"{size} bytes, over the limit")
        place = os.path.join(ZOO, name)
        shutil.rmtree(place, ignore_errors=True)
        os.rename(made, place)
        print(f"{name}: {size} bytes, off by at most {worst:.1e}", flush=True)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def main(wanted):
    torch.set_num_threads(1)
    failed = 0
    if not wanted or "gpt2" in wanted:
        gpt2.main()
    for family in families.FAMILIES:
        if not wanted or family in wanted:
            record.write(family, ZOO)
    for family, exporters in rows.ROWS.items():
        for exporter in exporters:
            name = f"{family}-{exporter}"
            if wanted and not any(fnmatch.fnmatch(name, w) or w == family for w in wanted):
                continue
            try:
                folder(family, exporter)
            except Exception as error:  # every row is tried; the list of failures is the answer
                failed += 1
                print(f"{name}: {type(error).__name__}: {str(error)[:600]}", flush=True)
    rows.table(os.path.join(ZOO, "README.md"))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main(sys.argv[1:])
