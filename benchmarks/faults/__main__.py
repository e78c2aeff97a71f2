"""Runs the fault matrix and writes ``docs/reliability.md``.

Usage: ``python -m benchmarks.faults [ROW ...]``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import time
from contextlib import ExitStack

from benchmarks.faults.clocks import clock_rows
from benchmarks.faults.cluster import Cluster
from benchmarks.faults.disruptions import disruption_rows
from benchmarks.faults.hangs import hang_rows
from benchmarks.faults.matrix import Result, Row, choose_rows, run_row
from benchmarks.faults.nodes import node_rows
from benchmarks.faults.processes import process_rows
from benchmarks.faults.report import PAGE, describe_machine, keep_results, read_results, show_page
from benchmarks.faults.runs import Runs
from benchmarks.faults.storage import storage_rows

SEEDS = 50


def main(arguments: list[str]) -> int:
    """Run rows, print what comes of each cell, write the page; returns the exit code."""
    parser = argparse.ArgumentParser(prog="faults", description=__doc__)
    parser.add_argument("rows", nargs="*", help="rows to run; all without any")
    parser.add_argument("--seeds", type=int, default=SEEDS, help=f"seeds of a row ({SEEDS})")
    parser.add_argument(
        "--more", action="store_true", help="keep the cells that ended right, run those missing"
    )
    parser.add_argument(
        "--record", action="store_true", help="keep what Kubernetes says of jobs, for the tests"
    )
    parser.add_argument("--list", action="store_true", help="name the rows and leave")
    parser.add_argument("--page", action="store_true", help="write the page from what is kept")
    options = parser.parse_args(arguments)
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs = Runs.in_scratch()
    with ExitStack() as resources:
        cluster = Cluster(runs, resources, is_recording=options.record)
        rows = [
            *process_rows(runs),
            *hang_rows(runs),
            *storage_rows(runs),
            *disruption_rows(cluster),
            *node_rows(cluster, resources),
            *clock_rows(cluster, runs),
        ]
        return run(rows, runs, parser, options)


def run(
    rows: list[Row], runs: Runs, parser: argparse.ArgumentParser, options: argparse.Namespace
) -> int:
    """Run the rows that were asked for; returns the exit code."""
    try:
        chosen = choose_rows(rows, options.rows)
    except ValueError as error:
        parser.error(str(error))
    if options.list:
        print("\n".join(f"{row.name:26} {row.fault}" for row in rows))
        return 0
    began, hardware = time.monotonic(), describe_machine()
    results: list[Result] = []

    def keep(result: Result) -> None:
        # After each cell: what was found is not lost with the cells behind it.
        PAGE.write_text(show_page(rows, keep_results([result])), encoding="utf-8")

    for row in [] if options.page else chosen:
        known = read_results().get(row.name) if options.more else None
        result = run_row(
            row,
            num_seeds=options.seeds,
            hardware=hardware,
            tell=tell,
            known=known,
            keep=keep,
        )
        keep(result)
        results.append(result)
    PAGE.write_text(show_page(rows, read_results()), encoding="utf-8")
    shutil.rmtree(runs.folder, ignore_errors=True)
    wrong = sum(not cell.is_right for result in results for cell in result.cells)
    tell(f"{PAGE}: {wrong} cells ended wrong, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def tell(text: str) -> None:
    """Print at once: somebody may be waiting."""
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
