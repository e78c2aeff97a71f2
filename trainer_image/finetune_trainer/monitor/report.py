"""What a look says, as JSON for the operator and for the page. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

import numpy as np

from finetune_api.protocol.monitoring import LookReport
from finetune_api.v1alpha1.status.traffic import MOST_UNSEEN, SignalStatus
from finetune_trainer.monitor.looking import Look, Part, Settings
from finetune_trainer.monitor.signals import signal_of
from finetune_trainer.monitor.state import State
from finetune_trainer.statistics.confidence import Floats
from finetune_trainer.traffic.rows import write_time

MAX_HISTORY = 1500
"""Looks that the page shows."""
NUM_BINS = 32


def words_of(state: State, version: int, settings: Settings) -> LookReport:
    """Return the report on the last look for the operator."""
    drifted, reference = state.drifted, state.reference
    first = None if reference is None else write_time(reference.end + settings.window)
    return LookReport(
        version=version,
        num_looks=state.num_looks,
        num_answers=state.num_answers,
        num_users=state.num_users,
        compares_from=first,
        note=state.note,
        signals=[
            SignalStatus.model_validate(
                {
                    "name": name,
                    "log_e": f"{max(state.log_e[part] for part in parts):.4g}",
                    "smallest": f"{max(state.smallest[part] for part in parts):.4g}",
                    "since": write_time(drifted[name]) if name in drifted else None,
                }
            )
            for name, parts in _parts_by_signal(state).items()
        ],
    )


def report_of(look: Look, settings: Settings, *, end: datetime) -> dict[str, Any]:
    """Return the report of a look.

    ``signals`` are those of the endpoint's status, ``parts`` what they consist of, ``leftOut``
    those that apply to too few users. ``low`` and ``high`` are the least changes that are found
    within a month, ``referenceMean`` is between them.
    """
    state, reference = look.state, look.state.reference
    return {
        "begin": write_time(end - settings.window),
        "end": write_time(end),
        "numLooks": state.num_looks,
        "numAnswers": state.num_answers,
        "numUsers": state.num_users,
        "minUsers": settings.min_users,
        "comparesFrom": None if reference is None else write_time(reference.end + settings.window),
        "logBound": look.log_bound,
        "falseAlarmsPerYear": settings.false_alarms_per_year,
        "drifted": {name: write_time(at) for name, at in state.drifted.items()},
        "quality": None
        if look.quality is None
        else look.quality.model_dump(mode="json", by_alias=True),
        "note": state.note,
        "exampleOf": look.part,
        "examples": list(look.examples),
        "signals": [
            {"name": name, "logE": max(state.log_e[part] for part in parts)}
            for name, parts in _parts_by_signal(state).items()
        ],
        "leftOut": {
            name: f"{number} of {settings.min_users} users"
            for name, number in look.left_out.items()
        },
        "unseen": [name for name, least in state.smallest.items() if least > MOST_UNSEEN],
        "parts": [_part(name, each) for name, each in look.parts.items()],
        "changes": [
            {
                "signal": signal_of(each.part),
                "part": each.part,
                "isHigher": each.is_higher,
                "since": write_time(each.since),
                "until": None if each.until is None else write_time(each.until),
            }
            for each in state.changes
        ],
    }


def add_to_history(history: Mapping[str, Any], look: Look, end: datetime) -> dict[str, Any]:
    """Return the history with one more look; that of another reference begins anew.

    A look that is made again replaces itself.
    """
    same = history.get("reference") == look.state.of
    looks = [each for each in history.get("looks", ()) if same and each["end"] < write_time(end)]
    if look.parts:
        means = {name: _mean(each.now) for name, each in look.parts.items()}
        looks.append({"end": write_time(end), "means": means})
    return {"reference": look.state.of, "looks": looks[-MAX_HISTORY:]}


def _parts_by_signal(state: State) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for part in state.log_e:
        found.setdefault(signal_of(part), []).append(part)
    return found


def _part(name: str, part: Part) -> dict[str, Any]:
    mean = float(part.then.mean())
    return {
        "name": name,
        "logE": part.log_e,
        "mean": _mean(part.now),
        "numUsers": len(part.now),
        "referenceMean": mean,
        "low": 0.0 if part.fall is None else mean - part.fall,
        "high": 1.0 if part.rise is None else mean + part.rise,
        "referenceBins": _bins(part.then),
        "bins": _bins(part.now),
    }


def _mean(numbers: Floats) -> float | None:
    return float(numbers.mean()) if len(numbers) else None


def _bins(numbers: Floats) -> list[int]:
    """Return a histogram of numbers from 0 to 1 with :data:`NUM_BINS` bins."""
    found: list[int] = np.histogram(numbers, bins=NUM_BINS, range=(0.0, 1.0))[0].tolist()
    return found
