"""The fault matrix says what it found, and what it did not look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.faults.matrix import (
    Cell,
    Outcome,
    Result,
    Row,
    WrongEnd,
    choose_rows,
    run_row,
    seeds,
)
from benchmarks.faults.report import keep_results, read_results, show_page

DIGEST = "3f2a1c" + "0" * 58


def make_row(name: str, *, wrong: str = "", why_not: str | None = None) -> Row:
    def run(cell: str) -> Outcome:
        if cell == wrong:
            raise WrongEnd("exit 70 InternalError")
        return Outcome(ends="same adapter", digest=DIGEST, num_attempts=2)

    return Row(
        name=name,
        fault="it is killed",
        must="the same adapter",
        list_cells=seeds,
        run_cell=run,
        unfit=lambda: why_not,
    )


def run(
    row: Row, *, num_seeds: int = 3, known: Result | None = None, hardware: str = "2 cores"
) -> tuple[Result, list[str]]:
    told: list[str] = []
    return run_row(row, num_seeds=num_seeds, hardware=hardware, tell=told.append, known=known), told


def test_every_cell_is_run_and_told_and_a_wrong_end_stops_none() -> None:
    result, told = run(make_row("kill", wrong="seed 1"))
    assert [cell.is_right for cell in result.cells] == [True, False, True]
    assert result.cells[1].outcome.ends == "exit 70 InternalError"
    assert [line.split()[0] for line in told] == ["ok", "WRONG", "ok"]
    assert "kill [1/3] seed 0: same adapter 3f2a1c000000 (2 attempts" in told[0]


def test_row_is_taken_up_where_it_was_left_and_what_was_wrong_is_run_again() -> None:
    before = run(make_row("kill", wrong="seed 1"), num_seeds=12)[0]
    cut_off = replace(before, cells=before.cells[:2] + before.cells[10:])
    result, told = run(make_row("kill"), num_seeds=11, known=cut_off, hardware="4 cores")
    assert [cell.name for cell in result.cells] == [f"seed {number}" for number in range(12)]
    assert all(cell.is_right for cell in result.cells)
    assert len(told) == 9
    assert result.cells[0] is before.cells[0]
    assert result.hardware == "2 cores; 4 cores"


def test_row_that_has_all_its_cells_stays_as_it_is() -> None:
    before = replace(run(make_row("kill"))[0], date="2026-01-01")
    assert run(make_row("kill"), known=before, hardware="4 cores") == (before, [])


def test_cells_are_kept_as_they_end() -> None:
    kept: list[Result] = []
    run_row(make_row("kill"), num_seeds=3, hardware="", tell=lambda _: None, keep=kept.append)
    assert [len(result.cells) for result in kept] == [1, 2, 3]


def test_failure_of_the_matrix_itself_is_a_wrong_cell() -> None:
    row = make_row("kill")
    broken = Row(**{**{n: getattr(row, n) for n in Row.__slots__}, "run_cell": lambda _: 1 / 0})
    (cell,) = run(broken, num_seeds=1)[0].cells
    assert not cell.is_right
    assert cell.outcome.ends.startswith("ZeroDivisionError")


def test_row_that_this_machine_cannot_run_says_so() -> None:
    result, told = run(make_row("drain", why_not="needs root"))
    assert (result.cells, result.why_not) == ((), "needs root")
    assert told == ["drain: not run: needs root"]


def test_rows_are_chosen_by_name() -> None:
    rows = [make_row("kill"), make_row("drain")]
    assert choose_rows(rows, []) == rows
    assert choose_rows(rows, ["drain"]) == rows[1:]
    with pytest.raises(ValueError, match="no row kil; there are kill, drain"):
        choose_rows(rows, ["kil"])


def test_page_has_every_row_with_what_was_found_last(tmp_path: Path) -> None:
    elsewhere = make_row("elsewhere", why_not="one node")
    rows = [make_row("kill", wrong="seed 1"), make_row("drain"), make_row("never"), elsewhere]
    path = tmp_path / "faults.json"
    keep_results([run(row)[0] for row in rows[:2]], path)
    # A later run that could not run a row keeps what an earlier one found.
    keep_results([run(make_row("drain", why_not="no cluster"))[0]], path)
    page = show_page(rows, read_results(path))
    lines = {line.split("`")[1]: line for line in page.splitlines() if line.startswith("| `")}
    assert "2 of 3: same adapter | `3f2a1c000000` | 2 |" in lines["kill"]
    assert "3 of 3: same adapter" in lines["drain"]
    assert "| not run | - |" in lines["never"]
    assert "| not run: one node | - |" in lines["elsewhere"]
    assert "- `kill`, seed 1: exit 70 InternalError" in page
    assert "Run on: 2 cores." in page


def test_page_without_a_wrong_end_has_no_such_section() -> None:
    cell = Cell(name="once", is_right=True, outcome=Outcome(ends="exit 73"), seconds=1.0)
    page = show_page([make_row("full")], {"full": Result(row="full", cells=(cell,))})
    assert "ended wrong" not in page
    assert "1 of 1: exit 73 | - | 1 |" in page
