"""Choose the preset on the training split, never on the evaluation records.
python tune.py CHECKPOINT [--records 40] [--layers 0 1 2]"""
import argparse
import json

import torch

from load import load, sample
from probe import argmax_hits, recall
from records import PREFIXES, counterfact
from rome import Editor, Settings


def main():
    a = argparse.ArgumentParser()
    a.add_argument("checkpoint")
    a.add_argument("--records", type=int, default=40)
    a.add_argument("--layers", type=int, nargs="*", default=[0, 1, 2])
    a.add_argument("--set", nargs="*", default=[], help="settings as JSON objects")
    a = a.parse_args()
    torch.set_num_threads(1)
    w, tok, model, step = load(a.checkpoint)
    print(json.dumps({"step": step, **recall(model, tok, w)}), flush=True)
    records, dropped = counterfact(w, "train", lambda pairs: argmax_hits(model, tok, pairs))
    print(json.dumps({"records": len(records), "not_recalled": len(dropped)}), flush=True)
    editor = Editor(model, tok, PREFIXES, sample(w))
    for layer in a.layers:
        for s in a.set or ["{}"]:
            s = {"layer": layer, **json.loads(s)}
            print(json.dumps({**s, **editor.shares(records[:a.records], Settings(**s))[0]}), flush=True)


if __name__ == "__main__":
    main()
