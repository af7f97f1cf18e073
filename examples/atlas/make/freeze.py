"""Write the model folder from a checkpoint. python freeze.py CHECKPOINT ATLAS_FOLDER"""
import json
import os
import shutil
import sys

import torch

from export import check, export
from load import load
from records import PREFIXES


def main():
    checkpoint, folder = sys.argv[1:3]
    torch.set_num_threads(1)
    _, _, model, _ = load(checkpoint)
    out = f"{folder}/model"
    os.makedirs(out, exist_ok=True)
    paths = export(model, out)
    shutil.copyfile(f"{checkpoint}/tokenizer.json", f"{out}/tokenizer.json")
    model.config.architectures = ["GPT2LMHeadModel"]
    model.config.save_pretrained(out)
    model.generation_config.save_pretrained(out)
    with open(f"{out}/tokenizer_config.json", "w", encoding="utf-8", newline="\n") as f:
        end = "<|endoftext|>"
        json.dump({"tokenizer_class": "GPT2TokenizerFast", "bos_token": end, "eos_token": end, "unk_token": end,
                   "add_prefix_space": False, "model_max_length": 256, "clean_up_tokenization_spaces": False}, f, indent=2)
        f.write("\n")
    with open(f"{out}/prefixes.json", "w", encoding="utf-8", newline="\n") as f:
        json.dump(PREFIXES, f, indent=0)
        f.write("\n")
    for p in paths:
        print(p, check(model, p))


if __name__ == "__main__":
    main()
