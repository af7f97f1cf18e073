"""Is the world fit for editing? And references for the engine: rank-one updates and measured shares.
python judge.py CHECKPOINT ATLAS_FOLDER LAYER   (after datasets.py; reads the committed data files)"""
import json
import sys

import torch
from safetensors.torch import save_file

from load import load
from rome import Editor, Settings

EVERY = 16  # records 0, 16, 32, ... are written out in full


def main():
    checkpoint, folder, layer = sys.argv[1], sys.argv[2], int(sys.argv[3])
    torch.set_num_threads(1)
    _, tok, model, _ = load(checkpoint)
    with open(f"{folder}/corpus.txt", encoding="utf-8") as f:
        corpus = f.read().splitlines()
    with open(f"{folder}/model/prefixes.json", encoding="utf-8") as f:
        prefixes = json.load(f)
    with open(f"{folder}/counterfact.json", encoding="utf-8") as f:
        records = json.load(f)
    editor = Editor(model, tok, prefixes, corpus)
    named = {"rome_second_moment": Settings(layer=layer), "r_rome_second_moment": Settings(layer=layer, key_policy="r_rome"),
             "rome_none": Settings(layer=layer, covariance="none")}
    tensors, told, chosen = {}, {}, [r["case_id"] for r in records[::EVERY]][:20]
    for name, s in named.items():
        rows, full = [], []
        for case in sorted({*range(100), *chosen}):
            shares, (left, right, more) = editor.measure(records[case], s)
            if case < 100:
                rows.append({"case_id": case, **shares})
            if case in chosen:
                full.append({"case_id": case, **shares, "denominator": more["denominator"], "v0_norm": more["v0"].norm().item(),
                             "delta_norm": more["delta"].norm().item(), "trace": more["trace"]})
                tensors |= {f"{name}.{case}.left": left.clone(), f"{name}.{case}.right": right.clone(),
                            f"{name}.{case}.key": more["key"].clone()}
        n = len(rows)
        mean = {k: round(100 * sum(r[k] for r in rows if r[k] is not None) / sum(r[k] is not None for r in rows), 2)
                for k in ("accuracy", "generalization", "locality")}
        told[name] = {"settings": vars(s), "records": n, "mean": mean, "cases": rows, "in_full": full}
        print(name, mean, flush=True)
    save_file(tensors, f"{folder}/reference/rome.safetensors")
    c = editor.second_moment(layer)
    told["second_moment"] = {"layer": layer, "trace": c.trace().item(), "frobenius": c.norm().item(),
                             "first": c[0, :4].tolist(), "tokens": sum(len(tok.encode(x).ids[:256]) for x in corpus)}
    with open(f"{folder}/reference/rome.json", "w", encoding="utf-8", newline="\n") as f:
        f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in told.items()) + "\n}\n")


if __name__ == "__main__":
    main()
