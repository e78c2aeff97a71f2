"""Measures the lines of the GPU table with random weights; see README.md beside it."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent)]

from lines import ENGINES, REAL, Line, list_lines, plan_line, utilisation  # noqa: E402
from random_model import ROW_TOKENS, SIZES, make_model, make_rows  # noqa: E402
from recipes import NotMeasuredError, find_obstacle, measure_peer  # noqa: E402

from finetune_trainer.errors import UserError  # noqa: E402
from finetune_trainer.planning.throughput import GPU, find_gpu  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.md"
NAME = "benchmark"
WARMUP_STEPS = 3
QUESTIONS = 64
JOB_ROWS, JOB_EPOCHS, JOB_QUESTIONS = 2000, 3, 200
"""The job of which the evaluation's share is told."""


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Where the lines are measured and with what.

    Attributes:
        scratch: Folder for models, data and runs; of several nodes the same.
        num_gpus: GPUs of this node; 0 measures on its CPU.
        steps: Optimiser steps of a line.
        seconds: Most that a line may take.
        nodes: Nodes that run this command.
        rank: Of this node.
        host: Address of the node of rank 0.
        weights: Folder of a real model for the line with real weights, if there is one.
    """

    scratch: Path
    num_gpus: int
    steps: int
    seconds: float
    nodes: int = 1
    rank: int = 0
    host: str = "127.0.0.1"
    weights: Path | None = None

    def folder_of(self, line: Line) -> Path:
        """Return the folder of a line's model."""
        if line.variant == REAL and self.weights is not None:
            return self.weights.absolute()
        return self.scratch / line.shape

    def find_obstacle(self, line: Line) -> str:
        """Say why a line cannot be measured here; empty if it can."""
        if line.nodes != self.nodes:
            return f"it takes {line.nodes} node(s), and {self.nodes} run this (--nodes)"
        if line.gpus > max(1, self.num_gpus):
            return f"it takes {line.gpus} GPUs of a node, and this one has {self.num_gpus}"
        if line.variant == REAL and self.weights is None:
            return "it takes the folder of a real model (--weights)"
        return find_obstacle(line, use_gpu=self.num_gpus > 0)

    def measure(self, line: Line) -> dict[str, Any]:
        """Measure a line.

        Raises:
            NotMeasuredError: It failed or took too long; says why.
        """
        model, rows = self.folder_of(line), self.scratch / "rows.jsonl"
        if line.engine != "ours":
            place = {"rank": str(self.rank), "host": self.host, "scratch": str(self.scratch)}
            return measure_peer(
                line, model, rows, steps=self.steps, seconds=self.seconds, place=place
            )
        run = Run(bench=self, line=line, ends_at=time.monotonic() + self.seconds)
        try:
            return run.measure()
        finally:
            shutil.rmtree(run.work, ignore_errors=True)
            shutil.rmtree(run.folder, ignore_errors=True)


@dataclass(frozen=True, kw_only=True)
class Run:
    """One line with the product's own stages, until ``ends_at`` of the monotonic clock."""

    bench: Bench
    line: Line
    ends_at: float

    @property
    def uid(self) -> str:
        """Name of the run."""
        return self.line.name.replace(" ", "-").lower()

    @property
    def work(self) -> Path:
        """Its work folder on this node."""
        return self.bench.scratch / f"work-{self.bench.rank}" / self.uid

    @property
    def folder(self) -> Path:
        """Its folder in storage."""
        return self.bench.scratch / "out" / "runs" / "gpu" / NAME / self.uid

    def measure(self) -> dict[str, Any]:
        """Train, read what it left, and evaluate on one node; raises ``NotMeasuredError``."""
        shutil.rmtree(self.folder, ignore_errors=True)
        self.run_stage("prepare")
        began = time.monotonic()
        events = self.run_stage("train")
        startup = next((e["at"] - began for e in events if e["event"] == "progress"), 0.0)
        lines = (self.folder / "metrics.jsonl").read_text().splitlines()
        points = [json.loads(line) for line in lines]
        rates = [p["tokens_per_second"] for p in points if "tokens_per_second" in p]
        record = json.loads((self.folder / "adapter" / "run.json").read_text())
        recipe = record["recipe"]
        rate = statistics.median(rates[WARMUP_STEPS:] or rates or [0.0])
        layout = "packed" if recipe["packing"] else "padded"
        layout = "flattened" if recipe["padding_free"] else layout
        measured = {
            "startup_seconds": startup,
            "tokens_per_second": rate,
            "peak_bytes": max((p.get("peak_memory_bytes", 0) for p in points), default=0),
            "planned_bytes": recipe["estimated_memory_bytes"],
            "what": f"micro {recipe['micro_batch_size']}, {recipe['strategy']}, "
            f"{record.get('attention', '?')}, {layout}, kernels {record.get('kernels', '?')}, "
            f"recomputing {recipe['activation_checkpointing']}",
        }
        if self.line.nodes == 1 and not self.line.variant:
            measured |= self._evaluate(rate)
        return measured

    def _evaluate(self, rate: float) -> dict[str, Any]:
        """Return the seconds of an answer, and the evaluation's share of a usual job."""
        try:
            asked = [e for e in self.run_stage("evaluate") if e["event"] == "progress"]
        except NotMeasuredError as error:
            return {"not_evaluated": str(error)}
        seconds = asked[-1]["at"] - asked[0]["at"] if len(asked) > 1 else 0.0
        evaluating = seconds / QUESTIONS * JOB_QUESTIONS
        training = JOB_ROWS * JOB_EPOCHS * ROW_TOKENS / rate if rate else 0.0
        return {
            "evaluation_seconds": seconds,
            "evaluation_share": evaluating / (evaluating + training) if training else 0.0,
        }

    def run_stage(self, stage: str) -> list[dict[str, Any]]:
        """Run a stage; return its events, each with the second it came in.

        Raises:
            NotMeasuredError: It failed or took too long; says why.
        """
        scratch = self.bench.scratch
        with (scratch / f"{self.uid}-{stage}.log").open("w") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "finetune_trainer", stage, "--job", str(self._write_job())],
                env=self._environment(), stdout=subprocess.PIPE, stderr=log, text=True,
                start_new_session=True,
            )  # fmt: skip
            left = max(1.0, self.ends_at - time.monotonic())
            timer = threading.Timer(left, os.killpg, (process.pid, signal.SIGKILL))
            timer.start()
            events: list[dict[str, Any]] = []
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"'):
                    events.append({**json.loads(line), "at": time.monotonic()})
            code = process.wait()
            timer.cancel()
        if code == -signal.SIGKILL:
            raise NotMeasuredError(f"{stage} took longer than the limit of a line")
        if code:
            failures = [str(e.get("message")) for e in events if e["event"] == "failure"]
            raise NotMeasuredError((failures or [f"{stage} failed and said nothing"])[-1][:300])
        return events

    def _environment(self) -> dict[str, str]:
        bench = self.bench
        found = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'trainer_image'}",
            "FINETUNE_WORK_DIR": str(self.work),
            "FINETUNE_CACHE_DIR": str(bench.scratch / f"cache-{bench.rank}"),
            "FINETUNE_TERMINATION_LOG": str(bench.scratch / f"{self.uid}.termination"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        if bench.num_gpus:
            found["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, range(self.line.gpus)))
        if self.line.nodes > 1:
            found |= {
                "JOB_COMPLETION_INDEX": str(bench.rank),
                "FINETUNE_RENDEZVOUS_HOST": bench.host,
                "FINETUNE_RENDEZVOUS_PORT": "29556",
            }
        return found

    def _write_job(self) -> Path:
        scratch = self.bench.scratch
        spec = self.line.spec(steps=self.bench.steps, use_gpu=self.bench.num_gpus > 0)
        body = {
            "namespace": "gpu",
            "name": NAME,
            "uid": self.uid,
            "spec": {
                "model": {
                    "uri": f"file://{self.bench.folder_of(self.line)}",
                    "name": "random/model",
                },
                "dataset": {"sources": [{"uri": f"file://{scratch}/rows.jsonl"}]},
                "checkpoint": {"everySteps": 100000},
                "evaluation": {"maxSamples": QUESTIONS, "maxNewTokens": 64},
                "output": {"uri": f"file://{scratch}/out"},
                **spec,
            },
        }
        path = scratch / f"{self.uid}-{self.bench.rank}.json"
        path.write_text(json.dumps(body))
        return path


def measure_lines(bench: Bench, lines: list[Line], state: Path) -> dict[str, dict[str, Any]]:
    """Measure what is not finished yet; a finished line is kept in ``state`` at once."""
    finished: dict[str, dict[str, Any]] = json.loads(state.read_text()) if state.exists() else {}
    results = {}
    for line in lines:
        if line.name in finished:
            results[line.name] = finished[line.name]
            continue
        if obstacle := bench.find_obstacle(line):
            results[line.name] = {"failed": obstacle}
            continue
        began = time.monotonic()
        if bench.rank == 0 and line.variant != REAL:
            make_model(bench.scratch / line.shape, line.shape)
        try:
            result = bench.measure(line)
        except NotMeasuredError as error:
            result = {"failed": str(error)}
        result["date"] = f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}"
        results[line.name] = finished[line.name] = result
        if bench.rank == 0:
            state.write_text(json.dumps(finished, indent=1, sort_keys=True) + "\n")
        print(f"{line.name}: {result} ({time.monotonic() - began:.0f} s)", flush=True)
    return results


def describe_device(num_gpus: int) -> tuple[str, GPU | None]:
    """Return the device in words and its kind, if it is a known GPU."""
    if not num_gpus:
        return f"CPU, {os.cpu_count()} cores, {platform.machine()}", None
    import torch

    name = torch.cuda.get_device_name(0)
    return f"{num_gpus} x {name}", find_gpu(name)


def write_page(
    lines: list[Line], results: dict[str, dict[str, Any]], *, device: str, gpu: GPU | None
) -> str:
    """Return the results as a page."""
    rows = [_row_of(line, results[line.name], gpu) for line in lines]
    return "\n".join(
        [
            f"# Training on GPUs: {', '.join(dict.fromkeys(line.shape for line in lines))}",
            "",
            f"{device}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, "
            "`python benchmarks/gpu/run.py`. Random weights except on lines named `real`, "
            "generated rows. Start-up ends with the first step.",
            "The evaluation's share is that of a job of "
            f"{JOB_ROWS:,} rows, {JOB_EPOCHS} epochs and {JOB_QUESTIONS} questions.",
            "",
            "| line | start-up s | tokens/s | utilisation | peak GiB | planned GiB | evaluation | "
            "what ran |",
            "|---|---|---|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


def _row_of(line: Line, result: dict[str, Any], gpu: GPU | None) -> str:
    if "failed" in result:
        planned = _plan_words(line, gpu)
        words = " ".join(str(result["failed"]).split())
        return f"| {line.name} | - | - | - | - | {planned} | - | not measured: {words} |"
    rate = result["tokens_per_second"]
    share = result.get("evaluation_share")
    cells = [
        f"{result['startup_seconds']:.0f}" if "startup_seconds" in result else "-",
        f"{rate:,.0f}",
        f"{utilisation(line, rate, gpu.flops):.1%}" if gpu else "-",
        f"{result['peak_bytes'] / 2**30:.1f}",
        f"{result['planned_bytes'] / 2**30:.1f}" if "planned_bytes" in result else "-",
        f"{share:.0%}" if share else "-",
        result["what"],
    ]
    return f"| {line.name} | {' | '.join(cells)} |"


def _plan_words(line: Line, gpu: GPU | None) -> str:
    if line.engine != "ours" or gpu is None:
        return "-"
    try:
        plan = plan_line(line, gpu)
    except UserError:
        return "refused"
    return f"{plan.recipe.estimated_memory_bytes / 2**30:.1f}"


def make_parser() -> argparse.ArgumentParser:
    """Return the command line's parser."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--model", nargs="*", choices=list(SIZES), help="shapes; default: all but tiny"
    )
    parser.add_argument("--engine", nargs="*", choices=ENGINES, default=list(ENGINES))
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", default="", help="lines whose name has this in it")
    parser.add_argument(
        "--scratch", type=Path, help="keeps models between calls; default: a temporary folder"
    )
    parser.add_argument("--state", type=Path, help="finished lines; default: gpu.json")
    parser.add_argument("--again", action="store_true", help="forget the finished lines")
    parser.add_argument("--seconds", type=float, default=600, help="most that a line may take")
    parser.add_argument(
        "--weights", type=Path, help="folder of a real model of the first shape: its line is first"
    )
    parser.add_argument("--nodes", type=int, default=1, help="nodes that run this command")
    parser.add_argument("--node-rank", type=int, default=0, help="0 on the first of them")
    parser.add_argument("--host", default="127.0.0.1", help="address of the first node")
    parser.add_argument("--output", type=Path, default=RESULTS)
    return parser


def main() -> None:
    """Run the benchmark."""
    parser = make_parser()
    arguments = parser.parse_args()
    import torch

    num_gpus = torch.cuda.device_count() if torch.cuda.is_available() else 0
    shapes = arguments.model or [shape for shape in SIZES if shape != "tiny"]
    if not num_gpus and shapes != ["tiny"]:
        parser.error("no GPU is visible; --model tiny shows on a CPU that the script works")
    if arguments.nodes > 1 and arguments.scratch is None:
        parser.error("--nodes needs --scratch, a folder that all nodes share")
    if arguments.scratch:
        arguments.scratch.mkdir(parents=True, exist_ok=True)
    lines = [line for line in list_lines(shapes, arguments.engine) if arguments.only in line.name]
    bench = Bench(
        scratch=Path(), num_gpus=num_gpus, steps=arguments.steps, seconds=arguments.seconds,
        nodes=arguments.nodes, rank=arguments.node_rank, host=arguments.host,
        weights=arguments.weights,
    )  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="gpu-bench-") as temporary:
        scratch = (arguments.scratch or Path(temporary)).absolute()
        state = arguments.state or (
            RESULTS.with_suffix(".json") if num_gpus else scratch / "s.json"
        )
        if arguments.again and bench.rank == 0:
            state.unlink(missing_ok=True)
        make_rows(scratch / "rows.jsonl", num_rows=64 * arguments.steps)
        results = measure_lines(replace(bench, scratch=scratch), lines, state)
    device, gpu = describe_device(num_gpus)
    page = write_page(lines, results, device=device, gpu=gpu)
    print(page)
    if bench.rank == 0 and (num_gpus or arguments.output != RESULTS):
        arguments.output.write_text(page)


if __name__ == "__main__":
    main()
