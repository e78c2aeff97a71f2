"""Which questions reviewers are shown. Pure.

Most are drawn at random, so that what is said of them holds for all; a quarter are those where the
tuned model did worst, which nobody should publish without having read.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from finetune_trainer.evaluate.metrics.words import is_equal

WORST_SHARE = 4
"""One question in so many is drawn for its bad score."""

DrawnAs = Literal["random", "worst"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Candidate:
    """One held-out question that may be shown.

    Attributes:
        base: The base model's answer.
        tuned: The tuned model's.
        score: The tuned model's score by the goal's metric, more is better.
        gain: That score minus the base model's.
        stratum: What the questions are spread over: a slice, or the label.
    """

    base: str
    tuned: str
    score: float = 0.0
    gain: float = 0.0
    stratum: str = ""


@dataclass(frozen=True, kw_only=True, slots=True)
class Draw:
    """The questions that are shown.

    Attributes:
        random: Places of those drawn at random, ascending. All of the questions with different
            answers had the same chance.
        worst: Places of those drawn for their bad score, ascending.
        num_equal: Questions that both models answer alike: there is nothing to compare.
    """

    random: tuple[int, ...]
    worst: tuple[int, ...]
    num_equal: int


def draw_questions(candidates: Sequence[Candidate], *, number: int, seed: int) -> Draw:
    """Draw questions whose answers differ, spread over their strata.

    Drawn at random is every question with the same chance, and of each stratum as large a share as
    it has of all, to within one question. With no more questions than asked for, all are shown.

    Args:
        candidates: All questions.
        number: How many to show at most.
        seed: Of the draw.

    Source: Madow 1949, systematic sampling from an ordered list.
    """
    different = [i for i, each in enumerate(candidates) if not is_equal(each.base, each.tuned)]
    num_equal = len(candidates) - len(different)
    if len(different) <= number:
        return Draw(random=tuple(different), worst=(), num_equal=num_equal)
    generator = random.Random(seed)  # noqa: S311 - no secret: the key is drawn elsewhere
    num_worst = number // WORST_SHARE
    num_random = number - num_worst
    shuffled = generator.sample(different, len(different))
    ordered = sorted(shuffled, key=lambda i: candidates[i].stratum)
    start = generator.random()
    step = len(ordered) / num_random
    drawn = {ordered[int((start + place) * step)] for place in range(num_random)}
    rest = [i for i in different if i not in drawn]
    worst = sorted(rest, key=lambda i: (candidates[i].score, candidates[i].gain, i))[:num_worst]
    return Draw(random=tuple(sorted(drawn)), worst=tuple(sorted(worst)), num_equal=num_equal)
