"""Rows per second and peak memory of `prepare` over many rows, each of its steps timed apart.

The stage runs as it does in a pod, in as many processes as are asked for and as there are cores;
the functions it is made of are timed where it calls them, by the clock and by what all its
processes computed. `peak_mib` is the largest sum of the proportional set sizes of these, looked at
four times a second: pages that several of them share count once.

Then the row steps are measured alone (`--steps`), in one process, without anything around them;
among them the search for personal data. `--presidio PYTHON` and `--datasketch PYTHON` name
interpreters that have these: they are asked about the first of the same rows.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / part) for part in ("tools", "benchmarks/data")]

from peers import ask_datasketch, ask_presidio, find_missing  # noqa: E402

from base_model import ensure_model  # noqa: E402

LOOK_SECONDS = 0.25
DUPLICATE_PERCENT = 2
PERSONAL_PERCENT = 5
TIMED = (
    "fetch_sources",
    "take_in",
    "compare_rows",
    "divide_compared",
    "count_repeats",
    "measure_tokens",
    "write_documents",
    "write_sides",
    "count_labels",
    "make_report",
    "_publish",
)
STEPS = ("PrivacyStep", "BrokenText", "WeakAnswers")
NUM_STEP_ROWS = 20_000
NUM_PRESIDIO_ROWS = 2_000
NUM_DATASKETCH_ROWS = 20_000
TICKS = os.sysconf("SC_CLK_TCK")
"""Functions that the stage calls one after the other; those that a version lacks are left out."""


def make_words() -> tuple[list[str], list[float]]:
    """Return words of two to four syllables, and how often each is used (Zipf)."""
    rng = random.Random(5)
    syllables = [c + v for c in "bdfgklmnprstvz" for v in ("a", "e", "i", "o", "u", "ai", "er")]
    words = list(
        dict.fromkeys("".join(rng.choices(syllables, k=rng.randint(1, 3))) for _ in range(20_000))
    )
    return words, list(itertools.accumulate(1 / (rank + 10) for rank in range(len(words))))


def make_rows(num_rows: int) -> Iterator[dict[str, str]]:
    """Yield pairs of about 100 tokens: some repeat an earlier one, some hold an address."""
    rng = random.Random(7)
    vocabulary, weights = make_words()
    for number in range(num_rows):
        if number and rng.random() * 100 < DUPLICATE_PERCENT:
            number = rng.randrange(number)
        words = random.Random(number).choices(vocabulary, cum_weights=weights, k=50)
        question = " ".join(words[:27])
        if number % 100 < PERSONAL_PERCENT:
            question += f" please write to user{number}@mail.example"
        yield {"prompt": question, "completion": " ".join(words[27:])}


def run_prepare(folder: Path) -> dict[str, Any]:
    """Prepare as the stage does, and time what it calls."""
    from finetune_api.protocol.trainer import Stage, resolve_job
    from finetune_api.v1alpha1.finetunejob import FineTuneJob
    from finetune_trainer.context import StageContext
    from finetune_trainer.prepare import building, stage
    from finetune_trainer.prepare.rows.spool import Spool
    from finetune_trainer.prepare.workers import num_processes_granted
    from finetune_trainer.process import hide_torch
    from finetune_trainer.report.events import EventEmitter

    hide_torch()
    spec = {
        "model": {"uri": f"file://{ensure_model()}"},
        "dataset": {"sources": [{"uri": f"file://{folder}/rows.jsonl"}]},
        "output": {"uri": f"file://{folder}/out"},
        "resources": {"gpusPerNode": 0},
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "data-scale"}, "spec": spec})
    seconds: dict[str, list[float]] = {}
    for name in TIMED:
        for place in (stage, building, Spool):
            if hasattr(place, name):
                setattr(place, name, _timed(getattr(place, name), name.strip("_"), seconds))
    with (folder / "events.jsonl").open("w") as events:
        context = StageContext(
            job=resolve_job(job, namespace="benchmark", uid="benchmark"),
            emit=EventEmitter(Stage.PREPARE, stream=events),
            work_dir=folder / "work",
            cache_dir=folder / "cache",
        )
        context.work_dir.mkdir(exist_ok=True)
        start = time.perf_counter()
        with MemoryWatch() as peak:
            result = stage.prepare(context)
        total = time.perf_counter() - start
    own, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    num_rows = result.rows.train + result.rows.validation + result.rows.test
    return {
        "processes": num_processes_granted(),
        "rows": num_rows,
        "seconds": round(total, 1),
        "rows_per_second": round(num_rows / total),
        "cpu_seconds": round(sum(u.ru_utime + u.ru_stime for u in (own, children)), 1),
        "peak_mib": peak.mib,
        "seconds_and_cpu_seconds_of": {
            name: [round(number, 2) for number in spent] for name, spent in seconds.items()
        },
    }


def run_step(folder: Path, name: str) -> dict[str, Any]:
    """Take rows through one row step alone."""
    from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
    from finetune_trainer.data.rows import make_example
    from finetune_trainer.prepare.steps import choose_steps

    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://example/any"},
            "dataset": {"sources": [{"uri": "s3://any/rows.jsonl"}]},
            "output": {"uri": "s3://any/out"},
        }
    )
    steps = {type(step).__name__: step for step in choose_steps(spec)}
    step = steps[name]
    with (folder / "rows.jsonl").open() as lines:
        examples = [
            make_example(json.loads(line), file="a", line=1, side=None, group_value=None)
            for line in itertools.islice(lines, NUM_STEP_ROWS)
        ]
    step.judge(examples[0])
    start = time.process_time()
    for example in examples:
        step.judge(example)
    spent = time.process_time() - start
    return {
        "step": name,
        "rows": len(examples),
        "rows_per_cpu_second": round(len(examples) / spent),
    }


def run_presidio(folder: Path, python: str) -> dict[str, Any]:
    """Ask Presidio about the first rows."""
    if missing := find_missing(python, "presidio_analyzer"):
        return {"peer": "presidio", "skipped": missing}
    rows = _first_rows(folder, NUM_PRESIDIO_ROWS)
    seconds, _ = ask_presidio(python, [[text for row in rows for text in row.values()]])[0]
    return {
        "peer": "presidio",
        "rows": len(rows),
        "rows_per_cpu_second": round(len(rows) / seconds),
    }


def run_datasketch(folder: Path, python: str) -> dict[str, Any]:
    """Ask datasketch about the first rows' prompts."""
    if missing := find_missing(python, "datasketch"):
        return {"peer": "datasketch", "skipped": missing}
    rows = _first_rows(folder, NUM_DATASKETCH_ROWS)
    return {"peer": "datasketch"} | ask_datasketch(python, [row["prompt"] for row in rows])


def _first_rows(folder: Path, number: int) -> list[dict[str, str]]:
    with (folder / "rows.jsonl").open() as lines:
        return [json.loads(line) for line in itertools.islice(lines, number)]


def _timed(
    function: Callable[..., Any], name: str, seconds: dict[str, list[float]]
) -> Callable[..., Any]:
    def call(*arguments: Any, **named: Any) -> Any:
        start = time.perf_counter(), _family_seconds()
        try:
            return function(*arguments, **named)
        finally:
            spent = seconds.setdefault(name, [0.0, 0.0])
            spent[0] += time.perf_counter() - start[0]
            spent[1] += _family_seconds() - start[1]

    return call


class MemoryWatch:
    """Looks at the memory of this process and all below it while the block runs."""

    def __init__(self) -> None:
        self.mib = 0
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> MemoryWatch:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._is_over.wait(LOOK_SECONDS):
            self.mib = max(self.mib, sum(map(_proportional_kib, _family(os.getpid()))) // 1024)


def _family(process: int) -> list[int]:
    found = [process]
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        try:
            children = [int(child) for child in task.read_text().split()]
        except OSError:
            continue
        for child in children:
            found += _family(child)
    return found


def _family_seconds() -> float:
    """Return what this process and all below it have computed, in seconds."""
    ticks = 0
    for process in _family(os.getpid()):
        try:
            fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        ticks += int(fields[11]) + int(fields[12])  # utime and stime
    return ticks / TICKS


def _proportional_kib(process: int) -> int:
    try:
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in lines if line.startswith("Pss:")), 0)


def main() -> None:
    """Generate rows and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--steps", nargs="*", default=STEPS, help="row steps to measure alone")
    parser.add_argument("--presidio", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--datasketch", default=sys.executable, metavar="PYTHON")
    parser.add_argument("--folder", type=Path, help="kept; by default a temporary one")
    parser.add_argument("--part", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.part:
        measured = (
            run_prepare(arguments.folder)
            if arguments.part == "prepare"
            else run_step(arguments.folder, arguments.part)
        )
        print(json.dumps(measured), flush=True)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / "rows.jsonl").open("w") as stream:
            for row in make_rows(arguments.rows):
                stream.write(json.dumps(row) + "\n")
        for part in ("prepare", *arguments.steps):
            subprocess.run(
                [sys.executable, __file__, "--part", part, "--folder", str(folder)],
                check=True,
                env={**os.environ, "OMP_NUM_THREADS": str(arguments.processes)},
            )
        print(json.dumps(run_presidio(folder, arguments.presidio)), flush=True)
        print(json.dumps(run_datasketch(folder, arguments.datasketch)), flush=True)


if __name__ == "__main__":
    main()
