"""How a FineTuneEndpoint is shown: versions, counts and decisions; pure functions over dicts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_cli.views.layout import age, conditions, facts, section, table
from finetune_cli.views.monitor import describe_status
from finetune_cli.views.state import is_true

Body = Mapping[str, Any]

HELD = "Held"
"""Reason of a candidate that waits for a person's decision."""
_SIGNALS = {
    "Errors": "ERRORS",
    "Slow": "SLOW",
    "Refusals": "REFUSALS",
    "InvalidJson": "INVALID JSON",
    "ThumbsDown": "THUMBS DOWN",
}


def _status(endpoint: Body) -> Body:
    found: Body = endpoint.get("status") or {}
    return found


def rejection(endpoint: Body, version: int) -> Body | None:
    """Return why a version was rejected, or None."""
    found = [each for each in _status(endpoint).get("rejected", []) if each["version"] == version]
    return found[-1] if found else None


def describe(endpoint: Body, now: datetime) -> list[str]:
    """Return the lines of ``finetune status``."""
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
    """Return the requests of both versions, users with bad answers, and what these say."""
    candidate = status.get("candidate")
    if not candidate or not candidate.get("streams"):
        return []
    evidence = {each["signal"]: each for each in candidate.get("evidence", [])}
    rows = []
    for side in ("active", "candidate"):
        requests = sum(each.get(side, {}).get("requests", 0) for each in candidate["streams"])
        users = (evidence.get(signal, {}).get(side, 0) for signal in _SIGNALS)
        numbers = [f"{each:,}" for each in (requests, *users)]
        rows.append([side, str(status.get(side, {}).get("version", "")), *numbers])
    lines = table(rows, ("", "VERSION", "REQUESTS", *_SIGNALS.values()))
    said = [f"{name} {float(each['logE']):+.2f}" for name, each in evidence.items()]
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
