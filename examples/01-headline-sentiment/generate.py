# ruff: noqa: SIM905 - word lists read better as text
"""Generate finance headlines labelled positive, negative or neutral; seeded, standard library only.

Writes ``train.csv`` and ``test.csv`` (``headline,label``). No company and no sentence pattern of
the test side occurs on the train side, so that a model that merely memorises cannot score.

Usage: ``python generate.py [--out FOLDER] [--seed N]``
"""

from __future__ import annotations

import argparse
import csv
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

LABELS = ("positive", "negative", "neutral")
NUM_TRAIN = 480
NUM_TEST = 120

TRAIN_FIRST = (
    "Aldermoor Brightwater Calloway Dunmore Eastvale Fairholm Greystone Hartwell Ironbridge "
    "Juniper Kingsley Larkfield Maplewood Northgate Oakhurst Pembroke Quarrington Ravensworth "
    "Silverton Thornbury Underhill Valemont Westbrook Yarrow Ashcombe Birchwood Cresthaven "
    "Drayton Elmsworth Foxglove Glenrock Hazelmere"
).split()
TEST_FIRST = (
    "Zephyrine Auroral Bellweather Cobaltine Deltora Evergrand Fulcrum Galvane Helionix Innisfree "
    "Jadeport Kestrel Lumenara Meridian Novalux Orchard Pinnacle Quillon Redwood Solstice Tamarind "
    "Umbra Vanterra Wolfram Xenith Yellowstone Arbutus Basalt Cinder Driftwood Ember Falconet"
).split()
KINDS = (
    "Bank Energy Motors Foods Pharma Airlines Telecom Steel Software Retail Logistics Insurance "
    "Semiconductors Mining Media Chemicals"
).split()

TRAIN_PATTERNS: Mapping[str, Sequence[str]] = {
    "positive": (
        "{company} profit rises {percent}% on strong demand for {product}",
        "{company} raises full-year outlook after record {quarter} sales",
        "Shares of {company} jump {percent}% as orders beat forecasts",
        "{company} wins {money} contract to supply {product} in {place}",
        "{company} lifts dividend by {percent}% as cash flow improves",
        "Analysts upgrade {company} to buy on brighter margins",
        "{quarter} earnings at {company} top expectations",
        "{company} returns to profit after two years of losses",
        "{company} gains market share in {place} as {product} sells out",
        "Operating margin at {company} widens to its best level in a decade",
        "{company} pays down {money} of debt ahead of schedule",
        "Regulators in {place} approve new {product} from {company}",
        "{company} expects revenue to grow {percent}% next year",
        "Strong bookings push {company} to an all-time high",
        "{company} secures {money} investment to double {product} output",
        "Credit rating of {company} raised as balance sheet strengthens",
        "{company} reports its best {quarter} ever, helped by {product}",
        "Demand for {product} lifts {company} past analyst targets",
        "{company} to hire {count} people in {place} as orders surge",
        "Cost cuts pay off: {company} boosts net income by {percent}%",
        "{company} beats sales estimates for a fifth straight quarter",
        "Investors cheer as {company} announces {money} share buyback",
    ),
    "negative": (
        "{company} profit falls {percent}% as demand for {product} weakens",
        "{company} cuts full-year outlook after poor {quarter} sales",
        "Shares of {company} slump {percent}% as orders miss forecasts",
        "{company} loses {money} contract to supply {product} in {place}",
        "{company} suspends dividend as cash flow dries up",
        "Analysts downgrade {company} to sell on shrinking margins",
        "{quarter} earnings at {company} disappoint investors",
        "{company} swings to a loss after two years of profits",
        "{company} loses market share in {place} as rivals cut {product} prices",
        "Operating margin at {company} shrinks to its worst level in a decade",
        "{company} struggles to refinance {money} of debt",
        "Regulators in {place} fine {company} {money} over faulty {product}",
        "{company} warns revenue will drop {percent}% next year",
        "Weak bookings drag {company} to a five-year low",
        "{company} halts {product} output after fire at plant in {place}",
        "Credit rating of {company} cut as debts mount",
        "{company} reports its worst {quarter} ever, hurt by {product}",
        "Recall of {product} costs {company} {money}",
        "{company} to lay off {count} people in {place} as orders dry up",
        "Rising costs hit {company}: net income tumbles {percent}%",
        "{company} misses sales estimates for a fifth straight quarter",
        "Investors flee as {company} delays accounts amid fraud probe",
    ),
    "neutral": (
        "{company} to publish {quarter} results on {date}",
        "{company} appoints {person} as head of {product}",
        "{company} will hold its annual meeting in {place} on {date}",
        "{company} moves its headquarters to {place}",
        "{person} to speak for {company} at a conference in {place}",
        "{company} renames its {product} unit",
        "{company} leaves its outlook unchanged",
        "{company} signs a lease for offices in {place}",
        "Board of {company} meets on {date} to discuss {product}",
        "{company} opens a {product} showroom in {place}",
        "{company} files its annual report with the regulator in {place}",
        "{company} to change its ticker symbol on {date}",
        "{company} holds talks on {product} with partners in {place}",
        "{person} joins the board of {company}",
        "{company} confirms {date} as the date of its investor day",
        "{company} lists its shares in {place} as well",
        "{quarter} sales at {company} in line with last year",
        "{company} selects {place} for its next {product} office",
        "{company} appoints new auditor from {date}",
        "{company} updates the terms of its {product} supply agreement",
        "{company} names {person} to lead its business in {place}",
        "{company} sets the record date for its dividend as {date}",
    ),
}
"""Patterns of the train side, by label."""

TEST_PATTERNS: Mapping[str, Sequence[str]] = {
    "positive": (
        "Booming {product} business drives {percent}% profit growth at {company}",
        "{company} posts surprise profit, stock soars",
        "Better than expected {quarter} at {company} thanks to {product}",
        "{company} upgrades its forecast for the second time this year",
        "Big win for {company}: {place} orders {product} worth {money}",
        "{company} enjoys record sales of {product} in {place}",
        "Stock of {company} rallies after strong {quarter} numbers",
        "{company} improves profitability and rewards shareholders with higher dividend",
    ),
    "negative": (
        "Collapsing {product} business wipes out profit at {company}",
        "{company} posts surprise loss, stock plunges",
        "Worse than expected {quarter} at {company} because of {product}",
        "{company} slashes its forecast for the second time this year",
        "Big blow for {company}: {place} cancels {product} worth {money}",
        "{company} suffers steep decline in sales of {product} in {place}",
        "Stock of {company} sinks after weak {quarter} numbers",
        "{company} closes factory in {place} and scraps its dividend",
    ),
    "neutral": (
        "On {date}, {company} will present its {quarter} figures",
        "New office in {place}: {company} relocates its {product} team",
        "{person} takes over as chair of {company}",
        "{company} schedules a call with analysts for {date}",
        "Annual general meeting of {company} takes place in {place}",
        "{company} keeps its guidance for the year as it was",
        "{company} gives its {product} division a new name",
        "{company} announces {person} as its new company secretary",
    ),
}
"""Patterns of the test side, by label; none occurs among those of the train side."""

PRODUCTS = (
    "batteries, cloud services, engines, vaccines, solar panels, sensors, coffee, mobile plans, "
    "home loans, copper, cargo flights, car parts, medical devices, payment terminals, fertiliser, "
    "streaming subscriptions, wind turbines, memory chips, frozen meals, sportswear"
).split(", ")
PLACES = (
    "Singapore, Brazil, Poland, Texas, Norway, Japan, Kenya, Spain, Canada, Vietnam, Italy, "
    "Australia, Mexico, Denmark, India, Chile"
).split(", ")
FIRST_NAMES = (
    "Anna Ben Carla David Elena Farid Grace Hugo Ines Jonas Keiko Liam Maya Noah Olga Priya".split()
)
LAST_NAMES = (
    "Abbott Berger Castillo Dahl Eriksen Fischer Garcia Haddad Ito Jensen Kumar Lindqvist Moreau "
    "Nowak Okafor Petrov"
).split()
MONTHS = (
    "January February March April May June July August September October November December".split()
)
QUARTERS = ("first-quarter", "second-quarter", "third-quarter", "fourth-quarter")
CURRENCIES = ("$", "EUR ")


@dataclass(frozen=True)
class Headline:
    """One labelled headline, and what it was made from."""

    text: str
    label: str
    company: str
    pattern: str


def companies(first_names: Sequence[str]) -> list[str]:
    """Return two companies per first name."""
    count = len(KINDS)
    return [
        f"{first} {KINDS[(2 * i + offset) % count]}"
        for i, first in enumerate(first_names)
        for offset in (0, 5)
    ]


def generate_side(
    patterns: Mapping[str, Sequence[str]], names: Sequence[str], count: int, rng: random.Random
) -> list[Headline]:
    """Make ``count`` different headlines, labels and patterns in equal shares."""
    made: dict[str, Headline] = {}
    turn = 0
    deck: list[str] = []
    while len(made) < count:
        label = LABELS[turn % len(LABELS)]
        pattern = patterns[label][turn // len(LABELS) % len(patterns[label])]
        deck = deck or rng.sample(names, len(names))
        company = deck.pop()
        headline = Headline(fill(pattern, company, rng), label, company, pattern)
        if headline.text not in made:
            made[headline.text] = headline
            turn += 1
    headlines = list(made.values())
    rng.shuffle(headlines)
    return headlines


def fill(pattern: str, company: str, rng: random.Random) -> str:
    """Put values into a pattern."""
    amount = rng.choice((12, 25, 40, 75, 120, 250, 300, 480, 650, 900))
    text = pattern.format(
        company=company,
        product=rng.choice(PRODUCTS),
        place=rng.choice(PLACES),
        person=f"{rng.choice(FIRST_NAMES)} {rng.choice(LAST_NAMES)}",
        percent=rng.randint(3, 48),
        money=f"{rng.choice(CURRENCIES)}{amount} million",
        count=rng.randrange(100, 3000, 50),
        quarter=rng.choice(QUARTERS),
        date=f"{rng.choice(MONTHS)} {rng.randint(1, 28)}",
    )
    return text[0].upper() + text[1:]


def generate(seed: int = 7) -> tuple[list[Headline], list[Headline]]:
    """Return the train and the test side."""
    rng = random.Random(seed)
    train = generate_side(TRAIN_PATTERNS, companies(TRAIN_FIRST), NUM_TRAIN, rng)
    test = generate_side(TEST_PATTERNS, companies(TEST_FIRST), NUM_TEST, rng)
    return train, test


def write_csv(path: Path, headlines: Sequence[Headline]) -> None:
    """Write ``headline,label`` rows."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["headline", "label"])
        writer.writerows([headline.text, headline.label] for headline in headlines)


def main() -> None:
    """Write both sides."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=7)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, side in zip(("train", "test"), generate(arguments.seed), strict=True):
        write_csv(arguments.out / f"{name}.csv", side)
        print(f"wrote {arguments.out / name}.csv: {len(side)} headlines")


if __name__ == "__main__":
    main()
