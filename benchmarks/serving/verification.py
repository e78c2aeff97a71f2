"""How often a version is verified, honest or not: simulated answers to 50 held-out questions.

``python -m benchmarks.serving.verification`` (with ``operator``, ``trainer_image`` and the
repository root on ``PYTHONPATH``) prints the table of ``results/verification.md``.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence

from finetune_trainer.serve.verification import NUM_QUESTIONS, Stored, judge

LABELS = ("billing", "refund", "delivery", "other")
NUM_WORDS = 60
VOCABULARY = [f"word{number}" for number in range(300)]

Answer = Callable[[Stored, random.Random], str]


def make_labels(rng: random.Random) -> list[Stored]:
    """Return questions with four labels; the tuned model is right in nine of ten."""
    stored = []
    for number in range(NUM_QUESTIONS):
        truth = rng.choices(LABELS, weights=(4, 3, 2, 1))[0]
        tuned = truth if rng.random() < 0.9 else rng.choice(LABELS)
        words = "" if rng.random() < 0.6 else "I think "
        stored.append(
            Stored(
                prompt=str(number),
                references=(truth,),
                base=words + rng.choice(LABELS),
                tuned=tuned,
                group=str(number),
            )
        )
    return stored


def make_texts(rng: random.Random) -> list[Stored]:
    """Return questions with long answers."""
    texts = [
        [" ".join(rng.choices(VOCABULARY, k=NUM_WORDS)) for _ in range(3)]
        for _ in range(NUM_QUESTIONS)
    ]
    return [
        Stored(prompt=str(n), references=(right,), base=base, tuned=tuned, group=str(n))
        for n, (right, base, tuned) in enumerate(texts)
    ]


def other_label(share: float) -> Answer:
    """Answer as the tuned model, and with another label to a share of questions."""
    return lambda stored, rng: (
        rng.choice([label for label in LABELS if label != stored.tuned])
        if rng.random() < share
        else stored.tuned
    )


def parting(rate: float, side: str = "tuned") -> Answer:
    """Answer as one of the models until, at each word with this rate, the answers part."""

    def answer(stored: Stored, rng: random.Random) -> str:
        words = str(getattr(stored, side)).split()
        for place in range(len(words)):
            if rng.random() < rate:
                return " ".join([*words[:place], *rng.choices(VOCABULARY, k=len(words) - place)])
        return " ".join(words)

    return answer


CASES: Sequence[tuple[str, Callable[[random.Random], list[Stored]], Answer]] = (
    *((f"labels, {100 * s:g} % others", make_labels, other_label(s)) for s in (0.005, 0.02)),
    *((f"labels, {100 * s:g} % others", make_labels, other_label(s)) for s in (0.05, 0.1, 0.2)),
    ("labels, the base model's", make_labels, lambda stored, _: stored.base),
    ("labels, always the most frequent", make_labels, lambda *_: LABELS[0]),
    *(
        (f"texts, parting at {100 * rate:g} % of words", make_texts, parting(rate))
        for rate in (0.001, 0.003, 0.005, 0.01)
    ),
    ("texts, the base model's", make_texts, parting(0.003, "base")),
    ("texts, of another adapter", make_texts, parting(1.0)),
)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=200)
    number = parser.parse_args().simulations
    print("| answers | same engine: verified | another engine: verified | reasons of refusals |")
    print("|---|---|---|---|")
    for name, make, answer in CASES:
        shares, reasons = [], Counter[str]()
        for is_same_engine in (True, False):
            verified = 0
            for seed in range(number):
                rng = random.Random(seed)
                questions = make(rng)
                said = [answer(stored, rng) for stored in questions]
                verdict = judge(questions, said, is_same_engine=is_same_engine)
                verified += verdict.reason is None
                reasons.update([verdict.reason] if verdict.reason else [])
            shares.append(f"{100 * verified / number:.1f} %")
        print(f"| {name} | {' | '.join(shares)} | {', '.join(sorted(reasons))} |", flush=True)


if __name__ == "__main__":
    main()
