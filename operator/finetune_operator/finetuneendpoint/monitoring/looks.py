"""Looks as their Jobs and pods show them, and when the next one is due. Pure.

A look is named by the time until which it looks. So nobody makes it twice, and one look makes up
for all that were missed.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from finetune_api.names import look_name
from finetune_api.protocol.monitoring import SETTLING, LookReport
from finetune_operator.finetunejob.state.trimmed import (
    TrimmedJob,
    TrimmedPod,
    container_of,
    owner_uid,
)
from finetune_operator.status.conditions import find_condition, parse_timestamp, shorten

MESSAGE_CHARACTERS = 300
MINUTE_DIGITS = 9
"""A Unix time in minutes has 8 until 2160."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Look:
    """A look, as its Job and pods show it.

    Attributes:
        until: It looks at answers before this time.
        ended: When it ended; None while it runs.
        failure: Why it failed; empty if it did not.
        report: What it said; None if it failed, or nobody knows what it said.
    """

    name: str
    until: datetime
    ended: datetime | None = None
    failure: str = ""
    report: LookReport | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Due:
    """The next look.

    Attributes:
        until: It looks at answers before this time.
        wait_seconds: Until it may begin; 0 for now, None while another one runs.
    """

    until: datetime
    wait_seconds: float | None


def find_due(
    every: int, since: datetime, endpoint: str, looks: Sequence[Look], now: datetime
) -> Due:
    """Return the next look: at the last whole ``every`` that has passed, if it is not there yet.

    Args:
        every: Seconds between two looks, in whole minutes: their names have minutes.
        since: Since when the active version answers.
        endpoint: Name of the endpoint.
        looks: Those that exist.
        now: The present.
    """
    slot = int((now - SETTLING).timestamp()) // every
    first = -(-int(since.timestamp()) // every) + 1
    names = {look.name for look in looks}
    is_made = look_name(endpoint, slot * every) in names
    slot = max(first, slot + is_made)
    until = datetime.fromtimestamp(slot * every, UTC)
    if any(look.ended is None for look in looks):
        return Due(until=until, wait_seconds=None)
    return Due(until=until, wait_seconds=max(0.0, (until + SETTLING - now).total_seconds()))


def last_of(looks: Iterable[Look]) -> Look | None:
    """Return the look that ended last."""
    ended = [(look.ended, look.name, look) for look in looks if look.ended is not None]
    return max(ended, key=lambda each: each[:2])[2] if ended else None


def read_look(endpoint: str, job: TrimmedJob, pods: Iterable[TrimmedPod]) -> Look | None:
    """Return a look from its trimmed Job and all pods of the endpoint's looks.

    None for a Job without the name of a look.

    Anybody who may create Jobs and pods of this namespace may have written them. So no more is
    taken of them than the schema of the status has, and no place.
    """
    metadata, conditions = job["metadata"], job["status"].get("conditions")
    name = metadata["name"]
    until = until_of_look(endpoint, name)
    if until is None:
        return None
    own = [pod for pod in pods if owner_uid(pod) == metadata["uid"]]
    ends = [(kind, find_condition(conditions, kind) or {}) for kind in ("Complete", "Failed")]
    kind, end = next((each for each in ends if each[1].get("status") == "True"), ("", {}))
    if not kind:
        return Look(name=name, until=until)
    ended = parse_timestamp(end.get("lastTransitionTime")) or until
    words = [found for pod in own if (found := _words_of(pod)) is not None]
    if kind == "Complete":
        told = next((each for each in words if not each.reason), None)
        return Look(name=name, until=until, ended=ended, report=told)
    failed = next((each for each in words if each.reason), None)
    text = f"{failed.reason}: {failed.message}" if failed is not None else _problem(own, end)
    failure = shorten(text, MESSAGE_CHARACTERS)
    return Look(name=name, until=until, ended=ended, failure=failure)


def until_of_look(endpoint: str, name: str) -> datetime | None:
    """Return until when a look looks, by the name of its Job; None for another Job."""
    minutes = name.removeprefix(f"{endpoint}-m")
    if not minutes.isdecimal() or len(minutes) > MINUTE_DIGITS:
        return None
    until = datetime.fromtimestamp(int(minutes) * 60, UTC)
    return until if look_name(endpoint, until.timestamp()) == name else None


def _words_of(pod: TrimmedPod) -> LookReport | None:
    text = (container_of(pod).get("terminated") or {}).get("message") or ""
    try:
        return LookReport.model_validate_json(text, extra="ignore")
    except ValidationError:
        return None


def _problem(pods: Iterable[TrimmedPod], end: Mapping[str, Any]) -> str:
    """Return why a look failed that said nothing."""
    for pod in pods:
        ended = container_of(pod).get("terminated") or {}
        if ended.get("reason") == "OOMKilled":
            return "OOMKilled: it went over its memory limit; have prepareMemory raised"
        if ended:
            return f"{ended.get('reason')}: exit code {ended.get('exitCode')}; see its log"
    return f"{end.get('reason') or 'Failed'}: {end.get('message') or 'its Job says no more'}"
