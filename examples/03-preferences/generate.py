# ruff: noqa: SIM905 - word lists read better as text
"""Generate customers' messages with two drafts of a reply; seeded, standard library only.

One draft says what happens next and by when; the other, as polite, leaves it to the customer. Both
are of about the same length, so that length does not tell them apart.

Writes ``train.jsonl`` and ``test.jsonl`` (``prompt``, ``chosen``, ``rejected``). The sides share
neither products nor problems, nor a sentence of their drafts.

Usage: ``python generate.py [--out FOLDER] [--seed N]``
"""

from __future__ import annotations

import argparse
import json
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

NUM_TRAIN, NUM_TEST = 160, 60

NAMES = "Ada Bruno Chiara Deniz Elif Farid Greta Hugo Ines Jonas Kaya Lena Marek Nora Omar".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday".split()
OPENINGS = ("Hello", "Hi there", "Good morning", "Good afternoon")


@dataclass(frozen=True)
class Side:
    """What one side is made of; ``{product}``, ``{name}``, ``{day}`` and ``{hour}`` are filled in.

    Attributes:
        products: What was bought.
        problems: What is wrong with it.
        chosen: Drafts that say what happens next, in their two sentences.
        rejected: Drafts that do not.
    """

    products: Sequence[str]
    problems: Sequence[str]
    chosen: tuple[Sequence[str], Sequence[str]]
    rejected: tuple[Sequence[str], Sequence[str]]


TRAIN = Side(
    products="kettle, backpack, desk lamp, toaster, office chair, rain jacket, radio, bread knife, "
    "garden hose, picture frame, bookshelf, tent, hand mixer, bath towel, umbrella, door lock, "
    "yoga mat, camera, coffee grinder, table cloth".split(", "),
    problems=(
        "My {product} arrived with a scratch on the side.",
        "The {product} I ordered has not come yet.",
        "I was charged twice for one {product}.",
        "The {product} stopped working after a week.",
        "You sent me a {product} in the wrong colour.",
        "How do I send back a {product} that I do not need?",
        "One part of the {product} was missing from the box.",
        "The {product} is smaller than your page says.",
    ),
    chosen=(
        (
            "I am sorry about the {product}; {name} has opened a case for you just now.",
            "Thank you for telling us; {name} from our workshop takes care of the {product}.",
            "That should not happen, and {name} is already looking into your order.",
            "I have passed this on to {name}, who is in charge of every {product} we sell.",
        ),
        (
            "You will get an e-mail with the next step by {day} at {hour}.",
            "We will call you on {day} before {hour} and tell you what comes next.",
            "A free label for the parcel is in your inbox by {day}, {hour}.",
            "Your money or a new one is on its way by {day} at {hour}.",
        ),
    ),
    rejected=(
        (
            "I am sorry about the {product}; such things can happen with any order.",
            "Thank you for telling us; most customers are happy with their {product}.",
            "That is a pity, but a {product} like this one is hard to get right.",
            "I have read your message about the {product} with great interest.",
        ),
        (
            "Please look at our pages, where most questions are answered somewhere.",
            "It may be best to wait for a while and see whether it sorts itself out.",
            "You could have a look at the terms and the leaflet that came with your order.",
            "Please write again at some other time if it still bothers you.",
        ),
    ),
)
TEST = Side(
    products="water bottle, doormat, bicycle bell, teapot, wall clock, suitcase, drill, "
    "piano stool, hair dryer, sledge, violin case, sewing machine".split(", "),
    problems=(
        "The handle of the {product} came off.",
        "My {product} was left at the wrong address.",
        "The voucher did not work when I paid for the {product}.",
        "I would like to swap my {product} for a larger one.",
        "The receipt for the {product} shows an old address.",
        "Nobody told me that the {product} has to be assembled.",
        "Is it normal that the {product} smells of glue?",
        "A neighbour got a discount on the same {product} and I did not.",
    ),
    chosen=(
        (
            "We apologise for the trouble; our colleague {name} handles your request today.",
            "Your request is with {name} now, together with the order of the {product}.",
            "{name} has checked the order and is putting the {product} right for you.",
        ),
        (
            "Expect our answer with a solution no later than {day}, {hour}.",
            "By {day} at {hour} you will know from us how it goes on.",
            "The courier comes to your door on {day} around {hour}.",
        ),
    ),
    rejected=(
        (
            "We apologise for the trouble, although nobody else has told us of it.",
            "Your request is one of many that we get about the {product}.",
            "Every {product} leaves our house in good order, as far as we know.",
        ),
        (
            "Perhaps somebody among your friends or neighbours knows what can be done.",
            "There is some advice on the internet that might be of use to you.",
            "We hope that you will enjoy it in spite of everything.",
        ),
    ),
)


@dataclass(frozen=True)
class Pair:
    """One message and its two drafts."""

    prompt: str
    chosen: str
    rejected: str


def generate_side(side: Side, count: int, rng: random.Random) -> list[Pair]:
    """Make ``count`` pairs with messages that all differ."""
    asked = [(product, problem) for product in side.products for problem in side.problems]
    pairs = []
    for product, problem in rng.sample(asked, count):
        values = {
            "product": product,
            "name": rng.choice(NAMES),
            "day": rng.choice(DAYS),
            "hour": f"{rng.randint(9, 17)}:00",
        }
        drafts = (
            " ".join(rng.choice(part) for part in draft).format(**values)
            for draft in (side.chosen, side.rejected)
        )
        prompt = f"{rng.choice(OPENINGS)}. {problem.format(product=product)}"
        pairs.append(Pair(prompt, *drafts))
    return pairs


def generate(seed: int = 5) -> tuple[list[Pair], list[Pair]]:
    """Return the train and the test side."""
    rng = random.Random(seed)
    return generate_side(TRAIN, NUM_TRAIN, rng), generate_side(TEST, NUM_TEST, rng)


def main() -> None:
    """Write both sides."""
    parser = argparse.ArgumentParser(description="Generate messages with two drafts of a reply.")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "data")
    parser.add_argument("--seed", type=int, default=5)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, side in zip(("train", "test"), generate(arguments.seed), strict=True):
        path = arguments.out / f"{name}.jsonl"
        path.write_text("".join(json.dumps(asdict(pair)) + "\n" for pair in side), encoding="utf-8")
        print(f"wrote {path}: {len(side)} pairs")


if __name__ == "__main__":
    main()
