"""Which suite and which lane a test belongs to: the table `tests/suites.toml`, read once.

A *suite* says when a test runs, a *lane* says what it needs:

* suite `quick`: the fast unit tests and one journey; `baseline`: what continuous integration runs
  besides; `quarantine`: failed without a fault of the product, and does not count; `extended`: all
  others.
* lane `api`: real API servers; `node`: the one node of this host; `local`: all others.

A test is named by a folder, a file or a node id without its parameters. A new test is `extended`
until somebody names it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "tests" / "suites.toml"
QUARANTINE = ROOT / "tests" / "quarantine.toml"
LANES = ("local", "api", "node")
NAMED_SUITES = ("quick", "baseline")
MOST_IN_QUARANTINE = 10


@dataclass(frozen=True, kw_only=True, slots=True)
class Suites:
    """The table.

    Attributes:
        suites: Names of tests by suite.
        lanes: Names of tests by lane; the longest name that fits decides.
        quarantine: Names of tests in quarantine.
    """

    suites: Mapping[str, frozenset[str]]
    lanes: Mapping[str, frozenset[str]]
    quarantine: frozenset[str] = field(default_factory=frozenset)

    def suite_of(self, test: str, *, fast: bool = False) -> str:
        """Return the suite of a test: its node id, with or without parameters."""
        names = names_of(test)
        if self.quarantine & names:
            return "quarantine"
        if fast:
            return "quick"
        named = (suite for suite in NAMED_SUITES if self.suites.get(suite, frozenset()) & names)
        return next(named, "extended")

    def lane_of(self, test: str) -> str:
        """Return the lane of a test, `local` where none is named."""
        names = names_of(test)
        fitting = [(len(n), lane) for lane, each in self.lanes.items() for n in each & names]
        return max(fitting, default=(0, "local"))[1]

    def may_hold(self, file: str, suites: Collection[str], lane: str | None) -> bool:
        """Whether a file can hold a test of these suites and this lane; false spares its import."""
        if lane is not None and self.lane_of(file) != lane:
            return False
        if "extended" in suites:
            return True
        wanted = [self.quarantine if s == "quarantine" else self.suites.get(s, ()) for s in suites]
        above = names_of(file)
        return any(n in above or n.startswith(f"{file}::") for names in wanted for n in names)


def names_of(test: str) -> frozenset[str]:
    """Return every name that includes a test: itself, its file and the folders above.

    >>> sorted(names_of("tests/cli/test_run.py::test_stops[now]"))
    ['tests', 'tests/cli', 'tests/cli/test_run.py', 'tests/cli/test_run.py::test_stops']
    """
    file, _, function = test.partition("::")
    found = {str(each) for each in (Path(file), *Path(file).parents)} - {"."}
    if function:
        found.add(f"{file}::{function.partition('[')[0]}")
    return frozenset(found)


def read_suites(table: Path = TABLE, quarantine: Path = QUARANTINE) -> Suites:
    """Read both tables.

    Raises:
        ValueError: A test has two suites or lanes, or an entry of the quarantine lacks a field.
    """
    document = tomllib.loads(table.read_text(encoding="utf-8"))
    suites = {name: frozenset(document["suites"][name]) for name in NAMED_SUITES}
    for name in suites["quick"] & suites["baseline"]:
        raise ValueError(f"{table.name}: {name} is in two suites: remove it from one of them")
    lanes = {name: frozenset(document["lanes"][name]) for name in LANES if name != "local"}
    for name in lanes["api"] & lanes["node"]:
        raise ValueError(f"{table.name}: {name} is in two lanes: remove it from one of them")
    held = tomllib.loads(quarantine.read_text(encoding="utf-8")).get("test", [])
    return Suites(suites=suites, lanes=lanes, quarantine=frozenset(map(_quarantined, held)))


def _quarantined(entry: Mapping[str, Any]) -> str:
    for key in ("name", "since", "seen", "cause"):
        if not entry.get(key):
            raise ValueError(f"{QUARANTINE.name}: an entry has no `{key}`: {dict(entry)}")
    return str(entry["name"])
