"""The status being built during one plan: what every kind has in it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from pydantic import ValidationError

from finetune_operator.status.conditions import TERMINAL, Conditions, ConditionType, Reason
from finetune_operator.status.fitting import Cut, FittedStatus, StatusSchema, describe_cuts

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Announce:
    """Record an Event on the object that was planned for."""

    kind: Literal["Normal", "Warning"]
    reason: str
    message: str


def announce_cuts(cuts: Iterable[Cut]) -> Announce:
    """Return the Event that says what a status could not hold."""
    return Announce(kind="Warning", reason="StatusCut", message=describe_cuts(cuts))


class Draft:
    """Mutable status of one plan, started from the stored one.

    Args:
        owner: The object whose status it is, as stored.
        schema: The schema of its status.
        fields: Names of the fields that the operator's field manager owns.
    """

    def __init__(
        self, owner: Object, schema: StatusSchema, fields: Iterable[str], now: datetime
    ) -> None:
        self.now = now
        stored: Object = owner.get("status") or {}
        self._stored, self._schema = stored, schema
        # Repeat fields of a newer version: server-side apply removes fields that we own and leave
        # out.
        kept = (*fields, *schema.unknown_fields(stored))
        self._fields: Object = {key: stored[key] for key in kept if key in stored}
        self.generation: int | None = owner["metadata"].get("generation")
        self.conditions = Conditions(stored.get("conditions"), generation=self.generation, now=now)
        self.events: list[Announce] = []

    def announce(self, reason: str, message: str, *, warning: bool = False) -> None:
        """Add an Event."""
        kind: Literal["Normal", "Warning"] = "Warning" if warning else "Normal"
        self.events.append(Announce(kind=kind, reason=str(reason), message=message))

    def get(self, section: str) -> Any:
        """Return a section as it stands, or None."""
        return self._fields.get(section)

    def put(self, section: str, value: Any) -> None:
        """Replace a section."""
        self._fields[section] = value

    def drop(self, section: str) -> None:
        """Take a section out."""
        self._fields.pop(section, None)

    def is_true(self, kind: ConditionType) -> bool:
        """Return whether a condition is ``True``."""
        return self.conditions.status_of(kind) == "True"

    def stall_unreadable(self, error: ValidationError, meanwhile: str) -> list[Object] | None:
        """Return the conditions of a status that cannot be read; None if they are unchanged.

        They are written by themselves, because a newer operator may be able to read the rest.
        """
        field = ".".join(str(part) for part in error.errors()[0]["loc"])
        message = f"This version of the operator cannot read status.{field}. {meanwhile}"
        before = self.conditions.to_wire()
        self.conditions.set(ConditionType.STALLED, True, Reason.INVALID_STATUS, message)
        conditions = self.conditions.to_wire()
        if conditions == before:
            return None
        self.announce(Reason.INVALID_STATUS, message, warning=True)
        return conditions

    @property
    def has_ended(self) -> bool:
        """Whether one of the conditions that end an object's life is ``True``."""
        return any(self.is_true(kind) for kind in TERMINAL)

    def sections(self) -> Object:
        """Return the status as it stands, conditions and generation included."""
        wire = dict(self._fields)
        if self.generation is not None:
            wire["observedGeneration"] = self.generation
        wire["conditions"] = self.conditions.to_wire()
        return wire

    def fit(self, wire: Object, is_news: Callable[[Object], bool]) -> FittedStatus | None:
        """Return the status to write, cut to its schema; None if it is unchanged.

        An Event reports the cuts.
        """
        if not is_news(wire):
            return None
        fitted, cuts = self._schema.fit(wire)
        if fitted is not wire and not is_news(fitted):
            return None
        if cuts:
            self.events.append(announce_cuts(cuts))
        return fitted
