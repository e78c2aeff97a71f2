"""Rows about ranks that hang or run out of memory."""

from __future__ import annotations

from benchmarks.faults.matrix import Outcome, Row, WrongEnd, once
from benchmarks.faults.runs import STAGE_SECONDS, TWO_RANKS, Runs, failed

from kit.cluster.faults import fault


def hang_rows(runs: Runs) -> list[Row]:
    """Return the rows of this module."""
    rows = Hangs(runs)
    return [
        Row(
            name="hang-loader",
            fault="the data loader of one rank of two hangs",
            must="exit 76, the rank named, then the same adapter",
            list_cells=once,
            run_cell=lambda _: rows.hang("loader", "RankHung"),
        ),
        Row(
            name="hang-collective",
            fault="one rank of two waits for ever in a collective of its own",
            must="exit 76, then the same adapter",
            list_cells=once,
            run_cell=lambda _: rows.hang("collective", "CollectiveHung", "RankHung"),
        ),
        Row(
            name="memory-once",
            fault="out of memory at the planned micro batch",
            must="exit 77, then half the micro batch and the same global batch",
            list_cells=once,
            run_cell=rows.run_out_of_memory_once,
        ),
        Row(
            name="memory-always",
            fault="out of memory at any micro batch",
            must="a failure that says that nothing smaller is left",
            list_cells=once,
            run_cell=rows.run_out_of_memory_always,
        ),
    ]


class Hangs:
    """Runs the cells."""

    def __init__(self, runs: Runs) -> None:
        self._runs = runs

    def hang(self, kind: str, *reasons: str) -> Outcome:
        """Let one rank hang once, and run again without."""
        change = {**TWO_RANKS, "trainer": {"stepTimeoutSeconds": 15}}
        bench = self._runs.begin(change)
        bench.env = fault(kind, bench.folder / "mark", rank=1, step=4)
        run = bench.run("train", timeout=STAGE_SECONDS)
        ends = failed(run, 76, *reasons)
        bench.env = {}
        return self._runs.finish(bench, self._runs.expected(change), ended=1, ends=ends)

    def run_out_of_memory_once(self, _: str) -> Outcome:
        """Let the planned micro batch be too much; the next attempt must do with half of it."""
        bench = self._runs.begin({"hyperparameters": {"microBatchSize": 4}})
        bench.env = fault("memory", bench.folder / "mark", fits=2)
        ends = failed(bench.run("train", timeout=STAGE_SECONDS), 77)
        run = bench.run("train", timeout=STAGE_SECONDS)
        if run.exit_code != 0:
            raise WrongEnd(f"exit {run.exit_code} with half of it: {run.messages[-300:]}")
        sizes = {metric["name"]: float(metric["value"]) for metric in run.result["metrics"]}
        if (sizes["micro_batch_size"], sizes["global_batch_size"]) != (2, 4):
            raise WrongEnd(f"trained with {sizes}")
        words = f"{ends}, then micro batch 2 of a global batch of 4"
        return Outcome(ends=words, digest=run.result["sha256"], num_attempts=2)

    def run_out_of_memory_always(self, _: str) -> Outcome:
        """Let no micro batch fit; attempts must come to an end by themselves."""
        bench = self._runs.begin({"hyperparameters": {"microBatchSize": 4}})
        bench.env = fault("memory", bench.folder / "mark", fits=0)
        for attempt in range(1, 10):
            run = bench.run("train", timeout=STAGE_SECONDS)
            if run.exit_code != 77:
                return Outcome(ends=failed(run, 64), num_attempts=attempt)
        raise WrongEnd("still out of memory after nine attempts, and none says it is the last")
