"""When which version of an endpoint was in rotation, by the decisions in its status."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from kit.endpoints.clients import Answer
from kit.processes.installation import Body

LAG_SECONDS = 2.0
"""Of fronts behind the status; the times of decisions are cut to whole seconds besides."""


@dataclass(frozen=True, kw_only=True)
class Spell:
    """A time in which a version was in rotation, from and to in Unix time."""

    version: int
    begin: float
    end: float = float("inf")


@dataclass(frozen=True, kw_only=True)
class Rotation:
    """The versions that had requests."""

    spells: tuple[Spell, ...]

    @classmethod
    def of(cls, status: Body) -> Rotation:
        """Read the decisions of a status whose last rollout has ended."""
        spells: list[Spell] = []
        active, candidate = None, None
        for decision in status["decisions"]:
            moment = datetime.fromisoformat(decision["time"]).timestamp()
            version = decision["version"]
            match decision["action"]:
                case "Verified" if decision["weight"] and candidate is None:
                    candidate = Spell(version=version, begin=moment)
                case "Promoted":
                    if active is not None:
                        spells.append(_ended(active, moment))
                    active, candidate = candidate or Spell(version=version, begin=moment), None
                case "RolledBack" if candidate is not None:
                    spells.append(_ended(candidate, moment))
                    candidate = None
        return cls(spells=(*spells, *(each for each in (active, candidate) if each)))

    @property
    def versions(self) -> tuple[int, ...]:
        """The versions that had requests, ascending."""
        return tuple(sorted({spell.version for spell in self.spells}))

    def has(self, answer: Answer) -> bool:
        """Return whether the version of an answer was in rotation when it was asked."""
        return any(
            spell.version == answer.version
            and answer.end >= spell.begin
            and answer.begin <= spell.end + 1 + LAG_SECONDS
            for spell in self.spells
        )


def _ended(spell: Spell, moment: float) -> Spell:
    return Spell(version=spell.version, begin=spell.begin, end=moment)
