"""Running and waiting jobs of a queue, as ``finetune queue`` shows them; pure functions.

Places come from Kueue's visibility API, else from the jobs' status. No start is predicted, because
Kueue admits by priority and quota, not by time. The expected end of each running stage is shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_cli.views.layout import age, table
from finetune_cli.views.state import is_terminal, state_text

Body = Mapping[str, Any]
QueueKey = tuple[str, str]
"""(namespace, LocalQueue)."""

COLUMNS = ("QUEUE", "PLACE", "NAME", "PHASE", "PRIORITY", "AGE", "ENDS", "REASON")
LEGEND = (
    "PLACE counts everything that waits for the same ClusterQueue, 1 is next. ENDS: when a running"
    " job's present stage should be over. When a waiting job starts is not predicted: that depends"
    " on priorities, on preemption and on what others submit."
)
STALE = "Places are the operator's last ones ({why}); behind 10 they are rounded up to tens."
_WAITING = frozenset(
    {"Queued", "Pending", "Preparing", "AwaitingApproval", "AwaitingSelection", "Suspended"}
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One job in a queue.

    Attributes:
        place: Place among all that wait for the ClusterQueue; None if it does not wait or is
            unknown.
        priority: Its priority class, with the number if known.
        ends: When the present stage of a running job should end.
    """

    namespace: str
    queue: str
    name: str
    phase: str
    place: int | None
    place_in_queue: int | None
    priority: str
    created: str
    ends: str | None
    reason: str
    message: str

    def to_wire(self) -> dict[str, Any]:
        """Return the entry as JSON has it."""
        fields = {
            "namespace": self.namespace,
            "queue": self.queue,
            "name": self.name,
            "phase": self.phase,
            "place": self.place,
            "placeInLocalQueue": self.place_in_queue,
            "priority": self.priority or None,
            "created": self.created,
            "ends": self.ends,
            "reason": self.reason,
            "message": self.message,
        }
        return {key: value for key, value in fields.items() if value is not None}


def queue_of(job: Body) -> str:
    """Return the LocalQueue of a job, also one that Kueue chose for it; empty without one."""
    told = job.get("status", {}).get("queue", {}).get("localQueue")
    return str(job["spec"].get("queueName") or told or "")


def queues_of(jobs: Sequence[Body], queue: str | None) -> list[QueueKey]:
    """Return the LocalQueues that unfinished jobs name, sorted; only one if it is named."""
    found = {(job["metadata"]["namespace"], queue_of(job)) for job in jobs if not is_terminal(job)}
    return sorted(key for key in found if key[1] and queue in (None, key[1]))


def entries(
    jobs: Sequence[Body], pending: Mapping[QueueKey, Sequence[Body] | None], queue: str | None
) -> list[Entry]:
    """Return the unfinished jobs of queues: running ones, then waiting ones by place.

    Args:
        jobs: FineTuneJobs.
        pending: Kueue's answer for each LocalQueue; None without one.
        queue: Only jobs of this LocalQueue.
    """
    found = [
        _entry(job, pending.get((job["metadata"]["namespace"], queue_of(job))))
        for job in jobs
        if not is_terminal(job) and queue_of(job) and queue in (None, queue_of(job))
    ]
    last = 1 << 31
    return sorted(
        found,
        key=lambda e: (e.namespace, e.queue, e.phase in _WAITING, e.place or last, e.created),
    )


def _entry(job: Body, pending: Sequence[Body] | None) -> Entry:
    metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
    known = status.get("queue", {})
    item: Body | None = None
    for candidate in pending or ():
        if known.get("workload") and candidate["metadata"]["name"] == known["workload"]:
            item = candidate
    place, place_in_queue = known.get("position"), known.get("positionInLocalQueue")
    if item is not None:
        place = int(item.get("positionInClusterQueue") or 0) + 1
        place_in_queue = int(item.get("positionInLocalQueue") or 0) + 1
    elif pending is not None:
        place = place_in_queue = None  # Kueue answered, and does not have it in the line
    priority = str(spec.get("priorityClassName") or "")
    if item is not None and item.get("priority") is not None:
        priority = f"{priority} ({item['priority']})" if priority else str(item["priority"])
    is_running = status.get("phase") in ("Training", "Evaluating")
    return Entry(
        namespace=metadata["namespace"],
        queue=queue_of(job),
        name=metadata["name"],
        phase=status.get("phase", "Pending"),
        place=place,
        place_in_queue=place_in_queue,
        priority=priority,
        created=metadata.get("creationTimestamp", ""),
        ends=status.get("progress", {}).get("estimatedCompletionTime") if is_running else None,
        reason=status.get("reason", ""),
        message=state_text(job),
    )


def lines(
    found: Sequence[Entry], now: datetime, *, is_wide: bool, with_namespace: bool
) -> list[str]:
    """Return the table."""
    columns: tuple[str, ...] = COLUMNS
    if with_namespace:
        columns = ("NAMESPACE", *columns)
    if is_wide:
        columns = (*columns, "MESSAGE")
    rows = []
    for entry in found:
        row = [
            entry.queue,
            "" if entry.place is None else str(entry.place),
            entry.name,
            entry.phase,
            entry.priority,
            age(entry.created, now),
            _left(entry.ends, now),
            entry.reason,
        ]
        row = [entry.namespace, *row] if with_namespace else row
        rows.append([*row, entry.message] if is_wide else row)
    return table(rows, columns)


def _left(moment: str | None, now: datetime) -> str:
    """Return the time until a moment: ``in 35m``."""
    if not moment:
        return ""
    seconds = int((datetime.fromisoformat(moment) - now).total_seconds())
    if seconds <= 0:
        return "now"
    for unit, size in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * size or (seconds >= size and unit == "d"):
            return f"in {seconds // size}{unit}"
    return f"in {seconds}s"
