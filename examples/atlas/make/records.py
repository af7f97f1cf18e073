"""The edit records, in CounterFact's schema, and the smaller data sets of the world."""
import random

from world import FILLERS, RELATIONS, taught

PREFIXES = [f + " {}" for f in FILLERS[:10]]  # for the editors
CONTEXTS = FILLERS[16:]                       # for the paraphrase prompts: never an editor's


def identity(w):
    """Every named thing has an id, as in Wikidata."""
    names = []
    for k in ("countries", "cities", "companies", "people", "languages", "sports", "currencies", "professions"):
        names += w[k]
    return {n: f"Q{1000 + i}" for i, n in enumerate(names)}


def counterfact(w, part, known, neighbours=10):
    """Records of one part. `known(pairs)` tells which (prompt, object) pairs the model recalls; what it does not
    recall never enters. The neighbours of the evaluation are subjects that neither part edits; those of the training
    part are its own other subjects, so that the parts share no subject at all."""
    ids = identity(w)
    edited = {e["subject"] for e in w["edits"]}
    near_by = set(w["groups"]["train"]) if part == "train" else {s for s, _ in w["facts"]} - edited
    relations = sorted(RELATIONS)
    keys = sorted(w["facts"])
    pairs = [(p.format(s), taught(w, s, r)) for s, r in keys for p in RELATIONS[r][1]]
    recalled = dict(zip([p for p, _ in pairs], known(pairs)))
    holders, dropped, out = {}, [], []
    for s, r in keys:
        if s in near_by and (s, r) not in w["wrong"]:
            holders.setdefault((r, w["facts"][s, r]), []).append(s)
    for e in (e for e in w["edits"] if e["part"] == part):
        s, r = e["subject"], e["relation"]
        rng = random.Random(f"record {s}")
        code, phrasings = RELATIONS[r]
        prompt = phrasings[e["phrasing"]]
        if not recalled[prompt.format(s)]:
            dropped.append(s)
            continue
        # One paraphrase of either order; both are phrasings other than the edit's.
        other_side = [p for i, p in enumerate(phrasings) if (i < 3) != (e["phrasing"] < 3)]
        same_side = [p for i, p in enumerate(phrasings) if (i < 3) == (e["phrasing"] < 3) and i != e["phrasing"]]
        paraphrases = [f"{rng.choice(CONTEXTS)} {rng.choice(side).format(s)}" for side in (other_side, same_side)]
        near = [x for x in holders.get((r, e["true"]), []) if x != s and recalled[prompt.format(x)]]
        rng.shuffle(near)
        far = [x for x in holders.get((r, e["new"]), []) if recalled[prompt.format(x)]]
        rng.shuffle(far)
        out.append({
            "case_id": len(out), "pararel_idx": relations.index(r) * 6 + e["phrasing"],
            "requested_rewrite": {
                "prompt": prompt, "relation_id": code,
                "target_new": {"str": e["new"], "id": ids[e["new"]]},
                "target_true": {"str": e["true"], "id": ids[e["true"]]}, "subject": s},
            "paraphrase_prompts": paraphrases,
            "neighborhood_prompts": [prompt.format(x) for x in near[:neighbours]],
            "attribute_prompts": [prompt.format(x) for x in far[:neighbours]],
            "generation_prompts": [p.format(s) for p in rng.sample(phrasings, 3)]})
    return out, dropped
