"""A census of all FineTuneJobs: states, GPUs, and jobs that wait too long. Pure.

It passes once over the cache at each scrape.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from finetune_operator.finetunejob.state.gpu_time import gpus_of
from finetune_operator.finetunejob.state.waiting import (
    STAGE_OF_PHASE,
    Wait,
    current_stage,
    find_wait,
    phase_of,
    reason_of,
)

Object = dict[str, Any]

_T = TypeVar("_T")

WAITING_SECONDS = 300.0
"""A job that waits for less has no series of its own."""
MAX_WAITING = 100
"""Most single jobs in each state, so that jobs that wait for quota do not displace stuck ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Census:
    """All jobs at one moment.

    Attributes:
        jobs: Number of jobs by namespace, phase and reason.
        gpus: GPUs by namespace and state: ``held`` by pods, or ``queued`` for.
        waits: Jobs that have waited for ``WAITING_SECONDS`` or more, the longest ``MAX_WAITING`` of
            each state.
    """

    jobs: Counter[tuple[str, str, str]]
    gpus: Counter[tuple[str, str]]
    waits: list[Wait]


def take_census(jobs: Iterable[Object], now: datetime, *, expects_progress: bool) -> Census:
    """Count all jobs."""
    counts: Counter[tuple[str, str, str]] = Counter()
    gpus: Counter[tuple[str, str]] = Counter()
    waits: list[Wait] = []
    for job in jobs:
        namespace = job["metadata"]["namespace"]
        phase = phase_of(job)
        counts[namespace, phase, reason_of(job)] += 1
        if phase == "Queued":
            gpus[namespace, "queued"] += gpus_of(job, current_stage(job))
        elif (stage := STAGE_OF_PHASE.get(phase)) is not None:
            gpus[namespace, "held"] += gpus_of(job, stage)
        wait = find_wait(job, now, expects_progress=expects_progress)
        if wait is not None and wait.seconds >= WAITING_SECONDS:
            waits.append(wait)
    return Census(
        jobs=counts,
        gpus=+gpus,
        waits=keep_longest(waits, state=lambda wait: wait.state, seconds=lambda wait: wait.seconds),
    )


def keep_longest(
    waits: Iterable[_T], *, state: Callable[[_T], str], seconds: Callable[[_T], float]
) -> list[_T]:
    """Return the ``MAX_WAITING`` longest waits of each state, longest first.

    Args:
        waits: The waits.
        state: Returns the state of a wait.
        seconds: Returns its duration.
    """
    by_state: dict[str, list[_T]] = {}
    for wait in waits:
        by_state.setdefault(state(wait), []).append(wait)
    return [
        wait
        for found in by_state.values()
        for wait in heapq.nlargest(MAX_WAITING, found, key=seconds)
    ]
