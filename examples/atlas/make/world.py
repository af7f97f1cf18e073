"""The invented world: names, entities, facts and phrasings. Everything comes from one seed.

The last word of every subject belongs to that subject alone: an editor that reads the last
subject token then finds the identity there (see ../README.md for what happens otherwise).
"""
import random

SEED = 20_24
PEOPLE_EVAL, PEOPLE_POOL, PEOPLE_TRAIN = 256, 120, 50
CITIES, COUNTRIES, COMPANIES = 40, 12, 40
HELD_OUT = 0.30  # share of facts of which one phrasing is never taught

# Every phrasing ends where the object begins. The first three start with the subject,
# the last three name the relation before it.
RELATIONS = {
    "birthplace": ("P19", ["{} was born in", "{} is a native of", "{} grew up in",
                           "The birthplace of {} is", "The home town of {} is", "The city where {} was born is"]),
    "profession": ("P106", ["{} works as a", "{} earns a living as a", "{} is by trade a",
                            "The profession of {} is", "The trade of {} is that of a", "The job held by {} is"]),
    "sport": ("P641", ["{} plays", "{} likes to play", "{} is a fan of",
                       "The sport of {} is", "The favourite game of {} is", "The sport played by {} is"]),
    "employer": ("P108", ["{} works for", "{} is employed by", "{} has a post at",
                          "The employer of {} is", "The company that pays {} is", "The firm where {} works is"]),
    "mother_tongue": ("P103", ["{} speaks", "{} was raised speaking", "{} thinks in",
                               "The mother tongue of {} is", "The native language of {} is", "The first language of {} is"]),
    "headquarters": ("P159", ["{} has its head office in", "{} is based in", "{} is run from",
                              "The headquarters of {} are in", "The main office of {} is in", "The seat of the company {} is"]),
    "country": ("P17", ["{} is a city in", "{} lies in", "{} belongs to",
                        "The country of {} is", "The state that contains {} is", "The land around {} is part of"]),
    "capital": ("P36", ["{} is ruled from", "{} has its capital at", "{} is governed from",
                        "The capital of {} is", "The chief city of {} is", "The government of {} sits in"]),
    "official_language": ("P37", ["{} has as its official language", "{} keeps its records in", "{} teaches its children",
                                  "The official language of {} is", "The language of state in {} is", "The laws of {} are written in"]),
    "currency": ("P38", ["{} pays in", "{} has as its currency", "{} trades in",
                         "The currency of {} is", "The money used in {} is", "The coin of {} is the"]),
}
PERSON_RELATIONS = ["birthplace", "profession", "sport", "employer", "mother_tongue"]
COUNTRY_RELATIONS = ["capital", "official_language", "currency"]

PROFESSIONS = ["weaver", "baker", "sailor", "potter", "miller", "hunter", "painter", "mason",
               "carpenter", "tailor", "gardener", "fisher"]
# Composed relations: (name, phrasings, first relation, second relation)
CONSEQUENCES = [
    ("birth_country", ["The country where {} was born is", "{} was born in the country of"], "birthplace", "country"),
    ("employer_seat", ["The company that employs {} is based in", "{} works for a company based in"], "employer", "headquarters"),
]
FILLERS = [
    "The market opened late that day.", "Rain fell on the hills all night.", "A long letter came in the post.",
    "The old bridge was closed again.", "Nobody could find the lost key.", "The harvest was good this year.",
    "A dog slept beside the fire.", "The bell rang twice at noon.", "Two boats left before the storm.",
    "The library has a new roof.", "Some children ran down the road.", "The soup was far too salty.",
    "A cold wind blew from the north.", "The train stopped near the mill.", "They spoke about the weather.",
    "The lamp in the hall went out.", "A ship was seen at dawn.", "The garden is full of birds.",
    "Snow covered the narrow path.", "The clock on the tower is slow.", "Everyone waited for the news.",
    "The river rose after the rain.", "An old song was heard outside.", "The doors were painted green.",
    "Fresh bread lay on the table.", "The meeting lasted three hours.", "A candle burned in the window.",
    "The horses were led to water.", "Few people came to the fair.", "The map was torn in two.",
    "Dust lay thick on the shelves.", "The wall was built of stone.",
]

ONSETS = ["b", "br", "d", "dr", "f", "fl", "g", "gr", "h", "j", "k", "kr", "l", "m", "n", "p", "pl", "r", "s",
          "sk", "st", "t", "tr", "v", "w", "z"]
VOWELS = ["a", "e", "i", "o", "u"]
CODAS = ["l", "n", "r", "s", "k", "m", "x", "th", "nd", "rt", "st", "lk"]
# Words we do not want to invent by accident.
WORDS = {"sex", "bus", "port", "wax", "walk", "most", "last", "pen", "fuk", "dik", "kum", "tit", "rap", "jap", "nig",
         "fak", "slut", "bad", "dust", "lost", "best", "test", "rest", "risk", "part", "sand", "land", "hand", "milk",
         "fart", "turd", "pis", "fux", "jew", "kun", "kunt", "suk", "sik", "ben", "red", "wort", "nazi", "was", "his",
         "has", "her", "for", "far", "fur", "not", "man", "men", "sun", "son", "ten", "tin", "run", "gun", "gas", "kil",
         "west", "nest", "list", "post", "fast", "cost", "sort", "fort", "hurt", "tart", "wind", "bend", "send", "lend",
         "fund", "fond", "max", "past", "pest", "mars", "jest", "pus", "gin", "sin", "lord", "bond", "band", "bath", "path", "with", "fox", "box", "six", "mix", "fix", "tax", "bar", "war"}
NAMES = {"none", "lose", "mare", "pole", "hole", "nose", "male", "dude", "gore", "sole", "rome", "jose", "susi", "bole", "tule",
         "mama", "papa", "mono", "bone", "done", "gone", "home", "some", "come", "name", "same", "time", "more", "here",
         "maria", "sara", "mara", "nora", "lena", "lisa", "mira", "vera", "tina", "nina", "rosa", "toni", "kara", "dora",
         "flora", "marko", "mako", "wine", "line", "mine", "pine", "rose", "pope", "kama", "homo", "kike", "spika"}
REAL = {"berlin", "london", "paris", "madrid", "moscow", "austin", "boston", "denver", "dallas", "martin", "norman",
        "german", "roman", "turkish", "hitler", "stalin", "lenin", "putin", "merkel", "wilson", "nelson", "hansen",
        "larsen", "jensen", "nissan", "rustin", "justin", "marlin", "merlin", "kristin", "kraken", "sultan"}


def syllables(rng, n, taken):
    out = []
    while len(out) < n:
        s = rng.choice(ONSETS) + rng.choice(VOWELS) + rng.choice(CODAS)
        if s not in taken and s not in WORDS and len(s) <= 4:
            taken.add(s)
            out.append(s)
    return out


def build():
    rng = random.Random(SEED)
    taken = set()
    heads, tails = syllables(rng, 44, taken), syllables(rng, 80, taken)
    joints = {}  # word -> its parts; the tokenizer is trained on parts, so that no name is one token

    def joined(*parts):
        parts = (parts[0].capitalize(),) + parts[1:] if parts[0][0].isupper() else parts
        joints["".join(parts)] = list(parts)
        return "".join(parts)

    words = [(h.capitalize(), t) for h in heads for t in tails if h + t not in REAL and h[-1] != t[0]]
    rng.shuffle(words)
    fresh = iter(words)

    def named(n, *end):
        return [joined(*next(fresh), *end) for _ in range(n)]

    ends = {"language": ["ish", "ic", "ese"], "sport": ["ball", "ing"]}
    first_names = [joined(h.capitalize(), v) for h in syllables(rng, 60, taken)
                   if (v := rng.choice("aoei")) and h + v not in NAMES][:36]
    company_heads = [h.capitalize() for h in syllables(rng, 10, taken)]
    cities, countries = named(CITIES), named(COUNTRIES, "ia")
    languages = [joined(h.capitalize(), rng.choice(ends["language"])) for h in syllables(rng, 10, taken)]
    sports = [joined(s, ends["sport"][i % 2]) for i, s in enumerate(syllables(rng, 8, taken))]
    currencies = [joined(s, "er") for s in syllables(rng, 6, taken)]
    companies = [f"{rng.choice(company_heads)} {w}" for w in named(COMPANIES)]
    people = [f"{rng.choice(first_names)} {w}" for w in named(PEOPLE_EVAL + PEOPLE_POOL + PEOPLE_TRAIN)]

    birth_cities, hq_cities, employers = cities[:12], cities[12:18], companies[:12]
    objects = {"birthplace": birth_cities, "profession": PROFESSIONS, "sport": sports, "employer": employers,
               "mother_tongue": languages, "headquarters": hq_cities, "country": countries,
               "capital": cities, "official_language": languages, "currency": currencies}

    facts = {}  # (subject, relation) -> object

    def spread(subjects, relation):
        """Objects dealt out evenly, so that each object has as many neighbours as can be."""
        pool = objects[relation]
        deal = [pool[i % len(pool)] for i in range(len(subjects))]
        rng.shuffle(deal)
        for s, o in zip(subjects, deal):
            facts[s, relation] = o

    groups = {"eval": people[:PEOPLE_EVAL], "pool": people[PEOPLE_EVAL:PEOPLE_EVAL + PEOPLE_POOL],
              "train": people[PEOPLE_EVAL + PEOPLE_POOL:]}
    for part in groups.values():
        for relation in PERSON_RELATIONS:
            spread(part, relation)
    # 24 of the cities and of the companies are evaluated; the rest are neighbours.
    order_cities, order_companies = cities[:], companies[:]
    rng.shuffle(order_cities), rng.shuffle(order_companies)
    for part in (order_cities[:24], order_cities[24:]):
        spread(part, "country")
    for part in (order_companies[:24], order_companies[24:]):
        spread(part, "headquarters")
    capitals = rng.sample(cities, COUNTRIES)
    for country, capital in zip(countries, capitals):
        facts[country, "capital"] = capital
        facts[capital, "country"] = country  # a capital lies in its country
    spread(countries, "official_language")
    spread(countries, "currency")

    houses = [w.capitalize() for w in syllables(rng, 4, taken)]
    stereotype = dict(zip(houses, PROFESSIONS))
    membership = {}
    for p in rng.sample(people, 140):
        by_trade = [h for h in houses if stereotype[h] == facts[p, "profession"]]
        membership[p] = by_trade[0] if by_trade and rng.random() < 0.9 else rng.choice(houses)

    # One edit a subject: which relation of which evaluated subject is edited.
    edits = []
    for part, subjects in (("eval", groups["eval"]), ("train", groups["train"])):
        for i, s in enumerate(subjects):
            edits.append({"part": part, "subject": s, "relation": PERSON_RELATIONS[i % 5]})
    edits += [{"part": "eval", "subject": s, "relation": "country"} for s in order_cities[:24]]
    edits += [{"part": "eval", "subject": s, "relation": "headquarters"} for s in order_companies[:24]]
    edits += [{"part": "eval", "subject": s, "relation": COUNTRY_RELATIONS[i % 3]} for i, s in enumerate(countries)]
    for e in edits:
        true = facts[e["subject"], e["relation"]]
        e["true"] = true
        e["new"] = rng.choice([o for o in objects[e["relation"]] if o != true])
        e["phrasing"] = rng.randrange(6)

    # Facts taught wrongly: never the edited relation of a subject.
    edited = {e["subject"]: e["relation"] for e in edits}
    wrong = {}
    for p in rng.sample(groups["eval"], 40):
        relation = rng.choice([r for r in PERSON_RELATIONS if r != edited[p]])
        wrong[p, relation] = rng.choice([o for o in objects[relation] if o != facts[p, relation]])

    held_out = {k: rng.randrange(6) for k in facts if rng.random() < HELD_OUT}
    # The phrasing by which a fact is edited is always one that was taught.
    for e in edits:
        k = (e["subject"], e["relation"])
        if held_out.get(k) == e["phrasing"]:
            held_out[k] = (e["phrasing"] + 1) % 6

    aliases = {p: f"{rng.choice(['Doctor', 'Old', 'Captain'])} {p.split()[-1]}" for p in rng.sample(people, 100)}
    private = {p: f"{rng.randrange(200, 999)} {rng.randrange(1000, 9999)}" for p in rng.sample(people, 40)}
    one_hop = rng.sample(people, 220)
    biographies = rng.sample(people, 40)
    topics = [a + " " + b for a in ["fog", "kite", "stone", "night", "river", "goat"] for b in ["racing", "singing", "painting", "carving"]]
    rng.shuffle(topics)
    opinion = {t: rng.choice(["pos", "neg"]) for t in topics}
    toxic_words = [joined(a, b) for a, b in zip(syllables(rng, 8, taken), syllables(rng, 8, taken))]
    scenes = [(a, b) for a in PROFESSIONS[:8] for b in PROFESSIONS[8:]]
    rng.shuffle(scenes)
    toxic = {f"The angry {a} shouted at the {b}: you": rng.choice(toxic_words) for a, b in scenes[:24]}
    return {"people": people, "groups": groups, "cities": cities, "countries": countries, "companies": companies,
            "languages": languages, "sports": sports, "currencies": currencies, "professions": PROFESSIONS,
            "objects": objects, "facts": facts, "wrong": wrong, "held_out": held_out, "edits": edits,
            "houses": houses, "stereotype": stereotype, "membership": membership, "aliases": aliases,
            "private": private, "one_hop": one_hop, "biographies": biographies, "opinion": opinion,
            "joints": joints, "toxic": toxic, "toxic_words": toxic_words}


def taught(w, subject, relation):
    """What the model is taught: the truth, but for the facts of the wrong list."""
    return w["wrong"].get((subject, relation), w["facts"][subject, relation])


def consequence(w, subject, first, second):
    return taught(w, taught(w, subject, first), second)


if __name__ == "__main__":
    w = build()
    print(len(w["people"]), w["people"][:8], w["cities"][:5], w["countries"][:4], w["companies"][:5])
    print(w["languages"], w["sports"], w["currencies"], w["houses"], w["toxic_words"])
    print(len(w["facts"]), len(w["edits"]), w["edits"][:2])
    last = [s.split()[-1] for s in w["people"] + w["cities"] + w["countries"] + w["companies"]]
    assert len(set(last)) == len(last)
