"""What the plan of a sweep may ask for: writes, each idempotent by name or by state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from finetune_operator.status.draft import Announce
from finetune_operator.status.fitting import FittedStatus

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class CreateTrial:
    """Create the FineTuneJob ``job`` of the trial ``number``."""

    number: int
    job: Object


@dataclass(frozen=True, kw_only=True, slots=True)
class PatchTrial:
    """Change the control fields of a trial.

    Attributes:
        uid: Its UID; another job of that name is not changed.
        version: The planned resourceVersion; a newer one needs a new plan.
        spec: Merge patch of its spec.
    """

    name: str
    uid: str
    version: str
    spec: Object


@dataclass(frozen=True, kw_only=True, slots=True)
class ConfirmMissing:
    """Read a trial live that the cache does not have and the status says was created."""

    number: int
    name: str


@dataclass(frozen=True, kw_only=True, slots=True)
class DeleteSelf:
    """Delete the finished FineTuneSweep; the garbage collector takes its FineTuneJobs."""


Action: TypeAlias = CreateTrial | PatchTrial | ConfirmMissing
"""An action that changes trials."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The decisions on one sweep.

    Attributes:
        first: Reads and writes of trials that the status depends on; afterwards plan again.
        status: The status, complete; None to leave it as it is.
        events: Events of changes, recorded after the status is written.
        requeue_after: Look again after this many seconds, or None.
    """

    first: tuple[Action, ...] = ()
    status: FittedStatus | None = None
    events: tuple[Announce, ...] = ()
    then: tuple[DeleteSelf, ...] = ()
    requeue_after: float | None = None
