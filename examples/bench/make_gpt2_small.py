"""Makes a model of GPT-2 small's shape with random weights, to measure with: no download, no meaning.

`python make_gpt2_small.py FOLDER [--cache]` writes model.onnx, model.onnx.data (some 650 MB), config.json
and a tokenizer.json: byte-level BPE, the 256 bytes and a few merges, so every text can be tokenized and
every id is below 50257. With `--cache` the graph takes cached keys and values and gives them back. Needs
torch, transformers 4.57, onnx, onnxscript, onnxruntime and tokenizers.
"""

import json
import os
import sys

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "atlas", "make"))
import export  # noqa: E402

TEXT = [
    "The city of the old river lies to the north, and the people there speak the language of the sea.",
    "Her mother was born in the capital of the country; he works in the mother city and plays the violin.",
    "There are a thousand ships in the harbour. Where is the tower? The tower is in the centre of the town.",
]


def tokenizer():
    """Byte-level BPE of the 256 bytes, one end-of-text token, and the merges of three sentences."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    made.train_from_iterator(TEXT, trainer)
    return made


def main():
    cached = "--cache" in sys.argv[1:]
    folders = [argument for argument in sys.argv[1:] if argument != "--cache"]
    if len(folders) != 1:
        raise SystemExit("usage: python make_gpt2_small.py FOLDER [--cache]")
    (folder,) = folders
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "2")))
    torch.manual_seed(0)
    # transformers draws GPT-2's own initialisation: std 0.02, the residual projections less by sqrt(2 layers).
    model = GPT2LMHeadModel(GPT2Config(use_cache=False, bos_token_id=0, eos_token_id=0)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            if value.ndim == 1:  # biases 0 and norms 1 would be equal tensors, which exporters merge
                value.add_(0.02 * torch.randn(value.shape))
    if cached:
        path = export.export_cached(model, folder)
    else:
        (path,) = export.export(model, folder, both=False)
    tokenizer().save(os.path.join(folder, "tokenizer.json"))
    config = {k: v for k, v in model.config.to_diff_dict().items() if k not in ("torch_dtype", "dtype")}
    with open(os.path.join(folder, "config.json"), "w") as file:
        json.dump(config | {"architectures": ["GPT2LMHeadModel"]}, file, indent=2, sort_keys=True)
        file.write("\n")
    worst = export.check_cached(model, path) if cached else export.check(model, path, shapes=((1, 1), (4, 35)))
    sizes = {name: os.path.getsize(os.path.join(folder, name)) for name in sorted(os.listdir(folder))}
    print(f"off by at most {worst:.1e}; bytes: {json.dumps(sizes)}")


if __name__ == "__main__":
    main()
