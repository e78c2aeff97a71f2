"""What the plan of a schedule asks for: one status, at most one new FineTuneJob, and deletions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from finetune_operator.status.draft import Announce
from finetune_operator.status.fitting import FittedStatus

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """The decisions on one schedule.

    Attributes:
        status: The status, complete; None to leave it as it is.
        conditions: The conditions alone, of a status that cannot be read; None if it can be, or if
            they are unchanged.
        events: Events of changes, recorded after the status is written.
        create: The FineTuneJob that the written status names. Create it only once the API server
            has that status: then a crash, or a second leader, finds the same name.
        delete: FineTuneJobs that are no longer kept. Delete them only once the API server has that
            status.
        requeue_after: Look again after this many seconds, or None.
    """

    status: FittedStatus | None = None
    conditions: list[Object] | None = None
    events: tuple[Announce, ...] = ()
    create: Object | None = None
    delete: tuple[Object, ...] = ()
    requeue_after: float | None = None
