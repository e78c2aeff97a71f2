"""Reports of changes that the API server refuses: once each, and only lasting refusals."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

from finetune_operator.controllers.refusals import AGAIN, judge
from finetune_operator.finetunejob.state.actions import (
    ActivateWorkload,
    DeleteSelf,
    FailPod,
    PauseJob,
    RelabelJob,
    ResumeJob,
    Write,
)
from finetune_operator.kube.api.errors import KubeError
from finetune_operator.kube.clock import Clock
from finetune_operator.status.conditions import Reason, shorten
from finetune_operator.status.draft import Announce

LASTING_SECONDS = 60.0
"""Report a server error that lasts so long; most are over soon, as while etcd elects a leader."""
_MAX_CHANGES = 8
"""Refused changes that are remembered of one object."""
_WORDS = 600
"""Most characters of the server's answer in a message, to leave room for the remedy."""


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an object.

    Attributes:
        failure: Message if it fails: ``Job x cannot be suspended``.
        right: The right that it needs: ``verb patch on jobs``.
        event: Reason of the Event that reports a failure.
    """

    failure: str
    right: str
    event: str = "ChangeRefused"


@dataclass(frozen=True, slots=True)
class _Row:
    """Tries in a row of one change.

    Attributes:
        since: Monotonic time of the first try with this refusal.
        told: The message; empty before it was reported.
    """

    reason: str
    since: float
    told: str = ""

    def goes_on(self, reason: str, *, is_ill: bool) -> bool:
        """Return whether another refusal says no more than what is known."""
        return self.reason == reason or (is_ill and bool(self.told))


class RefusedChanges:
    """Remembers the refused and reported changes of each object. Event loop only."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._rows: dict[str, dict[str, _Row]] = {}

    def note(self, uid: str, change: Change, error: KubeError) -> tuple[Announce, ...]:
        """Take in a failed try; return the message to report now.

        Args:
            uid: UID of the FineTuneJob or FineTuneSweep that the change is for.
            change: The change.
            error: Its error.
        """
        reason, remedy = _explain(error, change)
        if not reason:
            return ()
        rows = self._rows.setdefault(uid, {})
        now, row = self._clock.monotonic(), rows.pop(change.failure, None)
        is_ill = reason == Reason.API_SERVER_ERROR
        if row is None or not row.goes_on(reason, is_ill=is_ill):
            row = _Row(reason, now)
        rows[change.failure] = row
        if len(rows) > _MAX_CHANGES:
            del rows[next(iter(rows))]
        if row.told or (is_ill and now - row.since < LASTING_SECONDS):
            return ()
        message = f"{change.failure}: {shorten(str(error), _WORDS)}. {remedy}"
        rows[change.failure] = replace(row, told=message)
        return (Announce(kind="Warning", reason=change.event, message=message),)

    def told(self, uid: str) -> str:
        """Return the message of the last refused change; empty if none."""
        rows = self._rows.get(uid)
        return next(reversed(rows.values())).told if rows else ""

    def forget(self, uid: str) -> None:
        """Drop the memory of an object: its change was made or is not wanted, or it is gone."""
        self._rows.pop(uid, None)


def _explain(error: KubeError, change: Change) -> tuple[str, str]:
    """Return the cause of a refusal and the remedy; empty if the error has no cause."""
    reason, remedy, _ = judge(error)
    if reason in (Reason.WEBHOOK_UNAVAILABLE, Reason.API_SERVER_ERROR):
        return reason, remedy
    return reason, (
        f"{AGAIN}; see what forbids it to the operator's service account: its role"
        f" ({change.right}), or an admission policy."
    )


def change_of(action: Write) -> Change:
    """Return the change that an action of a FineTuneJob's plan makes."""
    match action:
        case PauseJob(name=name):
            failure = f"Job {name} cannot be suspended, and its pods go on"
            return Change(failure, "verb patch on jobs")
        case ResumeJob(name=name):
            return Change(f"Job {name} cannot be resumed", "verb patch on jobs")
        case ActivateWorkload(name=name, active=active):
            failure = f"Workload {name} cannot be given active: {json.dumps(active)}"
            return Change(failure, "verb patch on workloads")
        case RelabelJob(name=name, labels=labels):
            wanted = ", ".join(f"{key}={value}" for key, value in labels.items())
            return Change(f"Job {name} cannot be labelled {wanted}", "verb patch on jobs")
        case FailPod(name=name):
            failure = f"Pod {name} cannot be declared failed"
            return Change(failure, "verb patch on pods/status")
        case DeleteSelf():
            failure = (
                "The FineTuneJob cannot be deleted, though its ttlSecondsAfterFinished is over"
            )
            return Change(failure, "verb delete on finetunejobs")
