"""Measures training and evaluation on one GPU with random weights; see README.md beside it."""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(Path(__file__).parent)]

from random_model import make_model, make_rows  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "gpu.md"
NAME = "benchmark"
WARMUP_STEPS = 3
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "L4": 121e12}
"""Dense bfloat16, as the vendor's data sheets state it."""

VARIANTS: dict[str, dict[str, Any]] = {
    "defaults": {},
    "sdpa": {"hyperparameters": {"attention": "SDPA"}},
    "flash": {"hyperparameters": {"attention": "Flash"}},
    "unfused": {"hyperparameters": {"kernels": "Off"}},
    "eager": {"hyperparameters": {"attention": "Eager"}},
    "compile": {"hyperparameters": {"compile": "On"}},
    "checkpointing": {"hyperparameters": {"activationCheckpointing": "On"}},
    "qlora": {"method": {"adapter": {"type": "QLoRA"}}},
}


@dataclass(kw_only=True)
class Bench:
    """Where a benchmark works and with what.

    Attributes:
        scratch: Folder for models, data and runs.
        model: The random model.
        use_gpu: Train on the GPU.
        steps: Optimiser steps of a variant.
        deadline: ``time.monotonic()`` after which no variant is begun.
    """

    scratch: Path
    model: Path
    use_gpu: bool
    steps: int
    deadline: float

    def job(self, name: str, change: dict[str, Any]) -> Path:
        """Write the job of a variant; returns its file."""
        hyper = {
            "maxSteps": self.steps,
            "maxSequenceLength": 2048,
            **change.get("hyperparameters", {}),
        }
        body = {
            "namespace": "gpu",
            "name": NAME,
            "uid": name,
            "spec": {
                "model": {"uri": f"file://{self.model}", "name": "random/model"},
                "dataset": {"sources": [{"uri": f"file://{self.scratch}/rows.jsonl"}]},
                "method": change.get("method", {}),
                "hyperparameters": hyper,
                "checkpoint": {"everySteps": 100000},
                "evaluation": {"maxSamples": 64, "maxNewTokens": 64},
                "output": {"uri": f"file://{self.scratch}/out"},
                "resources": {"gpusPerNode": int(self.use_gpu)},
            },
        }
        path = self.scratch / f"{name}.json"
        path.write_text(json.dumps(body))
        return path

    def run_stage(self, stage: str, name: str, change: dict[str, Any]) -> list[dict[str, Any]]:
        """Run a stage; returns its events, each with the second it came in.

        Raises:
            RuntimeError: The stage failed; says what it said.
        """
        environment = {
            **os.environ,
            "PYTHONPATH": f"{ROOT / 'operator'}:{ROOT / 'trainer_image'}",
            "FINETUNE_WORK_DIR": str(self.scratch / "work" / name),
            "FINETUNE_CACHE_DIR": str(self.scratch / "cache"),
            "FINETUNE_TERMINATION_LOG": str(self.scratch / f"{name}.termination"),
            "HF_HUB_OFFLINE": "1",
            "PYTHONWARNINGS": "ignore",
        }
        command = [sys.executable, "-m", "finetune_trainer", stage]
        events: list[dict[str, Any]] = []
        with (self.scratch / f"{name}-{stage}.log").open("w") as log:
            process = subprocess.Popen(
                [*command, "--job", str(self.job(name, change))],
                env=environment, stdout=subprocess.PIPE, stderr=log, text=True,
            )  # fmt: skip
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith('{"'):
                    events.append({**json.loads(line), "at": time.monotonic()})
        if process.wait() != 0:
            failure: dict[str, Any] = next(
                (e for e in reversed(events) if e["event"] == "failure"), {}
            )
            raise RuntimeError(str(failure.get("message", "no word"))[:300])
        return events

    def folder(self, name: str) -> Path:
        """Return the run's folder in storage."""
        return self.scratch / "out" / "runs" / "gpu" / NAME / name


def measure_variant(bench: Bench, name: str, change: dict[str, Any]) -> dict[str, Any]:
    """Train a variant and read what it left."""
    bench.run_stage("prepare", name, change)
    bench.run_stage("train", name, change)
    points = [
        json.loads(line) for line in (bench.folder(name) / "metrics.jsonl").read_text().splitlines()
    ]
    rates = [p["tokens_per_second"] for p in points if "tokens_per_second" in p][WARMUP_STEPS:]
    record = json.loads((bench.folder(name) / "adapter" / "run.json").read_text())
    recipe = record["recipe"]
    return {
        "tokens_per_second": statistics.median(rates) if rates else 0.0,
        "peak_bytes": max((p.get("peak_memory_bytes", 0) for p in points), default=0),
        "planned_bytes": recipe["estimated_memory_bytes"],
        "what": f"micro {recipe['micro_batch_size']}, {record.get('attention', '?')}, "
        f"{'flattened' if recipe['padding_free'] else 'padded'}, kernels "
        f"{record.get('kernels', '?')}, recomputing {recipe['activation_checkpointing']}",
    }


def measure_evaluation(bench: Bench, trained: str) -> dict[str, Any]:
    """Evaluate the run ``trained``; the rate counts generated tokens of both models."""
    events = bench.run_stage("evaluate", trained, VARIANTS[trained])
    asked = [e for e in events if e["event"] == "progress"]
    seconds = asked[-1]["at"] - asked[0]["at"] if len(asked) > 1 else 0.0
    num_tokens = 2 * 64 * 64
    return {
        "tokens_per_second": num_tokens / seconds if seconds else 0.0,
        "peak_bytes": 0,
        "planned_bytes": 0,
        "what": f"64 questions, 64 new tokens each, both models, {seconds:.0f} s with likelihoods",
    }


def measure_trl(bench: Bench, *, fsdp: bool) -> dict[str, Any]:
    """Train with the shortest TRL script on the same rows."""
    command = [sys.executable]
    if fsdp:
        command += ["-m", "accelerate.commands.launch", "--num_processes", "1", "--use_fsdp"]
        command += ["--fsdp_version", "2", "--mixed_precision", "bf16"]
        command += ["--fsdp_auto_wrap_policy", "TRANSFORMER_BASED_WRAP", "--dynamo_backend", "no"]
    command += [str(Path(__file__).parent / "plain_trl.py"), str(bench.model)]
    command += [str(bench.scratch / "rows.jsonl"), "--steps", str(bench.steps)]
    done = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"tokens')]
    if not lines:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1][:300])
    measured: dict[str, Any] = json.loads(lines[-1])
    return {**measured, "planned_bytes": 0}


def measure_all(bench: Bench, names: list[str]) -> dict[str, dict[str, Any]]:
    """Measure the named variants, as many as the time allows."""
    results: dict[str, dict[str, Any]] = {}
    for name in names:
        if time.monotonic() > bench.deadline:
            results[name] = {"failed": "no time was left"}
            continue
        began = time.monotonic()
        try:
            if name in VARIANTS:
                results[name] = measure_variant(bench, name, VARIANTS[name])
            elif name == "evaluate":
                results[name] = measure_evaluation(bench, "defaults")
            else:
                results[name] = measure_trl(bench, fsdp=name == "trl-fsdp2")
        except RuntimeError as error:
            results[name] = {"failed": str(error)}
        shutil.rmtree(bench.scratch / "work" / name, ignore_errors=True)
        print(f"{name}: {results[name]} ({time.monotonic() - began:.0f} s)", flush=True)
    return results


def describe_device(*, use_gpu: bool) -> tuple[str, float | None]:
    """Return the device in words and its peak FLOP/s, if known."""
    if not use_gpu:
        return f"CPU, {os.cpu_count()} cores, {platform.machine()}", None
    import torch

    name = torch.cuda.get_device_name(0)
    peak = next((flops for key, flops in PEAK_FLOPS.items() if key in name), None)
    return name, peak


def write_table(
    results: dict[str, dict[str, Any]],
    *,
    device: str,
    peak: float | None,
    parameters: int,
    model: str,
) -> str:
    """Return the results as a page."""
    lines = [
        f"# One GPU: {model}",
        "",
        f"{device}, {datetime.datetime.now(datetime.UTC):%Y-%m-%d}, "
        f"`python benchmarks/gpu/run.py --model {model}`. Random weights, generated rows.",
        "",
        "| variant | tokens/s | utilisation | peak GiB | planned GiB | what ran |",
        "|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        if "failed" in result:
            why = " ".join(result["failed"].split())
            lines.append(f"| {name} | - | - | - | - | not measured: {why} |")
            continue
        rate = result["tokens_per_second"]
        is_training = name != "evaluate"
        use = f"{4 * parameters * rate / peak:.1%}" if peak and is_training else "-"
        sizes = [
            f"{result[k] / 2**30:.1f}" if result[k] else "-"
            for k in ("peak_bytes", "planned_bytes")
        ]
        lines.append(
            f"| {name} | {rate:,.0f} | {use} | {sizes[0]} | {sizes[1]} | {result['what']} |"
        )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", choices=["llama3-8b", "llama3-1b", "tiny"], default="llama3-8b")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--only", nargs="*", help="variants; default: all")
    parser.add_argument(
        "--scratch", type=Path, help="where 40 GB have room; default: a temporary folder"
    )
    parser.add_argument("--seconds", type=int, default=600, help="begin no variant after this")
    parser.add_argument("--output", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    import torch

    use_gpu = torch.cuda.is_available()
    if not use_gpu and arguments.model != "tiny":
        parser.error("no GPU is visible; --model tiny shows on a CPU that the script works")
    deadline = time.monotonic() + arguments.seconds
    with tempfile.TemporaryDirectory(prefix="gpu-bench-", dir=arguments.scratch) as scratch:
        folder = Path(scratch)
        parameters = make_model(folder / "model", arguments.model)
        make_rows(folder / "rows.jsonl", num_rows=40 * arguments.steps)
        bench = Bench(
            scratch=folder, model=folder / "model", use_gpu=use_gpu, steps=arguments.steps,
            deadline=deadline,
        )  # fmt: skip
        names = arguments.only or [*VARIANTS, "evaluate", "trl", "trl-fsdp2"]
        results = measure_all(bench, names)
    device, peak = describe_device(use_gpu=use_gpu)
    page = write_table(
        results, device=device, peak=peak, parameters=parameters, model=arguments.model
    )
    print(page)
    if use_gpu or arguments.output != RESULTS:
        arguments.output.write_text(page)


if __name__ == "__main__":
    main()
