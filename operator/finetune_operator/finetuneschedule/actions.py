"""What the plan of a schedule asks for: one status, and at most one FineTuneJob."""

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
        events: Events of changes, recorded after the status is written.
        create: The FineTuneJob that the written status names. Create it only once the API server
            has that status: then a crash, or a second leader, finds the same name.
        requeue_after: Look again after this many seconds, or None.
    """

    status: FittedStatus | None = None
    events: tuple[Announce, ...] = ()
    create: Object | None = None
    requeue_after: float | None = None
