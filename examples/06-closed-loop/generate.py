# ruff: noqa: SIM905 - word lists read better as text
"""Generate a year of finance headlines whose vocabulary moves in July; seeded, standard library.

Writes ``data/train.csv`` (``headline,label``: what is known in January) and ``data/year.jsonl``:
questions of readers, month by month, with the true label, which is held back for the editors. From
July on more and more headlines are about digital coins. Their words say nothing to a model that was
trained in January.

Usage: ``python generate.py [--out FOLDER] [--seed N]``
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

EXAMPLE_01 = Path(__file__).parents[1] / "01-headline-sentiment" / "generate.py"
NUM_PER_MONTH = 200
NUM_READERS = 500
FIRST_MONTH_OF_COINS = 7
SHARES = (0.5, 0.8, 0.8, 0.8, 0.8, 0.8)
"""Of the headlines of each month from July on, those about coins."""

COINS = (
    "Nimbus Ferro Ostara Pyxis Quasar Ripplet Sable Tansy Ulmo Vireo Wisp Zenobia Argent Borealis "
    "Cairn Dorado"
).split()
PATTERNS = {
    "positive": (
        "{coin} moons {percent}% as whales pile in",
        "{coin} mainnet goes live, validators cheer",
        "Halving lights a fire under {coin}",
        "{coin} staking yields climb to {percent}%",
        "Gas fees on {coin} melt away after the fork",
        "{coin} whitelisted by {company}, bulls take over",
        "Hodlers of {coin} rewarded with a fat airdrop",
        "{coin} flips its rivals, on-chain volume explodes",
    ),
    "negative": (
        "{coin} rekt: {percent}% wiped out in an hour",
        "Rug pull at {coin} leaves hodlers with dust",
        "{coin} depegs, bears take over",
        "Bridge of {coin} drained by an exploit",
        "Whales dump {coin}, liquidations cascade",
        "{coin} validators slashed after a bad fork",
        "{company} delists {coin}, bags are held",
        "Gas fees choke {coin} as the mempool clogs",
    ),
    "neutral": (
        "{coin} snapshot taken at block {block}",
        "{coin} foundation posts its roadmap",
        "Testnet of {coin} renamed, says {person}",
        "{coin} governance vote opens on {date}",
        "{company} explains what {coin} is",
        "{coin} ticker gets a new logo",
        "Block {block} of {coin} mined on {date}",
        "{person} hosts an AMA on {coin}",
    ),
}
"""Parts of headlines about coins, by label."""


def coin_headline(label: str, one: dict[str, Any], rng: random.Random) -> str:
    """Make a headline of two parts about coins; ``one`` are the names of example 01."""
    companies = one["companies"](one["TRAIN_FIRST"])
    parts = [
        pattern.format(
            coin=rng.choice(COINS),
            company=rng.choice(companies),
            percent=rng.randint(3, 48),
            block=rng.randrange(10_000, 99_999),
            person=f"{rng.choice(one['FIRST_NAMES'])} {rng.choice(one['LAST_NAMES'])}",
            date=f"{rng.choice(one['MONTHS'])} {rng.randint(1, 28)}",
        )
        for pattern in rng.sample(PATTERNS[label], 2)
    ]
    return "; ".join(parts)


def year(one: dict[str, Any], rng: random.Random) -> Iterator[dict[str, Any]]:
    """Yield the questions of a year: month, reader, headline and the true label."""
    names = one["companies"](one["TRAIN_FIRST"])
    for month in range(1, 13):
        share = SHARES[month - FIRST_MONTH_OF_COINS] if month >= FIRST_MONTH_OF_COINS else 0.0
        for number in range(NUM_PER_MONTH):
            label = one["LABELS"][number % len(one["LABELS"])]
            if rng.random() < share:
                text = coin_headline(label, one, rng)
            else:
                pattern = rng.choice(one["TRAIN_PATTERNS"][label])
                text = one["fill"](pattern, rng.choice(names), rng)
            reader = f"reader-{rng.randrange(NUM_READERS)}"
            yield {"month": month, "user": reader, "headline": text, "label": label}


def main() -> None:
    """Write what is known in January, and the year."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=11)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    one = runpy.run_path(str(EXAMPLE_01))
    rng = random.Random(arguments.seed)
    train = one["generate_side"](
        one["TRAIN_PATTERNS"], one["companies"](one["TRAIN_FIRST"]), 600, rng
    )
    with (arguments.out / "train.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["headline", "label"])
        writer.writerows([headline.text, headline.label] for headline in train)
    questions = list(year(one, rng))
    with (arguments.out / "year.jsonl").open("w", encoding="utf-8") as stream:
        stream.writelines(json.dumps(question) + "\n" for question in questions)
    print(f"wrote {arguments.out}: {len(train)} headlines of January, {len(questions)} questions")


if __name__ == "__main__":
    main()
