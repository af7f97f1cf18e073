"""A checkpoint of train.py, its tokenizer and its world."""
import torch
from tokenizers import Tokenizer

import world
from corpus import EOS, Writer
from train import fresh


def load(folder):
    tok = Tokenizer.from_file(f"{folder}/tokenizer.json")
    kept = torch.load(f"{folder}/last.pt", map_location="cpu", weights_only=True)
    model = fresh(kept["width"], tok.token_to_id(EOS))
    model.load_state_dict(kept["model"])
    return world.build(), tok, model.eval(), kept["step"]


def sample(w, documents=4000):
    """The committed sample of the training text: one document a line."""
    writer = Writer(w, 11)
    return [" ".join(writer.document()) for _ in range(documents)]
