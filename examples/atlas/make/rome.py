"""A plain PyTorch ROME for GPT-2: the independent second opinion by which the world was judged.

Same steps as the original code: key = mean over templates of the input of `mlp.c_proj` at the last subject
token; value by Adam on one vector added to the MLP's output there; rank-one update. Prefixes are given, not sampled.
"""
import json
from dataclasses import dataclass, replace

import torch


@dataclass
class Settings:
    layer: int = 0
    covariance: str = "second_moment"  # or "none"
    key_policy: str = "rome"           # or "r_rome": the mean key and mean output also in the update
    steps: int = 20                    # steps - 1 updates: the last only measures
    lr: float = 0.5
    weight_decay: float = 0.5
    clamp: float = 4.0
    kl: float = 0.0625
    stop_below: float = 0.05


class Editor:
    def __init__(self, model, tok, prefixes, corpus):
        self.model, self.tok, self.prefixes, self.corpus = model.eval(), tok, prefixes, corpus
        for p in model.parameters():
            p.requires_grad_(False)
        self.moments = {}

    def lines(self, batch=64, width=256):
        ids = sorted((self.tok.encode(line).ids[:width] for line in self.corpus), key=len)
        for at in range(0, len(ids), batch):
            part = ids[at:at + batch]
            yield part, pad(part)

    @torch.no_grad()
    def second_moment(self, layer):
        """E[k k^T] over every token of the corpus, in float64; one document a line."""
        if layer not in self.moments:
            total, count, seen = None, 0, []
            hook = self.model.transformer.h[layer].mlp.c_proj.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
            for part, ids in self.lines():
                seen.clear()
                self.model.transformer(ids)
                k = torch.cat([seen[0][i, :len(r)] for i, r in enumerate(part)]).double()
                total = k.T @ k if total is None else total + k.T @ k
                count += len(k)
            hook.remove()
            self.moments[layer] = total / count
        return self.moments[layer]

    def last_subject_token(self, template, subject):
        """Ids of the filled template, and the last token whose characters meet the subject's."""
        start = template.index("{}")
        e = self.tok.encode(template.replace("{}", subject))
        end = start + len(subject)
        return e.ids, max(i for i, (a, b) in enumerate(e.offsets) if a < end and b > start)

    def edit(self, request, s):
        """The rank-one update of one request: (left [d_mlp], right [d_model]) with W[in, out] += left right^T."""
        subject, prompt = request["subject"], request["prompt"]
        target = self.tok.encode(" " + request["target_new"]["str"]).ids
        templates = ["{}"] + self.prefixes
        tail = self.tok.decode(target[:-1])
        mlp = self.model.transformer.h[s.layer].mlp

        # The key: mean over the templates.
        rows = [self.last_subject_token(t.replace("{}", prompt), subject) for t in templates]
        keys, outs = self.at_subject(mlp, rows)
        key = keys.mean(0)
        left = torch.linalg.solve(self.second_moment(s.layer), key.double()).float() if s.covariance == "second_moment" else key
        left = left / left.norm()

        # The value.
        rows = [self.last_subject_token(t.replace("{}", prompt) + tail, subject) for t in templates]
        rows.append(self.last_subject_token("{} is a", subject))
        ids, at = pad([r[0] for r in rows]), torch.tensor([r[1] for r in rows])
        every, lengths = torch.arange(len(rows)), [len(r[0]) for r in rows]
        n = len(templates)
        delta = torch.zeros(outs.shape[1], requires_grad=True)
        v0 = outs[0]
        places = torch.tensor([[lengths[i] - len(target) + j for j in range(len(target))] for i in range(n)])
        labels = torch.tensor(target).expand(n, -1)

        def add(_, __, out):
            out = out.clone()
            out[every, at] += delta
            return out

        opt = torch.optim.Adam([delta], lr=s.lr)
        log_p0, trace = None, []
        hook = mlp.register_forward_hook(add)
        for step in range(s.steps):
            opt.zero_grad()
            hidden = self.model.transformer(ids).last_hidden_state
            log_p = self.model.lm_head(hidden[torch.arange(n)[:, None], places]).log_softmax(-1)
            nll = -log_p.gather(2, labels[..., None]).squeeze(2).mean(1).mean()
            q = self.model.lm_head(hidden[n, at[n]]).log_softmax(-1)
            log_p0 = q.detach() if log_p0 is None else log_p0
            kl = s.kl * torch.nn.functional.kl_div(log_p0[None], q[None], log_target=True, reduction="batchmean")
            wd = s.weight_decay * delta.norm() / v0.norm() ** 2
            loss = nll + kl + wd
            trace.append({"loss": loss.item(), "nll": nll.item(), "kl": kl.item(), "wd": wd.item()})
            if loss < s.stop_below or step == s.steps - 1:
                break
            loss.backward()
            opt.step()
            with torch.no_grad():
                most = s.clamp * v0.norm()
                if delta.norm() > most:
                    delta.mul_(most / delta.norm())
        hook.remove()
        delta = delta.detach()

        # The update.
        if s.key_policy == "rome":
            cur_in, cur_out = keys[0], outs[0]
        else:
            cur_in, cur_out = keys.mean(0), outs.mean(0)
        right = (v0 + delta - cur_out) / (cur_in @ left)
        return left, right, {"key": key, "delta": delta, "v0": v0, "denominator": (cur_in @ left).item(), "trace": trace}

    @torch.no_grad()
    def at_subject(self, mlp, rows):
        seen = {}
        h = [mlp.c_proj.register_forward_hook(lambda _, a, out: seen.update(key=a[0], out=out))]
        self.model.transformer(pad([r[0] for r in rows]))
        h[0].remove()
        every, at = torch.arange(len(rows)), torch.tensor([r[1] for r in rows])
        return seen["key"][every, at], seen["out"][every, at]

    @torch.no_grad()
    def best(self, pairs):
        """Teacher-forced argmax at every target position, and the targets, for (prompt, object) pairs."""
        rows = [(self.tok.encode(p).ids, self.tok.encode(" " + o).ids) for p, o in pairs]
        ids = pad([p + t for p, t in rows])
        best = self.model(ids).logits.argmax(-1)
        return [(best[i, len(p) - 1:len(p) + len(t) - 1].tolist(), t) for i, (p, t) in enumerate(rows)]

    def measure(self, record, s):
        r = record["requested_rewrite"]
        subject, new, true = r["subject"], r["target_new"]["str"], r["target_true"]["str"]
        asked = [(r["prompt"].replace("{}", subject), new)] + [(p, new) for p in record["paraphrase_prompts"]]
        near = [(p, true) for p in record["neighborhood_prompts"]]
        before = self.best(near) if near else []
        left, right, more = self.edit({**r}, s)
        w = self.model.transformer.h[s.layer].mlp.c_proj.weight
        kept = w.clone()
        with torch.no_grad():
            w += torch.outer(left, right)
        hits = [b == t for b, t in self.best(asked)]
        same = [a[0] == b[0] for a, b in zip(before, self.best(near))] if near else []
        with torch.no_grad():
            w.copy_(kept)
        return {"accuracy": float(hits[0]), "generalization": sum(hits[1:]) / max(1, len(hits) - 1),
                "locality": sum(same) / len(same) if same else None}, (left, right, more)

    def shares(self, records, s):
        rows = [self.measure(r, s)[0] for r in records]
        return {**summary(rows), "records": len(rows)}, rows


def summary(rows):
    out = {}
    for k in ("accuracy", "generalization", "locality"):
        v = [r[k] for r in rows if r[k] is not None]
        out[k] = round(100 * sum(v) / len(v), 1) if v else None
    return out


def pad(rows):
    out = torch.zeros(len(rows), max(map(len, rows)), dtype=torch.long)
    for i, r in enumerate(rows):
        out[i, :len(r)] = torch.tensor(r)
    return out


def sweep(editor, records, base, **lists):
    """One setting at a time, printed as JSON lines."""
    for name, values in lists.items():
        for v in values:
            s = replace(base, **{name: v})
            print(json.dumps({name: v, **editor.shares(records, s)[0]}), flush=True)
