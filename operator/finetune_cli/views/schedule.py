"""How a FineTuneSchedule is shown: triggers, the cycle under way, and ended ones; pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from finetune_api.names import asked_trigger
from finetune_cli.views.layout import age, conditions, facts, section, table
from finetune_cli.views.state import condition, is_true

Body = Mapping[str, Any]

HISTORY = ("SINCE", "TRIGGER", "DATA", "JOB", "VERSION", "VERDICT", "OUTCOME", "MESSAGE")
_DIGEST_CHARACTERS = 12


def _status(schedule: Body) -> Body:
    found: Body = schedule.get("status") or {}
    return found


def history(schedule: Body) -> list[Body]:
    """Return the ended cycles, newest first."""
    return [*reversed(_status(schedule).get("history", []))]


def triggers_text(triggers: Body) -> str:
    """Return what makes a schedule train, in one line."""
    zone = f" {triggers['timeZone']}" if triggers.get("timeZone") else ""
    told = {
        f"{triggers.get('cron')}{zone}": triggers.get("cron"),
        f"{triggers.get('newRows')} answers": triggers.get("newRows"),
        f"{triggers.get('newFeedback')} corrections or ratings": triggers.get("newFeedback"),
        "drift": triggers.get("drift"),
    }
    return ", ".join(text for text, is_asked in told.items() if is_asked)


def state_text(schedule: Body) -> str:
    """Return what a schedule does or waits for, in one line."""
    status = _status(schedule)
    if not status:
        return "Pending: no operator has looked at it yet"
    found = condition(schedule, "Stalled" if is_true(schedule, "Stalled") else "Ready")
    return ": ".join(text for text in (status.get("reason"), found.get("message")) if text)


def awaits(schedule: Body) -> str:
    """Return what was asked for and has not begun; empty if there is nothing."""
    asked = asked_trigger(schedule)
    return "" if asked == _status(schedule).get("handledTrigger") else asked


def describe(schedule: Body, now: datetime) -> list[str]:
    """Return the lines of ``finetune status``."""
    metadata, spec, status = schedule["metadata"], schedule["spec"], _status(schedule)
    lines = facts(
        {
            "Name": f"{metadata.get('namespace', 'default')}/{metadata['name']}",
            "State": state_text(schedule),
            "Age": age(metadata.get("creationTimestamp"), now),
            "Endpoint": spec.get("endpointRef", {}).get("name"),
            "Triggers": triggers_text(spec["triggers"]),
            "Suspended": "yes" if spec.get("suspend") else None,
            "Promote": spec.get("promote", "Approval"),
            "Cooldown": spec.get("cooldown"),
            "Budget": _budget(spec.get("budget"), status.get("used") or {}),
            "Requested by": spec.get("requestedBy"),
            "Last trigger": status.get("lastTriggerTime"),
            "Next time": status.get("nextTriggerTime"),
            "Asked for": awaits(schedule),
            "Held out": _anchor(status.get("anchor")),
        }
    )
    lines += section("Conditions", conditions(schedule, now))
    active = status.get("active")
    cycles = [{**active, "message": f"waits for {active['waitsFor']}"}] if active else []
    lines += section("Cycle under way", _cycles(cycles, now))
    return lines + section("History, newest first", _cycles(history(schedule), now))


def _anchor(anchor: Body | None) -> str | None:
    if anchor is None:
        return None
    digest = str(anchor["digest"])[:_DIGEST_CHARACTERS]
    return f"the test rows of {anchor['job']} (data set {digest}), in each cycle again"


def _budget(budget: Body | None, used: Body) -> str | None:
    if budget is None:
        return None
    told = [
        f"{used.get(key, 0)} of {budget[key]} {words}"
        for key, words in (("jobs", "jobs"), ("gpuHours", "GPU hours"))
        if key in budget
    ]
    since = f" since {used['since']}" if used else ""
    return f"{', '.join(told)} per {budget.get('per', '30d')}{since}"


def _cycles(cycles: Sequence[Body], now: datetime) -> list[str]:
    """Return a line for each cycle: trigger, data, job, version, verdict and outcome."""
    rows = [
        [
            age(each["time"], now),
            each["trigger"],
            each.get("dataDigest", "")[:_DIGEST_CHARACTERS],
            each["job"],
            str(each.get("version", "")),
            each.get("verdict", ""),
            each.get("outcome", ""),
            each.get("message", ""),
        ]
        for each in cycles
    ]
    return table(rows, HISTORY) if rows else []
