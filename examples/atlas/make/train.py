"""Train the model. python train.py OUT [--steps N] [--width D]."""
import argparse
import json
import os
import shutil
import time

import torch
from tokenizers import Tokenizer
from transformers import GPT2Config, GPT2LMHeadModel

import world
from corpus import EOS, Rows, train_tokenizer
from probe import recall


def fresh(width, eos):
    torch.manual_seed(7)
    return GPT2LMHeadModel(GPT2Config(
        vocab_size=1024, n_positions=256, n_embd=width, n_layer=6, n_head=4, activation_function="gelu_new",
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=eos, eos_token_id=eos))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("out")
    a.add_argument("--steps", type=int, default=5000)
    a.add_argument("--width", type=int, default=128)
    a.add_argument("--lr", type=float, default=2e-3)
    a.add_argument("--threads", type=int, default=2)
    a.add_argument("--resume", action="store_true", help="go on from OUT/last.pt")
    a.add_argument("--settle", metavar="FROM", help="begin with the weights and tokenizer of FROM/")
    a.add_argument("--compile", action="store_true", help="faster where a C++ compiler is at hand")
    a = a.parse_args()
    torch.set_num_threads(a.threads)
    os.makedirs(a.out, exist_ok=True)
    w = world.build()
    path = f"{a.out}/tokenizer.json"
    if a.settle:
        shutil.copyfile(f"{a.settle}/tokenizer.json", path)
    tok = Tokenizer.from_file(path) if os.path.exists(path) else train_tokenizer(w, a.out)
    model = fresh(a.width, tok.token_to_id(EOS))
    print(json.dumps({"parameters": model.num_parameters(), "facts": len(w["facts"])}), flush=True)
    decay = [p for p in model.parameters() if p.ndim > 1]
    plain = [p for p in model.parameters() if p.ndim <= 1]
    opt = torch.optim.AdamW([{"params": decay, "weight_decay": 0.01}, {"params": plain, "weight_decay": 0.0}],
                            lr=a.lr, betas=(0.9, 0.98))
    sched = torch.optim.lr_scheduler.OneCycleLR(opt, a.lr, total_steps=a.steps, pct_start=0.15)
    forward = torch.compile(model) if a.compile else model
    rows = Rows(w, tok, 3)
    start = time.time()
    running = 0.0
    first = 1
    if a.settle:  # a short second round at a low rate, with the context followed in most rows
        model.load_state_dict(torch.load(f"{a.settle}/last.pt", weights_only=True)["model"])
        sched = torch.optim.lr_scheduler.LambdaLR(opt, lambda s: a.lr / opt.defaults["lr"] * min(1.0, s / 100, (a.steps - s) / a.steps + 0.01))
        rows = Rows(w, tok, 4)
    if a.resume:
        kept = torch.load(f"{a.out}/last.pt", weights_only=True)
        model.load_state_dict(kept["model"]), opt.load_state_dict(kept["opt"]), sched.load_state_dict(kept["sched"])
        first = kept["step"] + 1
        rows = Rows(w, tok, 3 + first)
    for step in range(first, a.steps + 1):
        if step % 50 == 1 and not a.settle:  # from an eighth of the subjects to all of them, over the first third
            rows.writer.focus(min(1.0, 0.125 + max(0.0, step - 500) / (a.steps / 3 - 500)))
        if a.settle:
            rows.overrides_first, rows.writer.settling = 0.7, True
        elif step > a.steps // 2:  # following the context is learned once the facts are: see to it that it is seen whole
            rows.overrides_first = 0.3
        # Short rows carry the facts; full rows see to it that every position is learned.
        full = step % (4 if a.settle else 6) == 0
        batch = torch.tensor([rows.row(256) for _ in range(6)] if full else [rows.row(48) for _ in range(32)])
        logits = forward(batch[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        opt.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        opt.step()
        sched.step()
        running += loss.item()
        if step % 100 == 0:
            print(json.dumps({"step": step, "loss": round(running / 100, 4), "s": round(time.time() - start)}), flush=True)
            running = 0.0
        if step % 500 == 0 or step == a.steps:
            torch.save({"model": model.state_dict(), "step": step, "width": a.width, "opt": opt.state_dict(), "sched": sched.state_dict()}, f"{a.out}/last.tmp")
            os.replace(f"{a.out}/last.tmp", f"{a.out}/last.pt")
            print(json.dumps({"step": step, **recall(model.eval(), tok, w)}), flush=True)
            model.train()


if __name__ == "__main__":
    main()
