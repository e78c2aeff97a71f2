"""What a monitor keeps from one look to the next, and as JSON at rest. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import numpy as np
import orjson

from finetune_trainer.monitor.signals import signal_of
from finetune_trainer.statistics.confidence import Floats

NUM_CHANGES_KEPT = 20
NUM_DIGITS = 5


@dataclass(frozen=True, kw_only=True, slots=True)
class Change:
    """A change that looks have found.

    Attributes:
        part: Of a signal.
        since: End of the first look that found it.
        until: End of the first look without any evidence or comparison; None while it lasts.
    """

    part: str
    is_higher: bool
    since: datetime
    until: datetime | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Reference:
    """The users of a version's first window.

    Attributes:
        end: Of the window.
        numbers: Of each part of a signal, one per user, in an order by chance.
        share: Of the window's segments that was read, at random.
    """

    end: datetime
    numbers: Mapping[str, Floats]
    share: float = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class State:
    """What a monitor knows after a look.

    Attributes:
        of: Which version is watched, and behind a space what else must be as in the reference.
        until: End of the last look; None before the first one.
        reference: None while it is gathered.
        since: When gathering began anew for the same version; None if it did not.
        num_looks: Looks that have compared a signal.
        num_answers: Answers in the window of the last look.
        num_users: Users in it.
        log_e: Logarithm of the evidence of each part that the last look has compared.
        smallest: The smallest change of each part that looks find within a month; 1 for none.
        changes: The last ones, oldest first.
        note: What the last look could not compare, or compares with a new reference; or empty.
    """

    of: str
    until: datetime | None = None
    reference: Reference | None = None
    since: datetime | None = None
    num_looks: int = 0
    num_answers: int = 0
    num_users: int = 0
    log_e: Mapping[str, float] = field(default_factory=dict)
    smallest: Mapping[str, float] = field(default_factory=dict)
    changes: tuple[Change, ...] = ()
    note: str = ""

    @property
    def version(self) -> str:
        """The version that is watched."""
        return self.of.partition(" ")[0]

    @property
    def open(self) -> dict[str, Change]:
        """Changes that last, by part."""
        return {each.part: each for each in self.changes if each.until is None}

    @property
    def drifted(self) -> dict[str, datetime]:
        """Signals that have changed, and since when each has."""
        found: dict[str, datetime] = {}
        for part, change in self.open.items():
            found[signal_of(part)] = min(change.since, found.get(signal_of(part), change.since))
        return found


def write_state(state: State) -> bytes:
    """Return the state as JSON."""
    return orjson.dumps(state, default=_write, option=orjson.OPT_INDENT_2)


def parse_state(data: bytes) -> State:
    """Return the state in a JSON object.

    Raises:
        ValueError: It is none, or of another version of the monitor.
    """
    try:
        value = orjson.loads(data)
        told = value["reference"]
        numbers = told and {name: np.array(each) for name, each in told["numbers"].items()}
        times = {key: _time(value.get(key)) for key in ("until", "since")}
        end = told and datetime.fromisoformat(told["end"])
        reference = told and Reference(**told | {"end": end, "numbers": numbers})
        changes = tuple(
            Change(**each | {key: _time(each[key]) for key in ("since", "until")})
            for each in value["changes"]
        )
        return State(**value | times | {"reference": reference, "changes": changes})
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(
            f"the monitor's state cannot be read: {error!r}. Delete it to gather a new reference"
        ) from None


def _write(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return np.round(value, NUM_DIGITS).tolist()
    raise TypeError(f"{type(value)} is not kept")


def _time(value: str | None) -> datetime | None:
    return None if value is None else datetime.fromisoformat(value)
