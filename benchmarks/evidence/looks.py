"""How often a candidate that is no better than its goal is published in one of many retrainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.evidence.coverage import SEED

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.looks import Look, count_before, read_held_out_prompts
from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.verdict.certainty import raise_certainty, withhold_unshown
from finetune_trainer.verdict.goal import Measurement, certainty_of, check_goal

TRUTH = 0.8
NUM_ROWS = 100
BETTER = 0.9
"""What the candidate is right in whose power is told."""
LOOKS = (1, 2, 5, 10, 20)
HARDNESS = 3.0
"""Rows differ by a beta distribution with this sum of parameters: some are hard for all."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """Share of held-out sides against which at least one of some retrainings is published.

    Attributes:
        candidates: How the candidates are drawn.
        num_looks: Retrainings that are held against one held-out side.
        reported: With ``evaluation.looks: Report``.
        corrected: With ``Correct``.
        better_reported: With ``Report``, share of the last of these looks at which a candidate is
            published that is right in :data:`BETTER`.
        better_corrected: The same with ``Correct``.
    """

    candidates: str
    num_looks: int
    reported: float
    corrected: float
    better_reported: float
    better_corrected: float


def published_once(num_sides: int) -> Iterator[Published]:
    """Yield how often a candidate is published whose truth is just the goal."""
    from scipy.stats import binom

    verdicts = {is_corrected: _verdicts(is_corrected) for is_corrected in (False, True)}
    chances = binom.pmf(np.arange(NUM_ROWS + 1), NUM_ROWS, BETTER)
    for candidates, num_changed in (
        ("drawn alone", 0),
        ("with rows that are hard for all", 0),
        ("drawn alone, one row changed each time", 1),
        ("with rows that are hard for all, one row changed each time", 1),
    ):
        rng = np.random.default_rng(SEED)
        num_rows = NUM_ROWS + num_changed * (max(LOOKS) - 1)
        rate = np.full((num_sides, num_rows), TRUTH)
        if "hard" in candidates:
            a, b = TRUTH * HARDNESS, (1 - TRUTH) * HARDNESS
            rate = rng.beta(a, b, size=(num_sides, num_rows))
        hits = np.empty((num_sides, max(LOOKS)), dtype=np.int64)
        for look in range(max(LOOKS)):
            seen = rate[:, num_changed * look :][:, :NUM_ROWS]
            hits[:, look] = (rng.random(seen.shape) < seen).sum(axis=1)
        places = {False: np.arange(max(LOOKS)), True: np.array(_count_looks(num_changed)) - 1}
        passed = {each: table[places[each], hits] for each, table in verdicts.items()}
        for number in LOOKS:
            reported, corrected = (
                float(passed[each][:, :number].any(axis=1).mean()) for each in (False, True)
            )
            power = {
                each: float(chances @ table[places[each][number - 1]])
                for each, table in verdicts.items()
            }
            yield Published(
                candidates=candidates,
                num_looks=number,
                reported=reported,
                corrected=corrected,
                better_reported=power[False],
                better_corrected=power[True],
            )


def _count_looks(num_changed: int) -> list[int]:
    """Return the numbers of looks at held-out sides of which so many rows change each time."""
    looks: list[Look] = []
    numbers = []
    for look in range(max(LOOKS)):
        first = num_changed * look
        rows = [{"prompt": f"Which is item {n}?"} for n in range(first, first + NUM_ROWS)]
        held_out = read_held_out_prompts([{**row, "completion": "this"} for row in rows])
        numbers.append(count_before(held_out, looks).number)
        looks.append(Look(name=f"{look}", held_out=held_out))
    return numbers


def _verdicts(is_corrected: bool) -> np.ndarray[tuple[int, int], np.dtype[np.bool_]]:
    """Return by look and number of hits whether the goal is met, as the evaluation says."""
    job = make_job()
    scores = [confidence_of_share(hits, NUM_ROWS) for hits in range(NUM_ROWS + 1)]
    met = np.zeros((max(LOOKS), NUM_ROWS + 1), dtype=bool)
    for look in range(max(LOOKS)):
        spec = raise_certainty(job.spec, look + 1) if is_corrected else job.spec
        judged = job.model_copy(update={"spec": spec})
        for hits, score in enumerate(scores):
            tuned = score.interval(certainty_of(judged.spec.goal))
            found = Measurement(base=tuned, tuned=tuned, gain=tuned, num_prompts=NUM_ROWS)
            met[look, hits] = bool(
                withhold_unshown(judged, *check_goal(judged.spec.goal, found))[0]
            )
    return met


def make_job() -> ResolvedJob:
    """Return a job whose goal is ``TRUTH``."""
    spec = {
        "model": {"uri": "hf://example/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models"},
        "goal": {"metric": "exactMatch", "atLeast": str(TRUTH)},
    }
    return ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})
