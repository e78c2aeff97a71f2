"""Rows and cells of the fault matrix, and how they are run one after the other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime


class WrongEnd(Exception):  # noqa: N818 - reads as the answer it is
    """A run ended otherwise than it must; says how."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Outcome:
    """How the run of a cell ended, and that this is right.

    Attributes:
        ends: In a few words: ``same adapter``, ``exit 73 DiskFull, then the same adapter``.
        digest: What is the same: the adapter's sha256; empty where the right end is a failure.
        num_attempts: Attempts of the stage it took.
    """

    ends: str
    digest: str = ""
    num_attempts: int = 1


@dataclass(frozen=True, kw_only=True, slots=True)
class Cell:
    """What came of one cell.

    Attributes:
        name: ``seed 3``, ``second 12``.
        is_right: It ended as it must.
        outcome: How, or what was wrong.
        seconds: How long it took.
    """

    name: str
    is_right: bool
    outcome: Outcome
    seconds: float


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """One fault.

    Attributes:
        name: By which it is chosen on the command line.
        fault: What is done, for the table.
        must: How it must end, for the table.
        list_cells: Returns the names of the cells for a number of seeds.
        run_cell: Runs one by its name; raises :class:`WrongEnd`.
        unfit: Returns why this machine cannot run it, or None.
    """

    name: str
    fault: str
    must: str
    list_cells: Callable[[int], list[str]]
    run_cell: Callable[[str], Outcome]
    unfit: Callable[[], str | None] = lambda: None


@dataclass(frozen=True, kw_only=True, slots=True)
class Result:
    """What came of a row.

    Attributes:
        row: Its name.
        cells: In order; empty if it was not run.
        why_not: Why it was not run.
        date: When, in ISO 8601.
        hardware: On what.
    """

    row: str
    cells: tuple[Cell, ...] = ()
    why_not: str = ""
    date: str = ""
    hardware: str = ""


def run_row(
    row: Row,
    *,
    num_seeds: int,
    hardware: str,
    tell: Callable[[str], None],
    known: Result | None = None,
    keep: Callable[[Result], None] = lambda _: None,
) -> Result:
    """Run the cells of a row.

    Args:
        row: The row.
        num_seeds: Cells of a row of seeds.
        hardware: On what it runs.
        tell: Told of each cell.
        known: What was found before: its cells that ended right are not run again.
        keep: Given what is found so far, after each cell.
    """
    date = datetime.now(UTC).strftime("%Y-%m-%d")
    if why_not := row.unfit():
        tell(f"{row.name}: not run: {why_not}")
        return Result(row=row.name, why_not=why_not, date=date, hardware=hardware)
    right = tuple(cell for cell in known.cells if cell.is_right) if known else ()
    result = Result(row=row.name, cells=right, date=date, hardware=hardware)
    if known and right:
        result = replace(result, date=known.date, hardware=known.hardware)
    names = [name for name in row.list_cells(num_seeds) if name not in {c.name for c in right}]
    for number, name in enumerate(names, start=1):
        cell = run_cell(row, name)
        mark = "ok   " if cell.is_right else "WRONG"
        tell(
            f"{mark} {row.name} [{number}/{len(names)}] {name}: {cell.outcome.ends} "
            f"{cell.outcome.digest[:12]} ({cell.outcome.num_attempts} attempts, "
            f"{cell.seconds:.0f} s)"
        )
        result = _add(result, cell, date=date, hardware=hardware)
        keep(result)
    return result


def _add(result: Result, cell: Cell, *, date: str, hardware: str) -> Result:
    """Put a cell beside those there are; of machines, each that found one of them is named."""
    machines = dict.fromkeys([*filter(None, result.hardware.split("; ")), hardware])
    return replace(
        result,
        cells=tuple(sorted((*result.cells, cell), key=_place_of)),
        date=date,
        hardware="; ".join(machines),
    )


def _place_of(cell: Cell) -> int:
    """Return the number in a cell's name: ``seed 3`` comes before ``seed 12``."""
    number = cell.name.rpartition(" ")[2]
    return int(number) if number.isdecimal() else 0


def run_cell(row: Row, name: str) -> Cell:
    """Run one cell; whatever it raises is its outcome."""
    began = time.monotonic()
    try:
        outcome, is_right = row.run_cell(name), True
    except Exception as error:
        words = f"{type(error).__name__}: " if not isinstance(error, WrongEnd) else ""
        outcome, is_right = Outcome(ends=f"{words}{error}"[:500]), False
    return Cell(name=name, is_right=is_right, outcome=outcome, seconds=time.monotonic() - began)


def seeds(num_seeds: int) -> list[str]:
    """Name one cell per seed."""
    return [f"seed {number}" for number in range(num_seeds)]


def once(_: int) -> list[str]:
    """Name the only cell of a row without chance."""
    return ["once"]


def choose_rows(rows: Iterable[Row], names: list[str]) -> list[Row]:
    """Return the rows that were asked for, all if none was.

    Raises:
        ValueError: There is no such row; names those there are.
    """
    known = {row.name: row for row in rows}
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ValueError(f"no row {', '.join(unknown)}; there are {', '.join(known)}")
    return [known[name] for name in names] if names else list(known.values())
