"""Makes the model that methods are held to the laws on, from a graph of the zoo: `python3 make.py`.

The graph is a plain decoder with random weights (three layers, hidden 32, rotary positions, biases everywhere); its 128
tokens are the end of a text, the printable characters of ASCII, the line's end, and the pairs that are most frequent in
`corpus.txt`.
"""

import collections
import json
import pathlib
import re
import shutil

HERE = pathlib.Path(__file__).parent
ZOO = HERE.parents[3] / "tests/zoo/gptneox-serial-dynamo"
VOCAB = 128
END = "<|endoftext|>"


def spelled(char):
    """A character as byte-level tokenizers write it."""
    return {" ": "\u0120", "\n": "\u010a"}.get(char, char)


def merges(text, count):
    words = collections.Counter(tuple(map(spelled, word)) for word in re.findall(r" ?[A-Za-z]+", text))
    found = []
    while len(found) < count:
        pairs = collections.Counter()
        for word, times in words.items():
            for pair in zip(word, word[1:]):
                pairs[pair] += times
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        found.append(best)
        merged = collections.Counter()
        for word, times in words.items():
            new, at = [], 0
            while at < len(word):
                step = 2 if word[at : at + 2] == best else 1
                new.append("".join(word[at : at + step]))
                at += step
            merged[tuple(new)] += times
        words = merged
    return found


def main():
    letters = [spelled(char) for char in ["\n", *map(chr, range(32, 127))]]
    pairs = merges((HERE / "corpus.txt").read_text(), VOCAB - 1 - len(letters))
    tokens = [END, *letters, *map("".join, pairs)]
    assert len(tokens) == len(set(tokens)) == VOCAB
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": False, "use_regex": True}
    special = {"id": 0, "content": END, "special": True, "normalized": False}
    tokenizer = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [special | {"single_word": False, "lstrip": False, "rstrip": False}],
        "normalizer": None,
        "pre_tokenizer": level,
        "post_processor": level,
        "decoder": level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": END,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: index for index, token in enumerate(tokens)},
            "merges": [list(pair) for pair in pairs],
        },
    }
    (HERE / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1) + "\n")
    for name in ["config.json", "model.onnx", "model.onnx.data"]:
        shutil.copyfile(ZOO / name, HERE / name)


main()
