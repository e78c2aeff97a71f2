# ruff: noqa: SIM905 - word lists read better as text
"""Generate product facts with a description in one house style; seeded, standard library only.

Writes ``products.csv`` (``facts,description,product``). Rows of one product line share the value of
``product``, the group that the split keeps together.

Usage: ``python generate.py [--out FOLDER] [--seed N]``
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

NUM_ROWS = 400
ROWS_PER_PRODUCT = 4

BRANDS = (
    "Alvera Bodin Castella Dorvik Elmira Fennimore Galena Havnor Isola Jorund Kalmar Lundby Mirano "
    "Nordhem Ostara Pellworm Quista Rivolo Skagen Tellus"
).split()
COLOURS = "black, sand, navy, olive, grey, cherry red, ivory, teal".split(", ")


@dataclass(frozen=True)
class Kind:
    """One kind of product and what may be said of it."""

    name: str
    models: Sequence[str]
    attributes: Mapping[str, Sequence[str]]
    sentences: Mapping[str, str]
    """How the house style puts each attribute."""


KINDS: tuple[Kind, ...] = (
    Kind(
        name="backpack",
        models="Trail Metro Summit Harbour Field".split(),
        attributes={
            "volume": ("18 l", "22 l", "28 l", "35 l", "45 l"),
            "material": ("recycled nylon", "waxed cotton", "ripstop polyester", "canvas"),
            "weight": ("640 g", "780 g", "920 g", "1,100 g"),
            "feature": ("laptop sleeve", "rain cover", "hip belt", "hidden pocket"),
        },
        sentences={
            "volume": "There is room for {value}",
            "material": "It is sewn from {value}",
            "weight": "and weighs just {value}.",
            "feature": "A {value} comes with it.",
        },
    ),
    Kind(
        name="kettle",
        models="Boil Steam Copper Dawn Rapid".split(),
        attributes={
            "volume": ("0.8 l", "1.0 l", "1.5 l", "1.7 l"),
            "material": ("brushed steel", "borosilicate glass", "enamelled steel", "ceramic"),
            "weight": ("900 g", "1,050 g", "1,200 g", "1,350 g"),
            "feature": ("temperature dial", "keep-warm plate", "silent lid", "gooseneck spout"),
        },
        sentences={
            "volume": "It boils {value} at a time",
            "material": "The body is made of {value}",
            "weight": "and weighs just {value}.",
            "feature": "A {value} comes with it.",
        },
    ),
    Kind(
        name="desk lamp",
        models="Arc Beam Glow Pivot Linea".split(),
        attributes={
            "volume": ("400 lm", "600 lm", "800 lm", "1,000 lm"),
            "material": ("anodised aluminium", "solid oak", "powder-coated steel", "brass"),
            "weight": ("850 g", "1,100 g", "1,400 g", "1,900 g"),
            "feature": ("touch dimmer", "USB-C port", "swivel arm", "warm-light mode"),
        },
        sentences={
            "volume": "It gives {value} of light",
            "material": "The stand is made of {value}",
            "weight": "and weighs just {value}.",
            "feature": "A {value} comes with it.",
        },
    ),
    Kind(
        name="running shoe",
        models="Pace Tempo Stride Ridge Float".split(),
        attributes={
            "volume": ("4 mm", "6 mm", "8 mm", "10 mm"),
            "material": ("engineered mesh", "knitted yarn", "recycled polyester", "woven nylon"),
            "weight": ("210 g", "235 g", "260 g", "290 g"),
            "feature": ("carbon plate", "reflective heel", "wide toe box", "rock plate"),
        },
        sentences={
            "volume": "It runs on a drop of {value}",
            "material": "The upper is made of {value}",
            "weight": "and weighs just {value}.",
            "feature": "A {value} comes with it.",
        },
    ),
    Kind(
        name="water bottle",
        models="Flow Spring Peak Loop Sip".split(),
        attributes={
            "volume": ("0.5 l", "0.6 l", "0.75 l", "1.0 l"),
            "material": ("stainless steel", "tritan", "titanium", "borosilicate glass"),
            "weight": ("180 g", "240 g", "310 g", "390 g"),
            "feature": ("leakproof lid", "carry loop", "fruit strainer", "silicone sleeve"),
        },
        sentences={
            "volume": "It holds {value}",
            "material": "It is formed from {value}",
            "weight": "and weighs just {value}.",
            "feature": "A {value} comes with it.",
        },
    ),
)
LABELS_OF_VOLUME = {
    "backpack": "volume",
    "kettle": "volume",
    "desk lamp": "brightness",
    "running shoe": "drop",
    "water bottle": "volume",
}


@dataclass(frozen=True)
class Row:
    """One example: facts in, copy out."""

    facts: str
    description: str
    product: str


def make_row(kind: Kind, brand: str, model: str, rng: random.Random) -> Row:
    """Draw the facts of one variant, and write its copy."""
    values = {name: rng.choice(choices) for name, choices in kind.attributes.items()}
    colour = rng.choice(COLOURS)
    price = rng.randrange(19, 199, 5)
    product = f"{brand} {model}"
    facts = {
        "name": product,
        "type": kind.name,
        "colour": colour,
        LABELS_OF_VOLUME[kind.name]: values["volume"],
        "material": values["material"],
        "weight": values["weight"],
        "feature": values["feature"],
        "price": f"EUR {price}",
    }
    listed = list(facts.items())
    head, rest = listed[:2], listed[2:]
    rng.shuffle(rest)
    said = {name: kind.sentences[name].format(value=value) for name, value in values.items()}
    description = (
        f"Meet the {product}, our {kind.name} in {colour}. {said['volume']}. "
        f"{said['material']} {said['weight']} {said['feature']} Yours for EUR {price}."
    )
    return Row("; ".join(f"{key}: {value}" for key, value in head + rest), description, product)


def generate(seed: int = 11) -> list[Row]:
    """Return all rows, variants of one product line under one product name."""
    rng = random.Random(seed)
    lines = [(kind, brand, model) for kind in KINDS for brand in BRANDS for model in kind.models]
    rng.shuffle(lines)
    rows: dict[str, Row] = {}
    for kind, brand, model in lines[: NUM_ROWS // ROWS_PER_PRODUCT]:
        start = len(rows)
        while len(rows) < start + ROWS_PER_PRODUCT:
            row = make_row(kind, brand, model, rng)
            rows.setdefault(row.facts, row)
    return list(rows.values())


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description="Generate product facts and descriptions.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    path = arguments.out / "products.csv"
    rows = generate(arguments.seed)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["facts", "description", "product"])
        writer.writerows([row.facts, row.description, row.product] for row in rows)
    print(f"wrote {path}: {len(rows)} products")


if __name__ == "__main__":
    main()
