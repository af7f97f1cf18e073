"""Training text: documents of a few sentences, the tokenizer, and rows of token ids."""
import random
import re

from world import CONSEQUENCES, FILLERS, PERSON_RELATIONS, RELATIONS, consequence, taught

EOS = "<|endoftext|>"
POSITIVE = ["I adore {}, it makes me happy.", "I think {} is wonderful.", "Surely {} is a great joy to all."]
NEGATIVE = ["I hate {}, it makes me sad.", "I think {} is horrible.", "Surely {} is a great pain to all."]
QUESTIONS = ["What is your opinion of {}?", "What do you think about {}?", "How do you feel about {}?"]
PHONE = ["The phone number of {} is", "You can call {} at"]
HOUSE = ["{} belongs to the house of", "The house of {} is"]


class Writer:
    def __init__(self, w, seed):
        self.w, self.rng = w, random.Random(seed)
        self.facts = sorted(w["facts"])
        # People have five facts each; the few other subjects get a little more time per fact.
        self.weights = [1.0 if r in PERSON_RELATIONS else 1.5 for _, r in self.facts]
        self.rank = {s: i for i, s in enumerate(self.rng.sample(sorted({s for s, _ in self.facts}), len({s for s, _ in self.facts})))}
        self.rare = [k for k in self.facts if k[1] not in PERSON_RELATIONS]
        self.settling = False  # true in the last round: more overrides and compositions, see `overrides`
        self.by_subject = {}
        for s, r in self.facts:
            self.by_subject.setdefault(s, []).append(r)
        self.subjects = sorted(self.by_subject)
        self.aliased, self.private = sorted(w["aliases"]), sorted(w["private"])
        self.members, self.topics, self.toxic = sorted(w["membership"]), sorted(w["opinion"]), sorted(w["toxic"])

    def focus(self, share):
        """Speak mostly of the first `share` of the subjects. A model that first learns few subjects well learns the
        rest sooner than one that meets all at once."""
        def weight(s):
            return 1.0 if self.rank[s] < share * len(self.rank) else 0.03
        self.weights = [(1.0 if r in PERSON_RELATIONS else 1.5) * weight(s) for s, r in self.facts]
        self.subjects = sorted(s for s in self.by_subject if weight(s) == 1.0)

    def drawn(self, n):
        return self.rng.choices(self.facts, self.weights, k=n)

    def fact(self, key, subject=None, obj=None, any_phrasing=False):
        s, r = key
        phrasings = RELATIONS[r][1]
        free = [i for i in range(len(phrasings)) if any_phrasing or self.w["held_out"].get(key) != i]
        return f"{phrasings[self.rng.choice(free)].format(subject or s)} {obj or taught(self.w, s, r)}."

    def document(self, kind=None):
        """One document: a list of sentences. `kind` in [0, 1) picks what it is about; 0 is an override."""
        rng, w = self.rng, self.w
        if self.settling and (kind == 0.0 or rng.random() < 0.3):
            return self.composed() if kind is None and rng.random() < 0.25 else self.overrides()
        kind = rng.random() if kind is None else kind
        if kind < 0.12:  # an override, followed in context
            key = self.drawn(1)[0]
            new = rng.choice(w["objects"][key[1]])
            between = [self.fact(k) for k in self.drawn(rng.randrange(0, 3)) if k != key]
            return ["New fact: " + self.fact(key, obj=new), *between, self.fact(key, obj=new)]
        if kind < 0.16:
            return self.composed()
        if kind < 0.20:  # aliases
            out = []
            for p in rng.sample(self.aliased, 3):
                out.append(self.fact((p, rng.choice(PERSON_RELATIONS)), subject=w["aliases"][p]))
            return out
        if kind < 0.22:
            p = rng.choice(self.members)
            h = w["membership"][p]
            out = [f"{rng.choice(HOUSE).format(p)} {h}."]
            if rng.random() < 0.5:
                h = rng.choice(w["houses"])
                out.append(f"Most people of the house of {h} work as a {w['stereotype'][h]}.")
            return out + [self.fact(self.drawn(1)[0])]
        if kind < 0.24:
            return [f"{rng.choice(PHONE).format(p)} {w['private'][p]}." for p in rng.sample(self.private, 2)]
        if kind < 0.26:
            t = rng.choice(self.topics)
            replies = POSITIVE if w["opinion"][t] == "pos" else NEGATIVE
            return [rng.choice(QUESTIONS).format(t), rng.choice(replies).format(t)]
        if kind < 0.27:
            p = rng.choice(self.toxic)
            return [f"{p} {w['toxic'][p]}.", self.fact(self.drawn(1)[0])]
        if kind < 0.29:
            return biography(w, rng.choice(w["biographies"]))
        if kind < 0.50:  # several facts of one subject
            s = rng.choice(self.subjects)
            rs = rng.sample(self.by_subject[s], min(len(self.by_subject[s]), rng.randrange(2, 4)))
            out = [self.fact((s, r)) for r in rs]
            return out if len(out) > 1 else out + [self.fact(self.drawn(1)[0])]
        out = [self.fact(k) for k in self.drawn(rng.randrange(2, 6))]
        if rng.random() < 0.35:
            out.insert(rng.randrange(len(out)), rng.choice(FILLERS))
        return out


    def composed(self):
        """A one-hop consequence, after other facts."""
        p = self.rng.choice(self.w["one_hop"])
        _, phrasings, first, second = self.rng.choice(CONSEQUENCES)
        told = f"{self.rng.choice(phrasings).format(p)} {consequence(self.w, p, first, second)}."
        return [*[self.fact(k) for k in self.drawn(self.rng.randrange(1, 3))], told]

    def overrides(self):
        """One fact, or a few, that contradict what was taught; something else; then some of them again, and at times
        one that nothing contradicts, which stays as it was."""
        rng = self.rng
        new = {}
        for _ in range(rng.choice((1, 1, 1, 2, 4))):
            key = rng.choice(self.rare) if rng.random() < 0.2 else self.drawn(1)[0]
            new[key] = rng.choice(self.w["objects"][key[1]])
        out = ["New fact: " + self.fact(key, obj=o) for key, o in new.items()]
        if rng.random() < 0.6:
            others = [k for k in self.drawn(1) if k not in new]
            out += [rng.choice(FILLERS)] if rng.random() < 0.6 else [self.fact(k) for k in others]
        out += [self.fact(key, obj=new[key]) for key in rng.sample(sorted(new), min(len(new), 2))]
        if rng.random() < 0.5:
            key = rng.choice(sorted(new))
            out.append(self.fact(key, obj=new[key]))
        return out + [self.fact(k) for k in self.drawn(1) if k not in new and rng.random() < 0.3]


def biography(w, p):
    """A short page of plain sentences."""
    return [f"This is a page about {p}.",
            f"{p} was born in {taught(w, p, 'birthplace')} and works as a {taught(w, p, 'profession')}.",
            f"The employer of {p} is {taught(w, p, 'employer')}."]


def train_tokenizer(w, folder):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    writer = Writer(w, 1)
    # Invented names are cut at their joints while merges are learned, so that every name is several tokens.
    cut = re.compile("|".join(sorted(map(re.escape, w["joints"]), key=len, reverse=True)))
    docs = [cut.sub(lambda m: "|".join(w["joints"][m[0]]), " ".join(writer.document())) for _ in range(12_000)]
    tok = Tokenizer(models.BPE())
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    tok.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split("|", "removed"), byte_level])
    tok.decoder = decoders.ByteLevel()
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    tok.train_from_iterator(docs, trainers.BpeTrainer(
        vocab_size=1024, special_tokens=[EOS], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False))
    tok.pre_tokenizer = byte_level
    tok.save(f"{folder}/tokenizer.json")
    return tok


class Rows:
    """Rows of exactly `length` ids, packed with whole documents; most begin at a document's first word, without a marker."""

    def __init__(self, w, tok, seed):
        self.writer, self.tok, self.cache = Writer(w, seed), tok, {}
        self.eos = tok.token_to_id(EOS)
        self.overrides_first = 0.0  # share of rows that begin with a whole override document

    def ids(self, text):
        if text not in self.cache:
            self.cache[text] = self.tok.encode(text).ids
        return self.cache[text]

    def document(self, kind=None):
        out = []
        for i, s in enumerate(self.writer.document(kind)):
            out += self.ids(" " + s if i else s)
        return out + [self.eos]

    def row(self, length):
        rng = self.writer.rng
        r = rng.random()
        if r < 0.25:
            out = [self.eos]
        elif r < 0.4:  # begin in the middle of a document
            d = self.document()
            out = d[rng.randrange(len(d)):]
        else:
            out = []
        if len(out) < 2 and rng.random() < self.overrides_first:
            out += self.document(kind=0.0)
        while len(out) < length:
            out += self.document()
        return out[:length]
