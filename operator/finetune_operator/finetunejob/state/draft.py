"""The status of a FineTuneJob being built during one plan."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from functools import partial
from typing import Any

from finetune_api.names import run_of
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_operator.finetunejob.state.failure import Cause
from finetune_operator.finetunejob.state.gpu_time import find_unplaced, running_time_of
from finetune_operator.finetunejob.state.retry import Ledger, queue_evictions
from finetune_operator.finetunejob.state.stages import STAGES, StageState, StageView
from finetune_operator.status.conditions import parse_timestamp, timestamp
from finetune_operator.status.draft import Draft
from finetune_operator.status.fitting import FittedStatus, StatusSchema

Object = dict[str, Any]

_ORDER = {stage.value: index for index, stage in enumerate(STAGES)}

OWNED_FIELDS = (
    "observedGeneration",
    "phase",
    "reason",
    "conditions",
    "startTime",
    "completionTime",
    "trainerImage",
    "jobDigest",
    "stages",
    "dataset",
    "approvalPolicy",
    "traffic",
    "dataApproval",
    "publication",
    "selection",
    "artifact",
    "evaluation",
    "tracking",
    "queue",
    "attempts",
    "cost",
    "estimate",
    "lastFailure",
)
"""What the operator's field manager owns; ``progress`` and ``metrics`` belong to the pushes."""
STATUS = StatusSchema(FineTuneJobStatus)


class JobDraft(Draft):
    """Mutable status of one plan, with the stages, attempts and failures of a FineTuneJob."""

    def __init__(self, job: Object, now: datetime) -> None:
        super().__init__(job, STATUS, OWNED_FIELDS, now)
        self._stages: dict[str, Object] = {
            item["name"]: dict(item) for item in self._stored.get("stages") or ()
        }
        self._extra: Object = {}

    def put_final_progress(self, progress: Object, metrics: list[Object]) -> None:
        """Take over progress and metrics at the end, when no push will follow."""
        self._extra["progress"] = progress
        if metrics:
            self._extra["metrics"] = metrics

    def restart_progress(self, stage: Stage) -> None:
        """Show 0 percent of a stage until its first push.

        The last stage's 100 percent would stand there until then. The pushes' field manager takes
        the fields over with its first write; until that the operator has to repeat them.
        """
        stored = self._stored.get("progress") or {}
        if not stored or "progress" in self._extra:
            return
        if stored.get("stage") != stage.value or not stored.get("percent"):
            self._extra["progress"] = {"stage": stage.value, "percent": 0}

    def stage(self, stage: Stage) -> Object | None:
        """Return ``status.stages`` of a stage, or None if its Job was never created."""
        return self._stages.get(stage.value)

    def is_done(self, stage: Stage) -> bool:
        """Return whether the stage is recorded as over."""
        return bool((self._stages.get(stage.value) or {}).get("completionTime"))

    def last_run(self, stage: Stage) -> int:
        """Return the newest run of a stage that was recorded; 0 if its Job was never created."""
        entry = self._stages.get(stage.value)
        return 0 if entry is None else run_of(entry["job"])

    def record_stage(self, view: StageView) -> None:
        """Record that a stage's Job is there, and since when it runs."""
        assert view.job is not None
        if view.run > self.last_run(view.stage):
            name = view.job["metadata"]["name"]
            self._stages[view.stage.value] = {"name": view.stage.value, "job": name}
        entry = self._stages[view.stage.value]
        entry.pop("deletedTime", None)
        started = view.job["status"].get("startTime")
        if started:
            entry.setdefault("startTime", started)
        if (first := view.first_ran) is not None:
            entry.setdefault("firstRunTime", timestamp(first))
        times = self._times_of(view)
        for key in _TIMES:
            entry.pop(key, None)
        entry.update(times)

    def record_end(self, view: StageView) -> None:
        """Record that a stage is over: from now on its Job is not looked at any more."""
        entry = self._stages[view.stage.value]
        entry["completionTime"] = timestamp(view.ended_at or self.now)
        self.close_runs([view])

    def close_runs(self, views: Iterable[StageView]) -> None:
        """Record the running time up to now as all that these stages will ever have."""
        for view in views:
            entry = self._stages.get(view.stage.value)
            if entry is not None:
                entry["activeSeconds"] = self.active_seconds([view])
                entry.pop("runTime", None)
                entry.pop("unplacedSince", None)

    def record_evictions(self, stage: Stage, count: int) -> None:
        """Record how often Kueue stopped a stage; the number never falls.

        Kueue counts in the Workload, so that no restart of the operator misses one or counts one
        twice; the record is for the time when the Workload is gone.
        """
        entry = self._stages[stage.value]
        if count > int(entry.get("evictions") or 0):
            entry["evictions"] = count

    def active_seconds(self, views: Iterable[StageView]) -> int:
        """Return the running time over all stages, those that are over from the record.

        Only what ran on a node: while no pod of a stage has one, nothing is held.
        """
        return sum(running_time_of(self.entry_now(view)).until(self.now) for view in views)

    def entry_now(self, view: StageView) -> Object:
        """Return what ``status.stages`` would say of a stage if it were recorded now."""
        entry = self._stages.get(view.stage.value) or {}
        if view.job is None or "activeSeconds" in entry:
            return {"name": view.stage.value, **entry}
        kept = {key: value for key, value in entry.items() if key not in (*_TIMES, "deletedTime")}
        return {"name": view.stage.value, **kept, **self._times_of(view)}

    def entry_at_pause(self, view: StageView) -> Object:
        """Return the same up to the last pause: what runs now is left out."""
        entry = self.entry_now(view)
        if self.is_done(view.stage):
            return entry
        kept = {key: value for key, value in entry.items() if key in ("name", "unplacedSeconds")}
        return {**kept, "pastSeconds": view.past_seconds}

    def _times_of(self, view: StageView) -> Object:
        """Return the running time of a stage that has a Job, as its entry records it."""
        is_stopped = view.state is StageState.SUSPENDED or view.has_ended
        began = None if is_stopped else view.run_began
        is_recorded = view.run == self.last_run(view.stage)
        entry = self._stages.get(view.stage.value) or {}
        progress = self._stored.get("progress") or {}
        is_its = progress.get("stage") == view.stage.value
        reported = parse_timestamp(progress.get("lastHeartbeatTime")) if is_its else None
        found = find_unplaced(entry if is_recorded else {}, view, self.now, reported=reported)
        times: Object = {
            "pastSeconds": (view.active_seconds if is_stopped else view.past_seconds) or None,
            "runTime": None if began is None else timestamp(began),
            "unplacedSeconds": found.seconds,
            "unplacedSince": None if found.since is None else timestamp(found.since),
        }
        return {key: value for key, value in times.items() if value is not None}

    def note_failure(self, cause: Cause, stage: Stage, *, is_new: bool = False) -> bool:
        """Set ``lastFailure`` unless a later one is there; return whether it is news.

        Args:
            cause: What failed.
            stage: The stage it belongs to.
            is_new: Whether it is news even if it reads as what was told before.
        """
        wire = cause.to_wire(stage)
        before = self._fields.get("lastFailure") or {}
        same = ("class", "reason", "stage", "pod")
        if not is_new and all(before.get(key) == wire.get(key) for key in same):
            return False
        if before and wire.get("time", "") < before.get("time", ""):
            return False
        self._fields["lastFailure"] = wire
        return True

    def last_incident(self, stage: Stage) -> Object | None:
        """Return the record of the last incident of a stage, or None."""
        history = (self._fields.get("attempts") or {}).get("history") or ()
        of_stage = [entry for entry in history if entry.get("stage") == stage.value]
        return of_stage[-1] if of_stage else None

    def record_incident(self, stage: Stage, incident: Object) -> dict[str, int]:
        """Add an incident to the history and, if it counts, to the retries used.

        Returns:
            The stage's incidents that count, by class.
        """
        attempts = self._fields.get("attempts") or {}
        history = [*(attempts.get("history") or ()), incident][-MAX_HISTORY:]
        self._fields["attempts"] = {**attempts, "history": history}
        entry = self._stages[stage.value]
        counts = {item["name"]: int(item["count"]) for item in entry.get("incidents") or ()}
        if incident["counted"]:
            counts[incident["class"]] = counts.get(incident["class"], 0) + 1
            entry["incidents"] = [{"name": name, "count": counts[name]} for name in sorted(counts)]
        return counts

    @property
    def num_counted(self) -> int:
        """Incidents that used up a retry, over all stages."""
        return sum(
            int(item["count"])
            for entry in self._stages.values()
            for item in entry.get("incidents") or ()
        )

    def count_attempts(self, ledger: Ledger, counted: int) -> None:
        """Set ``attempts``; numbers never fall."""
        before = self._fields.get("attempts") or {}
        self._fields["attempts"] = {
            **before,
            "total": max(ledger.num_started, before.get("total") or 0),
            "counted": max(counted, before.get("counted") or 0),
            "preemptions": max(
                ledger.num_evicted + queue_evictions(self._stages.values()),
                before.get("preemptions") or 0,
            ),
        }

    def to_wire(self) -> FittedStatus | None:
        """Return the status to write, or None if nothing worth a write changed."""
        wire = self.sections()
        if self._stages:
            wire["stages"] = sorted(
                # stages of a newer version come after ours
                self._stages.values(),
                key=lambda e: _ORDER.get(e["name"], len(_ORDER)),
            )
        wire.update(self._extra)
        return self.fit(wire, partial(_is_worth_writing, self._stored))


def _is_worth_writing(stored: Object, wire: Object) -> bool:
    """Compare what the operator owns, leaving out what may wait for the next write.

    The start of a pod and the start time of a Job change nothing that anybody decides on; writing
    them at once would cost a write per stage.
    """
    if any(wire.get(key) != stored.get(key) for key in OWNED_FIELDS if key not in _LAZY_FIELDS):
        return True
    if wire.get("metrics", stored.get("metrics")) != stored.get("metrics"):
        return True
    shown = stored.get("progress") or {}
    if any(shown.get(key) != value for key, value in (wire.get("progress") or {}).items()):
        return True
    before, after = stored.get("attempts") or {}, wire.get("attempts") or {}
    if any((before.get(key) or 0) != (after.get(key) or 0) for key in _ATTEMPTS):
        return True
    return _settled_stages(stored) != _settled_stages(wire)


_TIMES = ("pastSeconds", "runTime", "unplacedSeconds", "unplacedSince")
MAX_HISTORY = 10
"""Incidents that are kept in the status."""
_ATTEMPTS = ("counted", "preemptions", "history")
_LAZY_FIELDS = ("attempts", "stages", "trainerImage", "jobDigest")
_RECORDED = (
    "completionTime", "activeSeconds", "evictions", "fruitless", "outage", "deletedTime", "cut",
)  # fmt: skip


def _settled_stages(status: Object) -> list[tuple[Any, ...]]:
    return [
        tuple(item.get(key) for key in ("name", "job", *_RECORDED))
        for item in status.get("stages") or ()
    ]


def tells_only_how_far(stored: Object, status: Object) -> bool:
    """Return whether a status tells of a job that goes on only how far it is.

    Jobs, pods and Kueue tell that again at the next plan. What only the status remembers, such as
    an incident or a result whose pod may be gone by then, they do not.
    """
    both = (stored, status)
    if any(each.get("phase") not in _GOING_ON for each in both):
        return False
    before, after = map(_remembered, both)
    return before == after


_GOING_ON = frozenset({"Preparing", "Queued", "Training", "Evaluating", "Publishing"})
_HOW_FAR = frozenset(
    {"phase", "reason", "conditions", "queue", "cost", "estimate", "progress", "metrics"}
    | {"trainerImage", "stages", "attempts"}
)
_INCIDENTS = ("incidents", "evictions", "fruitless", "outage", "deletedTime", "cut")


def _remembered(status: Object) -> Object:
    attempts = status.get("attempts") or {}
    told = [
        (item["name"], key, item[key])
        for item in status.get("stages") or ()
        for key in _INCIDENTS
        if item.get(key)
    ]
    return {
        **{key: value for key, value in status.items() if key not in _HOW_FAR},
        "attempts": [attempts.get(key) or None for key in _ATTEMPTS],
        "stages": told,
    }
