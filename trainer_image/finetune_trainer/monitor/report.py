"""What a look says, as JSON for the operator and for the page. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from finetune_api.protocol.monitoring import LookReport
from finetune_api.v1alpha1.status.traffic import SignalStatus
from finetune_trainer.monitor.evidence import Evidence
from finetune_trainer.monitor.looking import Look, Seen, Settings
from finetune_trainer.monitor.reference import Reference
from finetune_trainer.monitor.signals import signal_of
from finetune_trainer.traffic.rows import write_time

MAX_HISTORY = 1500
"""Looks that the page shows: two months of one an hour."""


def words_of(
    evidence: Evidence, version: int, *, now: datetime, num_waiting: int = 0
) -> LookReport:
    """Return the report on a look for the operator."""
    drifted = drifted_since(evidence, now)
    return LookReport(
        version=version,
        num_looks=evidence.num_looks,
        num_answers=evidence.num_answers,
        num_waiting=num_waiting,
        signals=[
            SignalStatus.model_validate(
                {
                    "name": name,
                    "log_e": f"{log_e:.4g}",
                    "since": write_time(drifted[name]) if name in drifted else None,
                }
            )
            for name, log_e in evidence.log_e_by_signal.items()
        ],
    )


def drifted_since(evidence: Evidence, now: datetime) -> dict[str, datetime]:
    """Return the signals whose alarm holds, and since when each has changed."""
    names = dict.fromkeys(signal_of(alarm.signal) for alarm in evidence.alarms)
    held = {name: evidence.holding(name, now) for name in names}
    return {name: min(times) for name, times in held.items() if times}


def report_of(
    look: Look, reference: Reference, settings: Settings, *, begin: datetime, end: datetime
) -> dict[str, Any]:
    """Return the report of a look.

    ``logE`` is null where there is no evidence at all. ``signals`` are those of the endpoint's
    status, ``parts`` what they consist of.
    """
    evidence = look.evidence
    return {
        "begin": write_time(begin),
        "end": write_time(end),
        "numLooks": evidence.num_looks,
        "numAnswers": evidence.num_answers,
        "numWaiting": look.num_waiting,
        "logE": _finite(evidence.log_e),
        "logBound": settings.log_bound,
        "falseAlarmsPerYear": settings.false_alarms_per_year,
        "drifted": {name: write_time(at) for name, at in drifted_since(evidence, end).items()},
        "quality": None
        if look.quality is None
        else look.quality.model_dump(mode="json", by_alias=True),
        "exampleOf": look.part,
        "examples": list(look.examples),
        "signals": [
            {"name": name, "logE": _finite(log_e)}
            for name, log_e in evidence.log_e_by_signal.items()
        ],
        "parts": [_part(name, look, reference) for name in evidence.signals],
        "alarms": [
            {
                "time": write_time(alarm.time),
                "signal": signal_of(alarm.signal),
                "part": alarm.signal,
                "since": write_time(alarm.since),
                "isHigher": alarm.is_higher,
                "logE": alarm.log_e,
            }
            for alarm in evidence.alarms
        ],
    }


def add_to_history(history: Mapping[str, Any], reference: str, look: Look) -> dict[str, Any]:
    """Return the history with one more look; one of another reference begins anew.

    A look that is made again replaces itself.
    """
    until = look.evidence.until
    if not look.seen or until is None:
        return dict(history) if history.get("reference") == reference else _begin(reference)
    end = write_time(until)
    before = history.get("looks") if history.get("reference") == reference else None
    looks = [each for each in before or () if each["end"] < end]
    entry = {"end": end, "means": {name: seen.mean for name, seen in look.seen.items()}}
    return {"reference": reference, "looks": [*looks, entry][-MAX_HISTORY:]}


def _begin(reference: str) -> dict[str, Any]:
    return {"reference": reference, "looks": []}


def _part(name: str, look: Look, reference: Reference) -> dict[str, Any]:
    watched = reference.watched[name]
    seen = look.seen.get(name, Seen(mean=None, num_users=0))
    return {
        "name": name,
        "logE": _finite(look.evidence.signals[name].log_e),
        "since": _began(look.evidence, name),
        "mean": seen.mean,
        "numUsers": seen.num_users,
        "referenceMean": watched.mean,
        "low": watched.limits.low,
        "high": watched.limits.high,
        "numReferenceRows": watched.num_rows,
        "referenceBins": list(watched.bins),
        "bins": list(seen.bins),
    }


def _began(evidence: Evidence, name: str) -> str | None:
    began = evidence.signals[name].began
    return None if began is None else write_time(began)


def _finite(logarithm: float) -> float | None:
    return logarithm if math.isfinite(logarithm) else None
