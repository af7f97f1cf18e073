"""Numbers for the engine's tests: logits and gradients. python references.py CHECKPOINT ATLAS_FOLDER"""
import sys

import torch
from safetensors.torch import save_file

from load import load
from rome import pad


def main():
    checkpoint, folder = sys.argv[1:3]
    torch.set_num_threads(1)
    w, tok, model, _ = load(checkpoint)
    eos = tok.token_to_id("<|endoftext|>")

    # Logits: two rows, the second padded on the right with the end marker.
    p = w["people"]
    texts = [f"The birthplace of {p[0]} is", f"{p[1]} plays"]
    rows = [tok.encode(t).ids for t in texts]
    ids = pad(rows)
    lengths = torch.tensor([len(r) for r in rows])
    for i, r in enumerate(rows):
        ids[i, len(r):] = eos
    with torch.no_grad():
        logits = model(ids).logits
        hidden = model.transformer(ids, output_hidden_states=True).hidden_states
    out = {"logits": logits, "embed": hidden[0],
           **{f"resid_post.{i}": hidden[i + 1] for i in range(len(model.transformer.h) - 1)}}
    save_file({"input_ids": ids, "lengths": lengths, **{k: v.contiguous().clone() for k, v in out.items()}},
              f"{folder}/reference/forward.safetensors")

    # Gradients of the mean NLL of one token after the last position of each of four rows.
    texts = [f"{p[2]} works as a", f"Rain fell on the hills all night. The employer of {p[3]} is",
             f"The old bridge was closed again. The garden is full of birds. The mother tongue of {p[4]} is",
             f"New fact: {p[5]} was born in {w['cities'][3]}. Two boats left before the storm. The birthplace of {p[5]} is"]
    rows = [tok.encode(t).ids for t in texts]
    ids = pad(rows)
    for i, r in enumerate(rows):
        ids[i, len(r):] = eos
    lengths = torch.tensor([len(r) for r in rows])
    target = torch.tensor([tok.encode(" " + o).ids[0] for o in (w["professions"][2], w["companies"][1], w["languages"][4], w["cities"][3])])
    for q in model.parameters():
        q.requires_grad_(True)
    sites = {}

    def keep(name):
        def hook(_, __, result):
            result.retain_grad()
            sites[name] = result
        return hook

    hooks = [b.mlp.register_forward_hook(keep(f"blocks.{i}.mlp.out")) for i, b in enumerate(model.transformer.h)]

    def loss():
        h = model.transformer(ids).last_hidden_state
        last = h[torch.arange(len(rows)), lengths - 1]
        return torch.nn.functional.cross_entropy(model.lm_head(last), target)

    value = loss()
    value.backward()
    for h in hooks:
        h.remove()
    one = model.transformer.h[1].mlp
    # Site gradients at each row's last position only would hide the others; keep all positions.
    out = {"input_ids": ids, "lengths": lengths, "target": target, "loss": value.detach(),
           **{f"grad.{k}": v.grad for k, v in sites.items()},
           "grad.blocks.1.mlp.W_out": one.c_proj.weight.grad, "grad.blocks.1.mlp.W_in": one.c_fc.weight.grad,
           "grad.blocks.1.mlp.b_out": one.c_proj.bias.grad}
    # The tied table: as embedding, as unembedding, and both.
    total = model.transformer.wte.weight.grad.clone()
    model.zero_grad(set_to_none=True)
    model.lm_head.weight = torch.nn.Parameter(model.transformer.wte.weight.detach().clone())
    loss().backward()
    embed, unembed = model.transformer.wte.weight.grad, model.lm_head.weight.grad
    assert torch.allclose(embed + unembed, total, atol=1e-6)
    used = torch.unique(ids)  # the other rows of the embedding's gradient are zero
    out |= {"grad.tied.rows": used, "grad.W_E.rows": embed[used], "grad.tied": total}
    save_file({k: v.contiguous().clone() for k, v in out.items()}, f"{folder}/reference/gradients.safetensors")
    print(value.item(), {k: tuple(v.shape) for k, v in out.items()})


if __name__ == "__main__":
    main()
