"""How often a candidate that is no better than its goal is published in one of many retrainings."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from benchmarks.evidence.coverage import SEED

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.statistics.bounded import confidence_of_share
from finetune_trainer.verdict.certainty import raise_certainty, withhold_unshown
from finetune_trainer.verdict.goal import Measurement, certainty_of, check_goal

TRUTH = 0.8
NUM_ROWS = 100
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
    """

    candidates: str
    num_looks: int
    reported: float
    corrected: float


def published_once(num_sides: int) -> Iterator[Published]:
    """Yield how often a candidate is published whose truth is just the goal."""
    verdicts = {is_corrected: _verdicts(is_corrected) for is_corrected in (False, True)}
    for candidates in ("drawn alone", "with rows that are hard for all"):
        rng = np.random.default_rng(SEED)
        rate = np.full((num_sides, 1, NUM_ROWS), TRUTH)
        if candidates != "drawn alone":
            a, b = TRUTH * HARDNESS, (1 - TRUTH) * HARDNESS
            rate = rng.beta(a, b, size=(num_sides, 1, NUM_ROWS))
        drawn = rng.random((num_sides, max(LOOKS), NUM_ROWS)) < rate
        hits = drawn.sum(axis=2)
        places = np.arange(max(LOOKS))
        passed = {each: table[places, hits] for each, table in verdicts.items()}
        for number in LOOKS:
            reported, corrected = (
                float(passed[each][:, :number].any(axis=1).mean()) for each in (False, True)
            )
            yield Published(
                candidates=candidates, num_looks=number, reported=reported, corrected=corrected
            )


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
