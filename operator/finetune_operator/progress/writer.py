"""Writes accepted reports into the status: latest wins, limited per interval and job.

Its own field manager lets any replica write while the leader writes the rest.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from typing import Any

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import Caches
from finetune_operator.finetunejob.state.draft import STATUS
from finetune_operator.kube.api.resource import Object, ObjectKey, key_of
from finetune_operator.kube.cache.store import EventType
from finetune_operator.kube.clock import Clock
from finetune_operator.kube.status import StatusThrottle
from finetune_operator.progress.report import Report, metrics_section, progress_section
from finetune_operator.status.conditions import is_terminal
from finetune_operator.status.draft import Announce, announce_cuts
from finetune_operator.status.fitting import Cut

FIELD_MANAGER = "finetune-progress"
CURVE_DELAY_SECONDS = 10.0
"""How long after the last report of training the end of its validation curve is written."""


def is_wanted(caches: Caches, job: Object, status: Object) -> bool:
    """Return whether progress may still be written: its job exists, its stage is not over.

    A late value would hide the next stage's progress, or a newer report that another replica has
    written.
    """
    metadata = job["metadata"]
    current = caches.finetunejobs.get(metadata["namespace"], metadata["name"])
    if current is None or current["metadata"]["uid"] != metadata["uid"]:
        return False
    progress = status.get("progress") or {}
    # RFC 3339 in UTC, to the second: the strings sort by time.
    told = progress.get("lastHeartbeatTime")
    known = ((current.get("status") or {}).get("progress") or {}).get("lastHeartbeatTime")
    if told and known and told < known:
        return False
    return not _is_over(current, progress.get("stage"))


def _newest(*candidates: list[Object] | None) -> list[Object]:
    """Return the metrics of the latest step, of this replica or another."""
    return max(
        (each or [] for each in candidates),
        key=lambda each: max((metric.get("step") or 0 for metric in each), default=-1),
    )


def _is_over(job: Object, stage: str | None) -> bool:
    return any(
        item["name"] == stage and item.get("completionTime")
        for item in (job.get("status") or {}).get("stages") or ()
    )


class ProgressWriter:
    """Coalesces reports into status writes. Event loop only.

    Args:
        throttle: Writes at most once per interval and object.
        clock: Wall time of the heartbeats.
    """

    def __init__(
        self,
        caches: Caches,
        throttle: StatusThrottle,
        *,
        clock: Clock,
        announce: Callable[[Object, Iterable[Announce]], None],
    ) -> None:
        self._caches = caches
        self._throttle = throttle
        self._clock = clock
        self._announce = announce
        self._told: dict[str, Announce] = {}
        self._latest: dict[str, Object] = {}
        self._ending: set[str] = set()

    def forget(self, job: Object) -> None:
        """Drop the memory of a FineTuneJob that is gone."""
        metadata = job["metadata"]
        self._told.pop(metadata["uid"], None)
        self._latest.pop(metadata["uid"], None)
        self._throttle.forget((metadata["namespace"], metadata["name"]))

    def follow(self, kind: EventType, old: Object | None, new: Object | None) -> None:
        """Drop the memory of a FineTuneJob that has ended; a handler of the cache.

        Ended jobs may stay permanently, 10 KB each. The memory is kept for a while, until the end
        of the validation curve is written.
        """
        if new is None or not is_terminal(new.get("status")):
            return
        uid = new["metadata"]["uid"]
        if uid in self._ending or uid not in self._latest:
            return
        self._ending.add(uid)
        loop = asyncio.get_running_loop()
        loop.call_later(CURVE_DELAY_SECONDS, self._forget_ended, key_of(new), uid)

    def _forget_ended(self, key: ObjectKey, uid: str) -> None:
        self._ending.discard(uid)
        self._told.pop(uid, None)
        self._latest.pop(uid, None)
        current = self._caches.finetunejobs.get(*key)
        is_same = current is not None and current["metadata"]["uid"] == uid
        if is_same and not self._throttle.has_pending(key):
            self._throttle.forget(key)

    def accept(self, job: Object, stage: Stage, report: Report) -> bool:
        """Take in a report; return False if the job has ended and nothing is written any more."""
        if is_terminal(job.get("status")):
            self.forget(job)
            return False
        uid = job["metadata"]["uid"]
        before: Object = job.get("status") or {}
        progress = progress_section(report, stage, self._clock.now(), before.get("progress"))
        status: dict[str, Any] = {"progress": progress}
        metrics = metrics_section(report) if stage is Stage.TRAIN else []
        if not metrics:
            # A field manager that leaves a field out removes it: the curve would lose its end.
            metrics = _newest(self._latest.get(uid, {}).get("metrics"), before.get("metrics"))
        if metrics:
            status["metrics"] = metrics
        latest = self._latest.get(uid, {})
        for name in ("plan", "validation"):
            # A stage reports only its own fields.
            told = getattr(report.finetune, name) if stage is Stage.TRAIN else None
            section = told.to_wire() if told else latest.get(name) or before.get(name)
            if section:
                status[name] = section
        self._latest[uid] = status
        self._submit(job)
        if stage is Stage.TRAIN and progress.get("percent") == 100:
            asyncio.get_running_loop().call_later(CURVE_DELAY_SECONDS, self._finish_curve, job)
        return True

    def _finish_curve(self, job: Object) -> None:
        """Write the end of the validation curve if it is missing.

        A report that waits for its interval is dropped at the end of the stage. Without the end the
        status would show another best step than the published one.
        """
        metadata = job["metadata"]
        key: ObjectKey = (metadata["namespace"], metadata["name"])
        current = self._caches.finetunejobs.get(*key)
        if current is None or current["metadata"]["uid"] != metadata["uid"]:
            return
        status = current.get("status") or {}
        curve = status.get("validation")
        is_short = self._latest.get(metadata["uid"], {}).get("validation", curve) != curve
        if is_short and not is_terminal(status):
            self._submit(current, urgent=True)

    def _emit_cuts(self, job: Object, cuts: Iterable[Cut]) -> None:
        """Report the fields that the status cannot hold; the next report has them too."""
        uid, event = job["metadata"]["uid"], announce_cuts(cuts)
        if self._told.get(uid) != event:
            self._told[uid] = event
            self._announce(job, (event,))

    def _submit(self, job: Object, *, urgent: bool = False) -> None:
        uid = job["metadata"]["uid"]
        status = dict(self._latest.get(uid, {}))
        progress = status.get("progress") or {}
        if _is_over(job, progress.get("stage")):
            status["progress"] = {
                key: progress[key] for key in ("step", "totalSteps") if key in progress
            }
        fitted, cuts = STATUS.fit(status)
        if cuts:
            self._emit_cuts(job, cuts)
        self._throttle.submit(job, fitted, urgent=urgent)
