"""Time of a stage's Job in which none of its pods has a node: nothing is held, nothing is charged.

A Job runs from the moment its pods may be made. A quota may refuse them for hours, and no node may
be free for them. That time is taken off, stretch by stretch; the record is in ``status.stages``, so
that nothing that was counted is lost with pods that are gone or with a restart of the operator.
What nobody saw is counted as if a pod had had a node, as all of it is without a record.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_operator.finetunejob.state.retry import end_of_run
from finetune_operator.finetunejob.state.stages import StageState, StageView
from finetune_operator.finetunejob.state.trimmed import TrimmedPod
from finetune_operator.status.conditions import parse_timestamp


@dataclass(frozen=True, kw_only=True, slots=True)
class Unplaced:
    """Time without a node, of one run of a stage.

    Attributes:
        seconds: Stretches that are over; None before any pod had a node.
        since: Begin of the one that goes on; None while a pod has a node, or nothing runs.
    """

    seconds: int | None = None
    since: datetime | None = None

    def until(self, now: datetime) -> int:
        """Return the seconds up to now."""
        return (self.seconds or 0) + (0 if self.since is None else _seconds(self.since, now))


def find_unplaced(
    entry: Mapping[str, Any], view: StageView, now: datetime, *, reported: datetime | None
) -> Unplaced:
    """Return the time without a node up to now.

    A status is written when something changes that somebody decides on, so the record may be
    behind: what pods that are there tell of it comes first.

    Args:
        entry: What ``status.stages`` holds of this run of the stage; empty for nothing.
        view: The stage as it is.
        now: The present.
        reported: When a pod of the stage last reported progress; None for never.
    """
    if view.job is None:
        return Unplaced()
    found = _up_to_the_last_pod(entry, view, reported)
    if view.has_ended or view.state is StageState.SUSPENDED:
        end = end_of_run(view.job["status"])
        return found if end is None or found.since is None else Unplaced(seconds=found.until(end))
    if view.state is StageState.RUNNING or any(map(_is_placed, view.pods)):
        return Unplaced(seconds=found.until(now))
    if found.since is None and view.run_began is not None:
        # Before the first pod nothing was placed; after one that is gone, nothing is from now on.
        since = view.run_began if found.seconds is None else max(view.run_began, now)
        return Unplaced(seconds=found.seconds, since=since)
    return found


def _up_to_the_last_pod(
    entry: Mapping[str, Any], view: StageView, reported: datetime | None
) -> Unplaced:
    """Return the time up to the last pod that is known to have had a node."""
    told, since = entry.get("unplacedSeconds"), parse_timestamp(entry.get("unplacedSince"))
    if since is None and told is None and _has_a_past(entry, view):
        told = 0  # of an operator that kept no record
    begin = since or (view.run_began if told is None else None)
    if begin is None:
        return Unplaced(seconds=told)
    came = [
        max(begin, at)
        for pod in view.pods
        if pod["spec"]["nodeName"] and (at := _placed_at(pod)) is not None
        # Others had their nodes, and left them, before this stretch began.
        if since is None or at >= since or _is_placed(pod)
    ]
    if came:
        return Unplaced(seconds=(told or 0) + _seconds(begin, min(came)))
    if view.state is StageState.SUCCEEDED or (reported is not None and reported > begin):
        return Unplaced(seconds=told or 0)  # when its pods came is not known any more
    return Unplaced(seconds=told, since=since)


def _has_a_past(entry: Mapping[str, Any], view: StageView) -> bool:
    assert view.job is not None
    return bool(
        entry.get("incidents")
        or entry.get("evictions")
        or view.past_seconds
        or view.job["status"].get("failed")
    )


def _is_placed(pod: TrimmedPod) -> bool:
    return bool(pod["spec"]["nodeName"]) and pod["status"]["phase"] in ("Pending", "Running")


def _placed_at(pod: TrimmedPod) -> datetime | None:
    """Return since when a pod has its node; who got it from no scheduler has it from the first."""
    scheduled = pod["status"].get("scheduledTime")
    return parse_timestamp(scheduled or pod["metadata"].get("creationTimestamp"))


def _seconds(begin: datetime, end: datetime) -> int:
    return max(0, int((end - begin).total_seconds()))
