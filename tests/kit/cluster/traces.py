"""What a real Kubernetes said of jobs, change by change.

``make faults RECORD=1`` records it (``benchmarks/faults/recording.py``).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent / "traces"


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """One event of a watch.

    Attributes:
        time: When it came.
        type: ``ADDED``, ``MODIFIED`` or ``DELETED``.
        object: The Job or pod, without what says nothing about its life.
    """

    time: datetime
    type: str
    object: dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Trace:
    """The life of one FineTuneJob.

    Attributes:
        job: The FineTuneJob as it was accepted, without a status.
        changes: What came of its Jobs and pods, in order.
        status: What the operator had written in the end.
    """

    job: dict[str, Any]
    changes: tuple[Change, ...]
    status: dict[str, Any]


def names_of_traces() -> list[str]:
    """Return the names of all recorded traces."""
    return sorted(path.stem for path in FOLDER.glob("*.jsonl"))


def read_trace(name: str) -> Trace:
    """Read one trace."""
    lines = [json.loads(line) for line in (FOLDER / f"{name}.jsonl").read_text().splitlines()]
    first, *changes, last = lines
    return Trace(
        job=first["began"],
        changes=tuple(
            Change(
                time=datetime.fromisoformat(each["time"]), type=each["type"], object=each["object"]
            )
            for each in changes
        ),
        status=last["ended"],
    )
