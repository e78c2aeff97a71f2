"""Takes every model family through the whole chain and writes the table of what came out.

Usage: ``python benchmarks/model_families.py [FAMILY ...]``; without names all run. The table goes
to ``benchmarks/results/families.md``; lines of families that did not run stay as they are.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing import get_context
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tools"), str(ROOT / "tests")]

from kit.families.chain import Outcome, run_chain  # noqa: E402
from kit.families.family import Family  # noqa: E402
from kit.families.labels import golden_path, show_family  # noqa: E402
from kit.families.table import FAMILIES  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "families.md"
NUM_AT_ONCE = 2
HEADER = (
    "family",
    "labels",
    "learned by heart",
    "stops",
    "plain PEFT",
    "packing",
    "seconds",
    "last run",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Row:
    """A family's line.

    Attributes:
        family: Its name.
        cells: What the columns behind the name say.
        is_right: Whether it is as the table of families expects.
    """

    family: str
    cells: tuple[str, ...]
    is_right: bool


def examine(name: str) -> Row:
    """Check a family's labels and take it through the stages."""
    family = next(family for family in FAMILIES if family.name == name)
    began = time.monotonic()
    labels = _check_labels(family)
    with tempfile.TemporaryDirectory(prefix=f"family-{name}-") as folder:
        try:
            outcome = run_chain(family, Path(folder))
        except (AssertionError, subprocess.TimeoutExpired) as error:
            lines = str(error).strip().splitlines()
            outcome = Outcome(refused="CRASH", message=lines[-1] if lines else "")
    took = (f"{time.monotonic() - began:.0f}", f"{datetime.now(UTC):%Y-%m-%d}")
    if outcome.refused is not None:
        cells = (labels, f"refused: {outcome.refused}", "-", "-", "-", *took)
        is_right = outcome.refused == family.refused
    else:
        cells = (
            labels,
            _word(outcome.answers == outcome.references and outcome.exact_match == 1.0),
            _word(all(outcome.stopped)),
            _word(outcome.plain == outcome.answers),
            outcome.packing,
            *took,
        )
        is_right = outcome.is_right and family.refused is None
    return Row(family=name, cells=cells, is_right=is_right and labels == "ok")


def show_table(rows: list[Row]) -> str:
    """Return the table in Markdown."""
    lines = [f"| {' | '.join(HEADER)} |", "|---" * len(HEADER) + "|"]
    lines += [f"| {' | '.join((row.family, *row.cells))} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Examine families, print the table, and write it if it is whole; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", metavar="FAMILY", help="all if none is named")
    names = parser.parse_args().names
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    chosen = names or [family.name for family in FAMILIES]
    rows = []
    with ProcessPoolExecutor(NUM_AT_ONCE, mp_context=get_context("spawn")) as pool:
        for row in pool.map(examine, chosen):
            state = "ok   " if row.is_right else "WRONG"
            print(f"{state} {row.family}: {', '.join(row.cells)}", flush=True)
            rows.append(row)
    print(f"\n{show_table(rows)}")
    RESULT.write_text(_introduce() + show_table(_join_earlier(rows)), encoding="utf-8")
    print(RESULT)
    return 0 if all(row.is_right for row in rows) else 1


def _join_earlier(rows: list[Row]) -> list[Row]:
    """Put the lines of families that did not run now in their places, as the page has them."""
    now = {row.family: row for row in rows}
    page = RESULT.read_text(encoding="utf-8") if RESULT.exists() else ""
    earlier = {}
    for line in page.splitlines():
        family, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        earlier[family] = Row(family=family, cells=tuple(cells), is_right=True)
    names = [family.name for family in FAMILIES]
    return [(earlier | now)[name] for name in names if name in now or name in earlier]


def _check_labels(family: Family) -> str:
    shown = show_family(family, family.tokenizer())
    return _word(shown == golden_path(family).read_text(encoding="utf-8"))


def _word(is_right: bool) -> str:
    return "ok" if is_right else "WRONG"


def _introduce() -> str:
    cores = len(os.sched_getaffinity(0))
    return (
        "# Model families\n\n"
        f"`make families`, {cores} CPU cores, {_cpu_name()}.\n\n"
        "Each family: its tokenizer and chat template, and a tiny model of its architecture\n"
        "with random weights. *Labels*: what is learned of rows of every shape equals a file that\n"
        "was read. *Learned by heart*: eight rows through `prepare`, `train` and `evaluate` give\n"
        "exact match 1.0. *Stops*: each answer ends of its own accord. *Plain PEFT*: published\n"
        "files give the same answers without this project's code. *Packing*: `off`, or `exact`\n"
        "where two rows in one are answered as if they lay alone.\n\n"
    )


def _cpu_name() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, "unknown processor")


if __name__ == "__main__":
    sys.exit(main())
