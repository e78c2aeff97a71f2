"""Pods of an attempt that is over and that have not ended themselves.

A rank whose node is cut off does not end: the others start again and again, and meet nobody. That
is not their doing, and no reason to give a stage up.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from finetune_operator.finetunejob.state.trimmed import (
    Terminated,
    TrimmedPod,
    completion_index,
    container_of,
)
from finetune_operator.status.conditions import find_condition, parse_timestamp

PATIENCE_SECONDS = 1800.0
"""For how long a rank that seems to run excuses the others: a cluster has given up its node by
then, and a rank that runs without them hangs."""

_NEVER = datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Life:
    begin: datetime
    end: datetime | None
    is_deleted: bool
    rank: int


class Stragglers:
    """Tells of each pod whether one of an attempt before outlived it.

    Args:
        pods: The trimmed pods of a stage.
    """

    def __init__(self, pods: Iterable[TrimmedPod]) -> None:
        lives = [life for pod in pods if (life := _life_of(pod)) is not None]
        lives.sort(key=lambda life: life.begin)
        ends = sorted(life.end for life in lives if life.end is not None)
        self._ends_of_rank: dict[int, list[datetime]] = {}
        for life in sorted(lives, key=lambda life: life.end or _NEVER):
            if life.end is not None:
                self._ends_of_rank.setdefault(life.rank, []).append(life.end)
        self._begins = [life.begin for life in lives]
        self._latest_end: list[datetime] = []
        for life in lives:
            end = life.end or _excuse(life, ends)
            self._latest_end.append(max(end, self._latest_end[-1]) if self._latest_end else end)

    def outlived(self, pod: TrimmedPod) -> bool:
        """Return whether, when this pod ended, one of an attempt before had not."""
        life = _life_of(pod)
        if life is None or life.end is None:
            return False
        ends = self._ends_of_rank.get(life.rank, [])
        before = bisect_right(ends, life.begin)
        if not before:
            return False  # the rank's first attempt
        older = bisect_left(self._begins, ends[before - 1])
        return older > 0 and self._latest_end[older - 1] >= life.end


def _excuse(life: _Life, ends: list[datetime]) -> datetime:
    """Return until when a pod that has not ended excuses the others."""
    first = bisect_right(ends, life.begin)
    if life.is_deleted or first == len(ends):
        return _NEVER
    return ends[first] + timedelta(seconds=PATIENCE_SECONDS)


def _life_of(pod: TrimmedPod) -> _Life | None:
    state = container_of(pod)
    ended: Terminated = state.get("terminated") or {}
    begun = ended.get("startedAt") or (state.get("running") or {}).get("startedAt")
    begin = parse_timestamp(begun or pod["metadata"].get("creationTimestamp"))
    if begin is None:
        return None
    end = parse_timestamp(ended.get("finishedAt"))
    if end is None and pod["status"]["phase"] == "Failed":
        disrupted = find_condition(pod["status"].get("conditions"), "DisruptionTarget") or {}
        end = parse_timestamp(disrupted.get("lastTransitionTime")) or begin
    return _Life(
        begin=begin,
        end=end,
        is_deleted=bool(pod["metadata"].get("deletionTimestamp")),
        rank=completion_index(pod),
    )
