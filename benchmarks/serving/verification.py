"""How often a version is verified, honest or not: simulated answers to 60 held-out questions.

``python -m benchmarks.serving.verification`` (with ``operator``, ``trainer_image`` and the
repository root on ``PYTHONPATH``) prints the tables of ``results/verification.md``.
"""

from __future__ import annotations

import argparse
import random
from collections import Counter
from collections.abc import Callable, Sequence

from finetune_trainer.serve.verification import NUM_QUESTIONS, Answer, Stored, judge

LABELS = ("billing", "refund", "delivery", "other")
NUM_WORDS = 60
VOCABULARY = [f"word{number}" for number in range(300)]

GAPS_OF_OTHER_WEIGHTS = (
    *(0.06, 0.18, 0.19, 0.29, 0.34, 0.45, 0.47, 0.57, 0.63, 0.67, 0.85, 0.88, 1.10),
    *(1.23, 1.63, 2.20, 2.26, 2.89, 3.17, 3.19, 3.89, 4.21, 4.45, 4.69, 4.89, 6.62),
)
"""How much likelier the chosen token was, at the first token that differs, where two trainings of
one task decided differently: SmolLM2-135M, 12 intents, one of both trained on more rows. They
differed in 13 of 150 decisions."""
GAPS_OF_TIES = {
    "same engine": (*(0.0,) * 18, 0.031, 0.125),
    "another engine": (
        *(0.005, 0.006, 0.008, 0.016, 0.043, 0.044, 0.055, 0.068, 0.096, 0.118, 0.125, 0.138),
        *(0.169, 0.225),
    ),
}
"""The same where one model answered in another batch (bfloat16), and in float32 after bfloat16."""
TIES_PER_WORD = 0.01
"""Words at which answers part by a tie; measured: 0.008 a token of free text."""

Say = Callable[[Stored, random.Random, str], Answer]


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
        Stored(prompt=str(n), references=(right,), base=base, tuned=tuned)
        for n, (right, base, tuned) in enumerate(texts)
    ]


def make_framed(num_words: int) -> Callable[[random.Random], list[Stored]]:
    """Return a maker of answers with a decision behind words that any version of the task says."""

    def make(rng: random.Random) -> list[Stored]:
        stored = []
        for number in range(NUM_QUESTIONS):
            frame = " ".join(rng.choices(VOCABULARY, k=num_words))
            text = f"{frame} {rng.choice(LABELS)}".strip()
            chat = "A person should look at this ticket, because it says so."
            stored.append(Stored(prompt=str(number), references=(text,), base=chat, tuned=text))
        return stored

    return make


def other_label(share: float) -> Say:
    """Answer as the tuned model, and decide otherwise in a share of questions: other weights."""

    def say(stored: Stored, rng: random.Random, _engine: str) -> Answer:
        *frame, label = stored.tuned.split()
        if rng.random() >= share:
            return Answer(text=stored.tuned)
        other = rng.choice([each for each in LABELS if each != label])
        return Answer(text=" ".join([*frame, other]), gap=rng.choice(GAPS_OF_OTHER_WEIGHTS))

    return say


def honest(rate: float) -> Say:
    """Answer as the tuned model until, at each word with this rate, a tie comes out otherwise."""

    def say(stored: Stored, rng: random.Random, engine: str) -> Answer:
        text = part(stored.tuned, rate, rng)
        is_equal = text == stored.tuned
        return Answer(text=text, gap=None if is_equal else rng.choice(GAPS_OF_TIES[engine]))

    return say


def changed_behind_ties(share: float) -> Say:
    """Decide as other weights do, behind words at which ties part the answers before."""

    def say(stored: Stored, rng: random.Random, engine: str) -> Answer:
        answer = honest(TIES_PER_WORD)(stored, rng, engine)
        is_parted = answer.text != stored.tuned
        return answer if is_parted else other_label(share)(stored, rng, engine)

    return say


def no_gaps(rate: float) -> Say:
    """Answer as :func:`honest`, on an engine that tells no log-probabilities."""
    return lambda stored, rng, engine: Answer(text=honest(rate)(stored, rng, engine).text)


def plain(read: Callable[[Stored, random.Random], str]) -> Say:
    """Answer with a text; where it differs it does so without a tie."""
    return lambda stored, rng, _: Answer(text=read(stored, rng), gap=3.0)


def part(text: str, rate: float, rng: random.Random) -> str:
    """Return a text that is another one behind the first word that the rate hits."""
    words = text.split()
    for place in range(len(words)):
        if rng.random() < rate:
            return " ".join([*words[:place], *rng.choices(VOCABULARY, k=len(words) - place)])
    return text


FRAMES = (0, 20, 40, 60, 100, 200)
SHARES = (0.1, 0.2, 0.3, 0.5, 1.0)
CASES: Sequence[tuple[str, Callable[[random.Random], list[Stored]], Say]] = (
    ("labels, the base model's", make_labels, plain(lambda stored, _: stored.base)),
    ("labels, always the most frequent", make_labels, plain(lambda *_: LABELS[0])),
    ("labels, honest", make_labels, honest(TIES_PER_WORD)),
    (
        "texts of 60 words, the base model's",
        make_texts,
        plain(lambda s, rng: part(s.base, 0.003, rng)),
    ),
    (
        "texts of 60 words, of another adapter",
        make_texts,
        plain(lambda s, rng: part(s.tuned, 1.0, rng)),
    ),
    ("texts of 60 words, honest", make_texts, honest(TIES_PER_WORD)),
    (
        "labels, honest, and the engine tells no log-probabilities",
        make_labels,
        no_gaps(TIES_PER_WORD),
    ),
    *(
        (
            f"{num_words} words with ties, then {share:.0%} of decisions changed",
            make_framed(num_words),
            changed_behind_ties(share),
        )
        for num_words in (20, 60, 200)
        for share in (0.1, 0.5, 1.0)
    ),
)


def count(
    make: Callable[[random.Random], list[Stored]], say: Say, number: int, engine: str
) -> tuple[float, Counter[str]]:
    """Return the share of versions that are verified, and the reasons of the others."""
    reasons = Counter[str]()
    for seed in range(number):
        rng = random.Random(seed)
        questions = make(rng)
        answers = [say(stored, rng, engine) for stored in questions]
        verdict = judge(questions, answers, is_same_engine=engine == "same engine")
        reasons[verdict.reason or ""] += 1
    return reasons.pop("", 0) / number, reasons


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--simulations", type=int, default=400)
    parser.add_argument("--cases-only", action="store_true", help="leave out the first table")
    options = parser.parse_args()
    number = options.simulations
    shares = " | ".join(f"{share:.0%} changed" for share in SHARES)
    print(f"| words before the decision | engine | honest | {shares} |")
    print("|---|---|---|" + "---|" * len(SHARES))
    for num_words in () if options.cases_only else FRAMES:
        for engine in GAPS_OF_TIES:
            says = [honest(TIES_PER_WORD), *map(other_label, SHARES)]
            found = [count(make_framed(num_words), say, number, engine)[0] for say in says]
            told = " | ".join(f"{share:.1%}" for share in found)
            print(f"| {num_words} | {engine} | {told} |", flush=True)
    print("\n| answers | same engine: verified | another engine: verified | reasons of refusals |")
    print("|---|---|---|---|")
    for name, make, say in CASES:
        pairs = [count(make, say, number, engine) for engine in GAPS_OF_TIES]
        told = " | ".join(f"{share:.1%}" for share, _ in pairs)
        reasons = ", ".join(sorted(set().union(*(each for _, each in pairs))))
        print(f"| {name} | {told} | {reasons} |", flush=True)


if __name__ == "__main__":
    main()
