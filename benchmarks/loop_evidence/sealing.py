"""How much too good held-out rows make a model look after ten cycles, sealed and not sealed."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from benchmarks.evidence.looks import make_job
from numpy.typing import NDArray

from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.verdict.certainty import raise_certainty, withhold_unshown
from finetune_trainer.verdict.goal import Measurement, certainty_of, check_goal

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

NUM_CYCLES = 10
SHOWN = (1, 2, 5, 10)
NUM_SEALED = 200
NUM_NEW = 40
"""Held-out rows that each further cycle adds."""
TRUTH = 0.8
SPREAD = 0.01
"""Standard deviation of the truth of candidates: chance of training."""
HARDNESS = 3.0
"""Rows differ by a beta distribution with this sum of parameters: some are hard for all."""
MEMORY = 0.98
"""Share of the rows it was trained on that a model answers right."""
REPEATED = 0.05
"""Share of the held-out questions that users repeat or correct from one cycle to the next."""
TRAIN_SHARE = 0.8
BETTER = 0.05


@dataclass(frozen=True, kw_only=True, slots=True)
class Arm:
    """A way to hold rows out.

    Attributes:
        words: The same in words.
        adds: Each cycle adds new rows.
        leaks: What users repeat of the held-out rows is trained on.
        divides: All rows are divided anew in each cycle.
    """

    words: str
    adds: bool = False
    leaks: bool = False
    divides: bool = False


ARMS = (
    Arm(words="sealed, and new rows beside them (`dataset.anchor`)", adds=True),
    Arm(words="the first cycle's rows alone, sealed"),
    Arm(words="the first cycle's rows, and what users repeat of them is trained on", leaks=True),
    Arm(words="all rows divided by another seed in each cycle", divides=True),
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Optimism:
    """What held-out rows say of the version that answers, after some cycles.

    Attributes:
        words: How rows are held out.
        cycle: After which cycle.
        bias: Mean of its score less its truth.
        error: Standard error of that.
        on_new: The same on the rows added since the first cycle; None without any.
        refused: Share of candidates better by ``BETTER`` that score lower than it.
    """

    words: str
    cycle: int
    bias: float
    error: float
    on_new: float | None
    refused: float


def optimisms(num_loops: int) -> Iterator[Optimism]:
    """Yield the optimism of each arm after some cycles."""
    for arm in ARMS:
        loops = _Loops(arm, num_loops)
        for cycle in range(1, NUM_CYCLES + 1):
            loops.take_cycle(cycle)
            if cycle in SHOWN:
                yield loops.measure(cycle)


@dataclass(kw_only=False)
class _Loops:
    """Many loops at once. In each cycle the candidate that scores better answers from then on."""

    arm: Arm
    number: int
    rng: np.random.Generator = field(init=False)
    ease: Floats = field(init=False)
    is_known: Flags = field(init=False)
    truth: Floats = field(init=False)
    answers: Flags = field(init=False)

    def __post_init__(self) -> None:
        self.rng = np.random.default_rng(29)
        self.ease = self._draw_rows(NUM_SEALED)
        self.is_known = np.zeros(self.ease.shape, dtype=bool)
        self.truth = np.full(self.number, -np.inf)
        self.answers = np.zeros(self.ease.shape, dtype=bool)

    def take_cycle(self, cycle: int) -> None:
        """Train a candidate, and let it answer from now on if it scores better."""
        if cycle > 1:
            self._change_rows()
        truth = TRUTH + SPREAD * self.rng.standard_normal(self.number)
        said = self._answer(truth, self.is_known)
        if self.arm.divides:
            said = self._answer(truth, np.zeros_like(self.is_known))
        wins = said.mean(axis=1) > self.answers.mean(axis=1)
        wins |= cycle == 1
        self.truth = np.where(wins, truth, self.truth)
        self.answers = np.where(wins[:, None], said, self.answers)

    def measure(self, cycle: int) -> Optimism:
        """Return what the held-out rows say of the versions that answer."""
        bias = self.answers.mean(axis=1) - self.truth
        new = self.answers[:, NUM_SEALED:].mean(axis=1) - self.truth if self.has_new else None
        unknown = np.zeros_like(self.is_known) if self.arm.divides else self.is_known
        better = self._answer(self.truth + BETTER, unknown)
        refused = better.mean(axis=1) <= self.answers.mean(axis=1)
        return Optimism(
            words=self.arm.words,
            cycle=cycle,
            bias=float(bias.mean()),
            error=float(bias.std() / np.sqrt(self.number)),
            on_new=None if new is None else float(new.mean()),
            refused=float(refused.mean()),
        )

    @property
    def has_new(self) -> bool:
        """Whether rows were added."""
        return bool(self.ease.shape[1] > NUM_SEALED)

    def _change_rows(self) -> None:
        if self.arm.adds:
            self._add_rows(NUM_NEW)
        if self.arm.leaks:
            self.is_known |= self.rng.random(self.is_known.shape) < REPEATED
        if self.arm.divides:
            self.ease = self._draw_rows(NUM_SEALED)
            self.is_known = self.rng.random(self.ease.shape) < TRAIN_SHARE
            self.answers = self._answer(self.truth, self.is_known)

    def _add_rows(self, number: int) -> None:
        self.ease = np.hstack([self.ease, self._draw_rows(number)])
        more = np.zeros((self.number, number), dtype=bool)
        self.is_known = np.hstack([self.is_known, more])
        said = self._answer(self.truth, self.is_known)[:, -number:]
        self.answers = np.hstack([self.answers, said])

    def _draw_rows(self, number: int) -> Floats:
        a, b = TRUTH * HARDNESS, (1 - TRUTH) * HARDNESS
        return self.rng.beta(a, b, size=(self.number, number))

    def _answer(self, truth: Floats, is_known: Flags) -> Flags:
        """Return whether models answer right: known rows from memory, others by their ease."""
        # A model that is better by d has d of what others have wrong, or loses d of what is right.
        up = np.maximum(truth - TRUTH, 0)[:, None] / (1 - TRUTH)
        down = np.maximum(TRUTH - truth, 0)[:, None] / TRUTH
        rate = self.ease + (1 - self.ease) * up - self.ease * down
        right: Flags = self.rng.random(self.ease.shape) < np.where(is_known, MEMORY, rate)
        return right


@dataclass(frozen=True, kw_only=True, slots=True)
class Passed:
    """How often versions meet a goal of ``TRUTH``, with looks counted and not counted.

    Attributes:
        num_cycles: Within, or after, so many cycles.
        num_rows: Held-out rows in the last of them.
        by_luck: Share of loops in which a version whose truth is just the goal met it; counted.
        by_luck_uncounted: The same with ``evaluation.looks: Report``.
        better: Share of versions better by ``BETTER`` that meet it in the last cycle; counted.
        better_uncounted: The same with ``evaluation.looks: Report``.
    """

    num_cycles: int
    num_rows: int
    by_luck: float
    by_luck_uncounted: float
    better: float
    better_uncounted: float


def passed(num_loops: int) -> Iterator[Passed]:
    """Yield how often goals are met by luck, and by versions that are better."""
    rng = np.random.default_rng(29)
    a, b = TRUTH * HARDNESS, (1 - TRUTH) * HARDNESS
    ease = rng.beta(a, b, size=(num_loops, NUM_SEALED + NUM_NEW * (NUM_CYCLES - 1)))
    lucky = np.zeros((2, num_loops), dtype=bool)
    for look in range(1, NUM_CYCLES + 1):
        num_rows = NUM_SEALED + NUM_NEW * (look - 1)
        rates = (ease[:, :num_rows], _better(ease[:, :num_rows]))
        equal, better = ((rng.random(rate.shape) < rate).sum(axis=1) for rate in rates)
        counted, uncounted = (_least_hits(number, num_rows) for number in (look, None))
        lucky |= np.stack([equal >= counted, equal >= uncounted])
        if look in SHOWN:
            by_luck, by_luck_uncounted = lucky.mean(axis=1).tolist()
            yield Passed(
                num_cycles=look,
                num_rows=num_rows,
                by_luck=by_luck,
                by_luck_uncounted=by_luck_uncounted,
                better=float((better >= counted).mean()),
                better_uncounted=float((better >= uncounted).mean()),
            )


def _better(ease: Floats) -> Floats:
    return ease + (1 - ease) * BETTER / (1 - TRUTH)


def _least_hits(look: int | None, num_rows: int) -> int:
    """Return with how many hits the goal is met at a look, or where looks are not counted."""
    job = make_job()
    if look is not None:
        job = job.model_copy(update={"spec": raise_certainty(job.spec, look)})

    def is_met(hits: int) -> bool:
        tuned = confidence_of_share(hits, num_rows).interval(certainty_of(job.spec.goal))
        found = Measurement(base=tuned, tuned=tuned, gain=tuned, num_prompts=num_rows)
        return bool(withhold_unshown(job, *check_goal(job.spec.goal, found))[0])

    return bisect_left(range(num_rows + 1), True, key=is_met)
