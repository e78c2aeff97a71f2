"""Which probes a garak has, as it lists them, and whether a job's are among them. Pure.

Versions have different probes, and the image is the administrator's: nothing is known before garak
itself has said it.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

COLOURS = re.compile(r"\x1b\[[0-9;]*m")
"""What garak prints for terminals."""
_LINE = re.compile(r"^probes:\s+([a-z][a-z0-9_]*)\.([A-Za-z][A-Za-z0-9_]*)(.*)$")
_VERSION = re.compile(r"\bv(\d+(?:\.\w+)+)\b")
_ASLEEP = "\N{SLEEPING SYMBOL}"
"""Marks probes that are run only where they are named."""
NUM_NEAR = 3
MAX_LISTED = 30


@dataclass(frozen=True, kw_only=True, slots=True)
class Catalog:
    """The probes of one garak.

    Attributes:
        version: Its version; empty if it does not tell.
        probes: Of each probe, by ``module.Class``, whether its module's name runs it.
    """

    version: str
    probes: Mapping[str, bool]

    @property
    def modules(self) -> list[str]:
        """The modules that probes lie in."""
        return sorted({name.partition(".")[0] for name in self.probes})

    def expand(self, asked: str) -> list[str]:
        """Return the probes that an entry of a job runs; none where it names nothing that runs."""
        if "." in asked:
            return [asked] if asked in self.probes else []
        return [
            name
            for name, is_active in self.probes.items()
            if is_active and name.partition(".")[0] == asked
        ]

    def find_problem(self, asked: Sequence[str]) -> str:
        """Return what is wrong with the entries of a job, and what to write; empty if nothing is.

        Args:
            asked: Entries of ``evaluation.redTeam.probes``.
        """
        problems = [self._explain(name) for name in asked if not self.expand(name)]
        return "; ".join(problems)

    def _explain(self, asked: str) -> str:
        module = asked.partition(".")[0]
        inside = [name for name in self.probes if name.partition(".")[0] == module]
        if asked == module and inside:
            return (
                f"module {asked!r} runs no probe unless it is named: write one or more of "
                f"{_listed(inside)}"
            )
        if inside:
            return f"{asked!r} is none of its probes; {module!r} has {_listed(inside)}"
        near = difflib.get_close_matches(asked, [*self.modules, *self.probes], n=NUM_NEAR)
        words = f"; did you mean {' or '.join(near)}?" if near else ""
        return f"{asked!r} is none of its probes; its modules are {_listed(self.modules)}{words}"


def read_catalog(listing: str) -> Catalog:
    """Read what ``garak --list_probes`` prints; lines of another form are passed over.

    Args:
        listing: Its output.
    """
    text = COLOURS.sub("", listing)
    found = (_LINE.match(line.strip()) for line in text.splitlines())
    probes = {f"{m[1]}.{m[2]}": _ASLEEP not in m[3] for m in found if m}
    version = _VERSION.search(text)
    return Catalog(version=version[1] if version else "", probes=probes)


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more} more" if more > 0 else "")
