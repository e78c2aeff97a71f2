"""What the status of an object from a cluster says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Body = Mapping[str, Any]


def condition(job: Body, kind: str) -> Body:
    """Return one condition, or an empty mapping."""
    found = job.get("status", {}).get("conditions", [])
    return next((c for c in found if c.get("type") == kind), {})


def is_true(job: Body, kind: str) -> bool:
    """Whether a condition holds."""
    return bool(condition(job, kind).get("status") == "True")


def is_terminal(job: Body) -> bool:
    """Whether the job has ended, one way or the other."""
    return any(is_true(job, kind) for kind in ("Complete", "Failed", "Pruned"))


def state_text(stored: Body) -> str:
    """Return what a job or an endpoint does or waits for, in one line."""
    status = stored.get("status") or {}
    phase, reason = status.get("phase", "Pending"), status.get("reason")
    if not status:
        return f"{phase}: no operator has looked at it yet"
    causes = [c for c in status.get("conditions", []) if c.get("reason") == reason]
    message = causes[-1].get("message") if causes else ""
    return ": ".join(part for part in (phase, message or reason) if part)


def awaits_data_approval(job: Body) -> bool:
    """Return whether a job trains only once somebody has approved its data set."""
    required = job.get("status", {}).get("approvalPolicy", {}).get("required", [])
    return job["spec"]["dataset"].get("approval") == "Required" or "DataSet" in required
