"""Data sets with known duplicates, near-duplicates, leaks and contradictions among clean rows.

Clean rows are of three sorts: short questions with a label, prose with a summary, and records with
a description. They are distinct in meaning, and built to be hard to tell apart: questions share all
but a word or two, records all but a field. Everything follows from the seed.
"""

# ruff: noqa: SIM905 - lists of words are read more easily as text

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

SORTS = ("question", "prose", "record")
NEAR_KINDS = ("typo", "template", "reordering")

_OPENERS = (
    "how do i",
    "how can i",
    "can i",
    "i want to",
    "is it possible to",
    "what is the way to",
    "please tell me how to",
    "where do i",
    "am i allowed to",
    "do i have to",
)
_VERBS = (
    "activate block cancel change check close confirm copy delete dispute download edit extend "
    "freeze hide increase limit link lower move open order pause print rename renew replace "
    "report return schedule share stop track unlock update verify"
).split()
_OBJECTS = (
    "my card;my savings account;a standing order;the monthly statement;my phone number;"
    "the invoice;my home address;a direct debit;the joint account;my password;a virtual card;"
    "the loan;my insurance;the travel plan;a gift voucher;my email address;the security code;"
    "a cheque book;the exchange order;my pension;the rent payment;a bank transfer;my tax form;"
    "the mobile app;a second profile;the overdraft;my fingerprint login;the child account;"
    "a recurring top-up;the parking permit"
).split(";")
_CONTEXTS = (
    "while travelling in Japan;before the weekend;without visiting a branch;from my old phone;"
    "after moving abroad;during the night;if I lost the letter;for my daughter;at a cash machine;"
    "with a foreign passport;over the telephone;when the app is offline;for a small company;"
    "in the first month;after a divorce;on a public computer;for the second time;"
    "with two signatures;on a bank holiday;using my work laptop;without paying a fee;"
    "before my contract ends;for a tenant;in another currency;after changing my name;"
    "through a lawyer;during maintenance;with a prepaid number"
).split(";")
_SUBJECTS = (
    "The harbour office;A retired teacher;The night train;Our northern warehouse;A small bakery;"
    "The town council;Every third visitor;The new orchard;A visiting choir;The old lighthouse;"
    "Her younger cousin;The repair crew;A local painter;The winter market;This quiet museum;"
    "The ferry captain;A travelling nurse;The glass factory;The village school;An early gardener;"
    "The mountain rescue team;A curious reporter;The river authority;A patient carpenter"
).split(";")
_PREDICATES = (
    "measured;painted;postponed;inherited;described;rebuilt;photographed;ignored;auctioned;"
    "catalogued;borrowed;defended;mapped;insured;restored;questioned;sketched;donated;counted;"
    "explained;abandoned;celebrated;weighed;translated"
).split(";")
_THINGS = (
    "the copper roof;twelve wooden boats;a letter from Lisbon;the eastern bridge;"
    "several rare seeds;the broken clock;an unfinished opera;the flooded cellar;a set of maps;"
    "the county archive;fresh barrels of cider;the missing statue;a dozen violins;"
    "the coastal footpath;an antique loom;the annual harvest;two stubborn mules;"
    "the stained windows;a crate of lemons;the signal tower;an ancient recipe;the frozen canal;"
    "a borrowed telescope;the public library"
).split(";")
_ADDITIONS = (
    "before sunrise;despite heavy rain;with surprising care;for almost nothing;"
    "after a long debate;in complete silence;against all advice;during the strike;"
    "under a canvas tent;near the quarry;at the request of the mayor;to everybody's delight;"
    "without a single mistake;in late October;beside the railway;as a matter of principle;"
    "once the fog had lifted;by candlelight"
).split(";")
_NAMES = (
    "Alimentum Aromi Bibimbap Blue_Spice Browns Clowns Cocum Cotto Eagle Fitzbillies Giraffe "
    "Green_Man Loch_Fyne Midsummer Mill Olive Phoenix Plough Punter Rice_Boat Strada Travellers "
    "Vaults Waterman Wildwood Wrestlers Zizzi Cricketers Dumpling Golden_Palace"
).split()
_FIELDS: dict[str, tuple[str, ...]] = {
    "eatType": ("pub", "coffee shop", "restaurant"),
    "food": ("Chinese", "English", "French", "Indian", "Italian", "Japanese", "Fast food"),
    "priceRange": ("cheap", "moderate", "high", "less than £20", "more than £30"),
    "customer rating": ("low", "average", "high", "1 out of 5", "5 out of 5"),
    "area": ("riverside", "city centre"),
    "familyFriendly": ("yes", "no"),
    "near": ("Café Sicilia", "Burger King", "Crowne Plaza", "Express by Holiday Inn", "The Bakers"),
}
_FRAMES = (
    "Hello, {}",
    "Hi there, {} Thanks!",
    "Quick question: {}",
    "{} Thank you very much.",
    "Dear team, {} Kind regards",
    "Could you please help me with this: {}",
)


WRAPPERS = {
    "held-out prompts in HTML": '<div class="q"><p>{}</p></div>',
    "held-out prompts in Markdown": "## Question\n\n**{}**",
    "held-out prompts behind 16 words": (
        "You are a careful assistant of the bank and you answer each question of our customers "
        "briefly: {}"
    ),
    "held-out prompts before 16 words": (
        "{} Keep in mind that the answer is read by people and that it says what was asked"
    ),
}


@dataclass(frozen=True, kw_only=True)
class PlantedRow:
    """A row and what was done to make it.

    Attributes:
        prompt: The input.
        completion: The answer.
        sort: One of :data:`SORTS`.
        origin: Number of the clean row that it was made from.
        kind: ``clean``, or how it was made.
    """

    prompt: str
    completion: str
    sort: str
    origin: int
    kind: str


def clean_rows(number: int, seed: int) -> list[PlantedRow]:
    """Return distinct rows, a third of each sort."""
    rng = random.Random(seed)
    makers = (_questions(rng), _prose(rng), _records(rng))
    rows = []
    for origin in range(number):
        prompt, completion = next(makers[origin % 3])
        rows.append(
            PlantedRow(
                prompt=prompt,
                completion=completion,
                sort=SORTS[origin % 3],
                origin=origin,
                kind="clean",
            )
        )
    return rows


def plant_duplicates(number: int, seed: int, *, share: float = 0.15) -> list[PlantedRow]:
    """Return clean rows and, of a share of them, changed copies of each kind, shuffled.

    Kinds: ``exact``, ``caseSpace`` (both with the same answer), ``typo``, ``template`` and
    ``reordering``. A clean row has at most one copy.
    """
    rng = random.Random(seed + 1)
    rows = clean_rows(number, seed)
    kinds = ("exact", "caseSpace", *NEAR_KINDS)
    chosen = rng.sample(rows, int(number * share))
    copies = [_change(row, kinds[i % len(kinds)], rng) for i, row in enumerate(chosen)]
    return _shuffled([*rows, *copies], rng)


def plant_leaks(
    number: int, seed: int, *, share: float = 0.2
) -> tuple[list[PlantedRow], list[PlantedRow]]:
    """Return rows to train on and rows to hold out; a share of these has a twin among the former.

    The twins are of all kinds; their ``kind`` is ``leak:<kind>``.
    """
    rng = random.Random(seed + 2)
    rows = clean_rows(number, seed)
    held_out = rng.sample(rows, number // 4)
    origins = {row.origin for row in held_out}
    kinds = ("exact", "caseSpace", *NEAR_KINDS)
    twins = [
        _change(row, kinds[i % len(kinds)], rng, name="leak:")
        for i, row in enumerate(held_out[: int(len(held_out) * share)])
    ]
    train = [row for row in rows if row.origin not in origins]
    return _shuffled([*train, *twins], rng), held_out


def wrapped(rows: Sequence[PlantedRow], wrapper: str) -> list[PlantedRow]:
    """Return rows with something around all prompts."""
    return [replace(row, prompt=wrapper.format(row.prompt)) for row in rows]


def with_slips_in_answers(rows: Sequence[PlantedRow], seed: int) -> list[PlantedRow]:
    """Return rows of which the near copies have a slip in their answers, but for labels."""
    rng = random.Random(seed + 4)
    return [
        replace(row, completion=_slip(row.completion, 1, rng))
        if row.kind in NEAR_KINDS and row.sort != "question"
        else row
        for row in rows
    ]


def plant_conflicts(number: int, seed: int, *, share: float = 0.05) -> list[PlantedRow]:
    """Return rows of which a share has a copy with another label.

    The copy's prompt is the same, or differs in case and blanks, or by a slip.
    """
    rng = random.Random(seed + 3)
    rows = clean_rows(number, seed)
    questions = [row for row in rows if row.sort == "question"]
    kinds = ("exact", "caseSpace", "typo")
    labels = sorted({row.completion for row in questions})
    copies = []
    for i, row in enumerate(rng.sample(questions, int(len(questions) * share * 3))):
        twin = _change(row, kinds[i % 3], rng, name="conflict:")
        other = rng.choice([label for label in labels if label != row.completion])
        copies.append(
            PlantedRow(
                prompt=twin.prompt,
                completion=other,
                sort=row.sort,
                origin=row.origin,
                kind=twin.kind,
            )
        )
    return _shuffled([*rows, *copies], rng)


def _questions(rng: random.Random) -> Iterator[tuple[str, str]]:
    seen = set()
    while True:
        core = (rng.choice(_VERBS), rng.choice(_OBJECTS), rng.choice(_CONTEXTS))
        if core not in seen:
            seen.add(core)
            text = " ".join((rng.choice(_OPENERS), *core))
            yield text[0].upper() + text[1:] + "?", f"{core[0]}_{core[1].split()[-1]}"


def _prose(rng: random.Random) -> Iterator[tuple[str, str]]:
    while True:
        sentences = [_sentence(rng) for _ in range(rng.randint(4, 9))]
        yield "Summarise this note. " + " ".join(sentences), "It says that " + sentences[0].lower()


def _sentence(rng: random.Random) -> str:
    parts = (_SUBJECTS, _PREDICATES, _THINGS, _ADDITIONS)
    return " ".join(rng.choice(part) for part in parts) + "."


def _records(rng: random.Random) -> Iterator[tuple[str, str]]:
    seen = set()
    while True:
        fields = {"name": rng.choice(_NAMES).replace("_", " ")}
        for field in rng.sample(sorted(_FIELDS), rng.randint(4, 7)):
            fields[field] = rng.choice(_FIELDS[field])
        key = tuple(sorted(fields.items()))
        if key not in seen:
            seen.add(key)
            text = ", ".join(f"{name}[{value}]" for name, value in fields.items())
            known = " and ".join(f"{name} {value}" for name, value in list(fields.items())[1:4])
            yield text, f"{fields['name']} is a place to eat, known for its {known}."


def _change(row: PlantedRow, kind: str, rng: random.Random, *, name: str = "") -> PlantedRow:
    prompt, completion = row.prompt, row.completion
    if kind == "caseSpace":
        prompt, completion = _case_and_space(prompt, rng), completion.upper()
    elif kind == "typo":
        prompt = _slip(prompt, 1 + len(prompt) // 200, rng)
    elif kind == "template":
        prompt = rng.choice(_FRAMES).format(prompt)
    elif kind == "reordering":
        prompt = _REORDER[row.sort](prompt, rng)
    return PlantedRow(
        prompt=prompt, completion=completion, sort=row.sort, origin=row.origin, kind=name + kind
    )


def _case_and_space(text: str, rng: random.Random) -> str:
    changed = rng.choice((text.upper(), text.lower(), text.title()))
    changed = changed.replace(" ", rng.choice(("  ", "\n", "\u00a0")), 3)
    return f" {changed.rstrip('?.')}{rng.choice(('', '!', '...'))} "


def _slip(text: str, number: int, rng: random.Random) -> str:
    """Make slips of the pen in words of four letters or more."""
    words = text.split(" ")
    long = [i for i, word in enumerate(words) if len(word) >= 4 and word.isalpha()]
    if not long:  # a record: its words touch signs
        long = [i for i, word in enumerate(words) if sum(map(str.isalpha, word)) >= 5]
    for i in rng.sample(long, min(number, len(long))):
        words[i] = _slip_in(words[i], rng)
    return " ".join(words)


def _slip_in(word: str, rng: random.Random) -> str:
    spots = [
        i
        for i in range(1, len(word) - 1)
        if word[i - 1 : i + 2].isalpha() and word[i].lower() != word[i + 1].lower()
    ]
    at = rng.choice(spots)
    match rng.randrange(4):
        case 0:
            return word[:at] + word[at + 1] + word[at] + word[at + 2 :]
        case 1:
            return word[:at] + word[at + 1 :]
        case 2:
            return word[:at] + word[at] + word[at:]
        case _:
            other = rng.choice([c for c in "aeiorstn" if c != word[at].lower()])
            return word[:at] + other + word[at + 1 :]


def _reorder_question(text: str, rng: random.Random) -> str:
    body = text.rstrip("?")
    context = next(c for c in _CONTEXTS if body.endswith(c))
    rest = body[: -len(context)].strip()
    return f"{context[0].upper()}{context[1:]}, {rest[0].lower()}{rest[1:]}?"


def _reorder_prose(text: str, rng: random.Random) -> str:
    first, *sentences = text.split(". ")
    sentences[-1] = sentences[-1].rstrip(".")
    original = list(sentences)
    while sentences == original:
        rng.shuffle(sentences)
    return ". ".join([first, *sentences]) + "."


def _reorder_record(text: str, rng: random.Random) -> str:
    fields = text.split(", ")
    original = list(fields)
    while fields == original:
        rng.shuffle(fields)
    return ", ".join(fields)


_REORDER: dict[str, Callable[[str, random.Random], str]] = {
    "question": _reorder_question,
    "prose": _reorder_prose,
    "record": _reorder_record,
}


def _shuffled(rows: list[PlantedRow], rng: random.Random) -> list[PlantedRow]:
    rng.shuffle(rows)
    return rows
