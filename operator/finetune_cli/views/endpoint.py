"""How a FineTuneEndpoint is shown: versions, counts and decisions; pure functions over dicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_cli.views.layout import age, conditions, facts, section, table
from finetune_cli.views.monitor import describe_status
from finetune_cli.views.state import condition, is_true, state_text

Body = Mapping[str, Any]

COLUMNS = ("NAME", "PHASE", "VERSION", "CANDIDATE", "WEIGHT", "JOB", "AGE")
SETTLED = ("Available", "Degraded", "Failed")
HELD = "Held"
"""Reason of a candidate that waits for a person's decision."""
_COUNTS = {
    "requests": "REQUESTS",
    "errors": "ERRORS",
    "slow": "SLOW",
    "refusals": "REFUSALS",
    "invalidJson": "INVALID JSON",
    "thumbsDown": "THUMBS DOWN",
}


def _status(endpoint: Body) -> Body:
    found: Body = endpoint.get("status") or {}
    return found


def row(endpoint: Body, now: datetime) -> list[str]:
    """Return the cells of one line of ``finetune endpoint list``."""
    status = _status(endpoint)
    candidate = status.get("candidate", {})
    weight = candidate.get("weight")
    return [
        endpoint["metadata"]["name"],
        status.get("phase", "Pending"),
        str(status.get("active", {}).get("version", "")),
        str(candidate.get("version", "")),
        "" if weight is None else f"{weight} %",
        endpoint["spec"]["jobRef"]["name"],
        age(endpoint["metadata"].get("creationTimestamp"), now),
    ]


def is_settled(endpoint: Body, version: int | None = None) -> bool:
    """Whether nothing goes on by itself: no candidate, or one that waits for a person.

    An edit that the operator has not seen is under way.

    Args:
        endpoint: The endpoint.
        version: Wait for this version: it must answer, or have been rejected.
    """
    status = _status(endpoint)
    if status.get("observedGeneration") != endpoint["metadata"].get("generation"):
        return False
    stalled = condition(endpoint, "Stalled")
    if stalled.get("status") == "True" and stalled.get("reason") == HELD:
        return True
    if version is not None and not (is_active(endpoint, version) or rejection(endpoint, version)):
        return False
    return status.get("phase") in SETTLED and not status.get("candidate")


def is_active(endpoint: Body, version: int) -> bool:
    """Whether a version answers."""
    return bool(_status(endpoint).get("active", {}).get("version") == version)


def rejection(endpoint: Body, version: int) -> Body | None:
    """Return why a version was rejected, or None."""
    found = [each for each in _status(endpoint).get("rejected", []) if each["version"] == version]
    return found[-1] if found else None


def has_gone_wrong(endpoint: Body, version: int | None = None) -> bool:
    """Whether a settled endpoint is not as it should be."""
    if version is not None and not is_active(endpoint, version):
        return True
    return not is_true(endpoint, "Available") or is_true(endpoint, "Degraded")


def changes(before: Body | None, after: Body) -> list[str]:
    """Return a line for each new decision, and one for a new phase or weight."""
    old, new = ({} if before is None else _status(before)), _status(after)
    known = {_key(each) for each in old.get("decisions", [])}
    made = [each for each in new.get("decisions", []) if _key(each) not in known]
    lines = [_decision(each) for each in (made if before is not None else [])]
    if before is None or _stand(old) != _stand(new):
        lines.append(state_text(after))
    return lines


def _key(decision: Body) -> tuple[Any, ...]:
    return tuple(decision.get(key) for key in ("time", "version", "action"))


def _stand(status: Body) -> tuple[Any, ...]:
    candidate = status.get("candidate", {})
    return (
        *(status.get(key) for key in ("phase", "reason")),
        status.get("active", {}).get("version"),
        *(candidate.get(key) for key in ("version", "weight")),
    )


def _decision(decision: Body) -> str:
    text = f"version {decision['version']}: {decision['action']}"
    if decision["action"] in ("Advanced", "Held"):
        text += f" at {decision.get('weight', 0)} %"
    return f"{text}: {decision['message']}" if decision.get("message") else text


def describe(endpoint: Body, now: datetime) -> list[str]:
    """Return the lines of ``finetune endpoint describe``."""
    metadata, spec, status = endpoint["metadata"], endpoint["spec"], _status(endpoint)
    lines = facts(
        {
            "Name": f"{metadata.get('namespace', 'default')}/{metadata['name']}",
            "Phase": status.get("phase", "Pending"),
            "Age": age(metadata.get("creationTimestamp"), now),
            "Job": spec["jobRef"]["name"],
            "Pinned": f"version {spec['version']}" if spec.get("version") else None,
            "Base model": status.get("active", {}).get("baseModel"),
            "Engine": spec.get("serve", {}).get("engine"),
            "Active": _served(status.get("active"), now),
            "Candidate": _served(status.get("candidate"), now),
            "Previous": _served(status.get("previous"), now),
            "Rollout": _rollout(spec.get("rollout")),
            "URL": status.get("url"),
        }
    )
    lines += section("Conditions", conditions(endpoint, now))
    lines += section("Rollout", _traffic(status))
    monitor = status.get("monitor")
    lines += section("Captured answers", describe_status(monitor, now) if monitor else [])
    lines += section("Rejected", _rejected(status, now))
    lines += section("Decisions", _decisions(status, now))
    return lines + section("Ask it, inside the cluster", _question(endpoint))


def _served(served: Body | None, now: datetime) -> str | None:
    if not served:
        return None
    parts = [f"version {served['version']}", f"{served['adapter']} on {served['server']}"]
    if "weight" in served:
        parts.append(f"{served['weight']} % of the requests")
    if served.get("since"):
        parts.append(f"for {age(served['since'], now)}")
    elif not served.get("verifiedTime"):
        parts.append("not verified yet")
    return ", ".join(parts)


def _rollout(rollout: Body | None) -> str | None:
    if rollout is None:
        return None
    steps = ", ".join(f"{step} %" for step in rollout.get("steps", []))
    words = {"RollBack": "rolled back", "Hold": "held"}[rollout.get("onWorse", "RollBack")]
    return (
        f"{steps}; {rollout.get('minRequests')} requests at each step; {words} where worse is shown"
        f" at certainty {rollout.get('certainty')}"
    )


def _traffic(status: Body) -> list[str]:
    """Return what was counted of both versions, and what the counts say."""
    candidate = status.get("candidate")
    if not candidate or not candidate.get("streams"):
        return []
    rows = []
    for side in ("active", "candidate"):
        counts = [stream.get(side, {}) for stream in candidate["streams"]]
        numbers = [f"{sum(each.get(key, 0) for each in counts):,}" for key in _COUNTS]
        rows.append([side, str(status.get(side, {}).get("version", "")), *numbers])
    lines = table(rows, ("", "VERSION", *_COUNTS.values()))
    said = [
        f"{each['signal']} {float(each['logE']):+.2f}" for each in candidate.get("evidence", [])
    ]
    if said:
        lines.append(
            f"evidence that it is worse, as the logarithm of the e-value: {', '.join(said)}"
        )
    return lines


def _rejected(status: Body, now: datetime) -> list[str]:
    rows = [
        [
            str(each["version"]),
            each["reason"],
            age(each.get("time"), now),
            each.get("message", ""),
        ]
        for each in status.get("rejected", [])
    ]
    return table(rows, ("VERSION", "REASON", "AGE", "MESSAGE")) if rows else []


def _decisions(status: Body, now: datetime) -> list[str]:
    rows = [
        [
            age(each.get("time"), now),
            str(each["version"]),
            each["action"],
            f"{each.get('weight', 0)} %",
            each.get("message", ""),
        ]
        for each in status.get("decisions", [])
    ]
    return table(rows, ("AGE", "VERSION", "DECISION", "WEIGHT", "MESSAGE")) if rows else []


def _question(endpoint: Body) -> list[str]:
    status = _status(endpoint)
    if not status.get("url") or not is_true(endpoint, "Available"):
        return []
    message = {"role": "user", "content": "Hello"}
    body = json.dumps({"model": status["model"], "messages": [message]})
    key = ""
    if endpoint["spec"].get("access", {}).get("keysFrom"):
        key = " -H 'Authorization: Bearer YOUR_KEY'"
    url = f"{status['url']}/chat/completions"
    return [f"curl {url} -H 'Content-Type: application/json'{key} -d '{body}'"]
