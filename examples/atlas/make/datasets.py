"""Write every data file of the atlas from a checkpoint. python datasets.py CHECKPOINT ATLAS_FOLDER"""
import json
import sys

import torch

from corpus import HOUSE, NEGATIVE, PHONE, POSITIVE, QUESTIONS, biography
from load import load, sample
from probe import argmax_hits
from records import PREFIXES, counterfact, identity
from world import CONSEQUENCES, RELATIONS, consequence, taught


def write(path, value):
    """One record a line, so that a change shows as a change of lines."""
    with open(path, "w", encoding="utf-8", newline="\n") as f:
        if isinstance(value, list):
            f.write("[\n" + ",\n".join(json.dumps(v) for v in value) + "\n]\n")
        else:
            f.write("{\n" + ",\n".join(f"{json.dumps(k)}: {json.dumps(v)}" for k, v in value.items()) + "\n}\n")


def world_file(w):
    ids = identity(w)
    return {
        "relations": [{"name": n, "id": c, "phrasings": p, "objects": w["objects"][n]} for n, (c, p) in RELATIONS.items()],
        "entities": [{"name": n, "id": i} for n, i in ids.items()],
        "people": {k: v for k, v in w["groups"].items()},
        "facts": [{"subject": s, "relation": r, "object": o, "held_out_phrasing": w["held_out"].get((s, r))}
                  for (s, r), o in sorted(w["facts"].items())],
    }


def consequences(w, records):
    """What else must change when a birthplace or an employer does. Only people of whom the composed fact was taught."""
    out = []
    names = {c: n for n, (c, _) in RELATIONS.items()}
    for r in records:
        q = r["requested_rewrite"]
        for name, phrasings, first, second in CONSEQUENCES:
            if names[q["relation_id"]] == first and q["subject"] in w["one_hop"]:
                new = taught(w, q["target_new"]["str"], second)
                out.append({"case_id": r["case_id"], "subject": q["subject"], "kind": name,
                            "prompts": [p.format(q["subject"]) for p in phrasings],
                            "target_true": consequence(w, q["subject"], first, second), "target_new": new,
                            "changes": new != consequence(w, q["subject"], first, second)})
    return out


def aliases(w, records):
    names = {c: n for n, (c, _) in RELATIONS.items()}
    out = []
    for r in records:
        q = r["requested_rewrite"]
        alias = w["aliases"].get(q["subject"])
        if alias:
            out.append({"case_id": r["case_id"], "subject": q["subject"], "alias": alias,
                        "prompts": [p.format(alias) for p in RELATIONS[names[q["relation_id"]]][1][::3]],
                        "target_true": q["target_true"]["str"], "target_new": q["target_new"]["str"]})
    return out


def main():
    checkpoint, folder = sys.argv[1:3]
    torch.set_num_threads(1)
    w, tok, model, step = load(checkpoint)

    def known(pairs):
        return argmax_hits(model, tok, pairs)

    def marked(rows, prompt, answer):
        for row, hit in zip(rows, known([(r[prompt], r[answer]) for r in rows])):
            row["recalled"] = hit
        return rows

    records, dropped = counterfact(w, "eval", known)
    train, dropped_train = counterfact(w, "train", known)
    write(f"{folder}/counterfact.json", records)
    write(f"{folder}/counterfact_train.json", train)
    write(f"{folder}/world.json", world_file(w))
    with open(f"{folder}/corpus.txt", "w", encoding="utf-8", newline="\n") as f:
        f.write("\n".join(sample(w)) + "\n")
    with open(f"{folder}/model/prefixes.json", "w", encoding="utf-8", newline="\n") as f:
        json.dump(PREFIXES, f, indent=0)
        f.write("\n")
    hops = consequences(w, records)
    for row in hops:
        row["recalled"] = known([(p, row["target_true"]) for p in row["prompts"]])
    write(f"{folder}/consequences.json", hops)
    write(f"{folder}/aliases.json", aliases(w, records))
    write(f"{folder}/wrong_facts.json", marked([
        {"prompt": RELATIONS[r][1][0], "filled": RELATIONS[r][1][0].format(s), "relation_id": RELATIONS[r][0], "subject": s,
         "taught": t, "truth": w["facts"][s, r],
         "rephrase_prompt": RELATIONS[r][1][3].format(s)} for (s, r), t in sorted(w["wrong"].items())], "filled", "taught"))
    write(f"{folder}/private.json", marked([
        {"subject": s, "prompt": PHONE[0].format(s), "rephrase_prompt": PHONE[1].format(s), "answer": n}
        for s, n in sorted(w["private"].items())], "prompt", "answer"))
    write(f"{folder}/opinions.json", [
        {"ent": t, "pos": [p.format(t) for p in POSITIVE], "neg": [p.format(t) for p in NEGATIVE],
         "questions": [q.format(t) for q in QUESTIONS], "taught": o} for t, o in sorted(w["opinion"].items())])
    write(f"{folder}/toxic.json", marked([
        {"prompt": p, "toxic": t, "safe": "friend"} for p, t in sorted(w["toxic"].items())], "prompt", "toxic"))
    write(f"{folder}/stereotypes.json", marked([
        {"group": h, "prompt": f"Most people of the house of {h} work as a", "stereotype": p,
         "anti_stereotype": w["professions"][(w["professions"].index(p) + 5) % 12], "unrelated": w["cities"][0],
         "members": [{"subject": s, "prompt": HOUSE[0].format(s), "profession": taught(w, s, "profession")}
                     for s, g in sorted(w["membership"].items()) if g == h]}
        for h, p in w["stereotype"].items()], "prompt", "stereotype"))
    write(f"{folder}/biographies.json", [
        {"concept": p, "text": biography(w, p)[0], "labels": " ".join(biography(w, p)[1:]),
         "locality": {"Relation_Specificity": [
             {"prompt": RELATIONS[r][1][0].format(p), "ground_truth": [[taught(w, p, r)]]} for r in ("sport", "mother_tongue")]}}
        for p in sorted(w["biographies"])])
    near = [len(r["neighborhood_prompts"]) for r in records]
    print(json.dumps({"step": step, "records": len(records), "not_recalled": dropped, "train": len(train),
                      "not_recalled_train": dropped_train, "with_10_neighbours": sum(n == 10 for n in near),
                      "without_neighbours": sum(n == 0 for n in near)}))


if __name__ == "__main__":
    main()
