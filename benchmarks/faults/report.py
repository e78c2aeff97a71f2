"""What the matrix found, kept by row, and the page that shows it."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from benchmarks.faults.matrix import Cell, Outcome, Result, Row

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "faults.json"
PAGE = ROOT / "docs" / "reliability.md"

_HEADER = ("row", "what goes wrong", "must end in", "found", "adapter", "attempts", "last run")


def read_results(path: Path = RESULTS) -> dict[str, Result]:
    """Return what is kept, by row."""
    if not path.exists():
        return {}
    return {name: _result_of(wire) for name, wire in json.loads(path.read_text()).items()}


def keep_results(results: Iterable[Result], path: Path = RESULTS) -> dict[str, Result]:
    """Put results beside those that are kept; a row that was not run keeps what it had."""
    kept = read_results(path)
    for result in results:
        if result.cells or result.row not in kept:
            kept[result.row] = result
    wire = {name: asdict(result) for name, result in kept.items()}
    path.write_text(json.dumps(wire, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    return kept


def show_page(rows: Iterable[Row], results: dict[str, Result]) -> str:
    """Return the page: one line per row, and every cell that ended wrong."""
    rows = list(rows)
    lines = [f"| {' | '.join(_HEADER)} |", "|---" * len(_HEADER) + "|"]
    lines += [_line_of(row, results.get(row.name)) for row in rows]
    wrong = [
        f"- `{row.name}`, {cell.name}: {cell.outcome.ends}"
        for row in rows
        for cell in (results[row.name].cells if row.name in results else ())
        if not cell.is_right
    ]
    trouble = ["", "## What ended wrong", "", *wrong] if wrong else []
    return _INTRODUCTION + "\n".join([*lines, *trouble]) + "\n" + _describe_hardware(results)


def describe_machine() -> str:
    """Return cores and processor of this machine."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    cores = len(os.sched_getaffinity(0))
    return f"{cores} CPU cores, {next(named, 'unknown processor')}"


def _line_of(row: Row, result: Result | None) -> str:
    if result is None or not result.cells:
        reason = result.why_not if result else row.unfit()
        why = f"not run: {reason}" if reason else "not run"
        return f"| `{row.name}` | {row.fault} | {row.must} | {why} | - | - | - |"
    right = [cell for cell in result.cells if cell.is_right]
    ends = sorted({cell.outcome.ends for cell in right})
    found = f"{len(right)} of {len(result.cells)}: {'; '.join(ends) or 'all wrong'}"
    digests = sorted({cell.outcome.digest[:12] for cell in right if cell.outcome.digest})
    adapter = ", ".join(f"`{digest}`" for digest in digests) or "-"
    attempts = sorted({cell.outcome.num_attempts for cell in right})
    spread = "-".join(str(number) for number in sorted({*attempts[:1], *attempts[-1:]})) or "-"
    cells = (f"`{row.name}`", row.fault, row.must, found, adapter, spread, result.date)
    return f"| {' | '.join(cells)} |"


def _describe_hardware(results: dict[str, Result]) -> str:
    found = (result.hardware.split("; ") for result in results.values() if result.cells)
    machines = sorted({machine for machines in found for machine in machines})
    return f"\nRun on: {'; '.join(machines) or 'nothing yet'}.\n"


def _result_of(wire: dict[str, Any]) -> Result:
    cells = tuple(Cell(**{**cell, "outcome": Outcome(**cell["outcome"])}) for cell in wire["cells"])
    return Result(**{**wire, "cells": cells})


_INTRODUCTION = """# What a job survives

<!-- Written by `make faults`. Do not edit. -->

Each row is one fault, done to real processes: the stages as the operator starts them, a real S3
server, and for the rows of the cluster a real Kubernetes. A cell is right if the job ends in the
same adapter, byte for byte, as an undisturbed run of the same job on the same machine (the column
*adapter* has the first twelve digits of its sha256), or in the failure that its row asks for.
*Attempts* are those of the stage, the disturbed ones included. Different rows train different jobs,
so their adapters differ; within a row all are one. Another kind of processor gives others.

```
make faults                                  # all rows, 50 seeds: many hours on two cores
make faults FAULTS="kill-trainer disk-full"  # these rows
make faults SEEDS=3                          # fewer seeds
make faults MORE=1 FAULTS=kill-trainer       # what ended right stays; seeds that are missing run
```

A row that was not run keeps its last result, with its date. Results are kept after each cell.

"""
