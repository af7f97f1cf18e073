"""What the model knows: argmax recall of taught and held-out phrasings, and in-context overrides."""
import random

import torch

from world import RELATIONS, taught


@torch.no_grad()
def argmax_hits(model, tok, pairs, batch=128, fraction=False):
    """For each (prompt, object): is every token of " object" the argmax given those before it?"""
    rows = [(tok.encode(p).ids, tok.encode(" " + o).ids) for p, o in pairs]
    out = [None] * len(rows)
    order = sorted(range(len(rows)), key=lambda i: len(rows[i][0]) + len(rows[i][1]))
    for at in range(0, len(order), batch):
        part = order[at:at + batch]
        longest = max(len(rows[i][0]) + len(rows[i][1]) for i in part)
        ids = torch.zeros(len(part), longest, dtype=torch.long)
        for j, i in enumerate(part):
            p, t = rows[i]
            ids[j, :len(p) + len(t)] = torch.tensor(p + t)
        best = model(ids).logits.argmax(-1)
        for j, i in enumerate(part):
            p, t = rows[i]
            out[i] = best[j, len(p) - 1:len(p) + len(t) - 1].tolist() == t
    return out


def recall(model, tok, w, n=500):
    rng = random.Random(5)
    facts = sorted(w["facts"])
    seen, held, override = [], [], []
    for key in rng.sample(facts, min(n, len(facts))):
        free = [i for i in range(6) if w["held_out"].get(key) != i]
        seen.append((RELATIONS[key[1]][1][rng.choice(free)].format(key[0]), taught(w, *key)))
    for key in rng.sample(sorted(w["held_out"]), min(n, len(w["held_out"]))):
        held.append((RELATIONS[key[1]][1][w["held_out"][key]].format(key[0]), taught(w, *key)))
    for key in rng.sample(facts, 200):
        p = RELATIONS[key[1]][1]
        new = rng.choice(w["objects"][key[1]])
        override.append((f"New fact: {rng.choice(p).format(key[0])} {new}. {rng.choice(p).format(key[0])}", new))
    return {k: round(sum(h) / len(h), 4) for k, h in (
        ("recall", argmax_hits(model, tok, seen)), ("held_out", argmax_hits(model, tok, held)),
        ("override", argmax_hits(model, tok, override)))}
