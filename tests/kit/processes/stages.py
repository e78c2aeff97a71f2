"""Runs stages as the operator and the CLI do: as processes with a job file and an environment."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob, local_uid, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from kit.processes.preloaded import PreloadedPopen

COLOURS = ("red", "green", "blue", "yellow")


def write_rows(path: Path, num_rows: int = 48) -> Path:
    """Write rows whose answer follows from their question, of uneven length."""
    rows = []
    for i in range(num_rows):
        thing = f"thing {i} " + "very " * (i % 5) + COLOURS[i % 4]
        rows.append({"prompt": f"What colour is {thing}?", "completion": COLOURS[i % 4]})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def merge(base: dict[str, Any], change: dict[str, Any]) -> dict[str, Any]:
    """Merge nested dicts; None deletes."""
    merged = dict(base)
    for key, value in change.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            merged[key] = merge(merged[key], value)
        elif value is None:
            merged.pop(key, None)
        else:
            merged[key] = value
    return merged


@dataclass(kw_only=True)
class StageRun:
    """How a stage process ended."""

    exit_code: int
    events: list[dict[str, Any]]
    termination: dict[str, Any]
    stderr: str = ""

    @property
    def result(self) -> dict[str, Any]:
        return next(event["result"] for event in self.events if event["event"] == "result")

    @property
    def failure(self) -> dict[str, Any]:
        return next(event for event in self.events if event["event"] == "failure")

    @property
    def messages(self) -> str:
        return "\n".join(event.get("message", "") for event in self.events)


@dataclass(kw_only=True)
class Workbench:
    """One run's folders and job."""

    folder: Path
    model: Path
    data: Path
    change: dict[str, Any] = field(default_factory=dict)
    env: dict[str, str] = field(default_factory=dict)
    is_plain: bool = False
    """Start stages from nothing, as users do, instead of from imported libraries."""
    uid: str = ""
    """UID as of a FineTuneJob on a cluster; empty for that of a run on this machine."""
    metadata: dict[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> Path:
        return self.folder / "out"

    @property
    def work(self) -> Path:
        return self.folder / "work"

    def spec(self) -> dict[str, Any]:
        base: dict[str, Any] = {
            "model": {"uri": f"file://{self.model}", "name": "tiny/llama"},
            "dataset": {
                "sources": [{"uri": f"file://{self.data}"}],
                "split": {"testPercent": 25, "validationPercent": 10},
            },
            "method": {"adapter": {"rank": 4, "alpha": 8, "dropout": "0.1"}},
            "hyperparameters": {
                "maxSteps": 12,
                "globalBatchSize": 4,
                "learningRate": "1e-2",
                "maxSequenceLength": 256,
                "precision": "Float32",
            },
            "checkpoint": {"everySteps": 3},
            "evaluation": {"maxNewTokens": 8, "numBootstrapSamples": 100, "minPrompts": 5},
            "output": {"uri": f"file://{self.output}"},
            "resources": {"gpusPerNode": 0},
        }
        return merge(base, self.change)

    def job(self) -> ResolvedJob:
        metadata = {"name": "tiny", **self.metadata}
        job = FineTuneJob.from_wire({"metadata": metadata, "spec": self.spec()})
        uid = self.uid or local_uid(job, namespace="default")
        return resolve_job(job, namespace="default", uid=uid)

    def fork(
        self, folder: Path, change: dict[str, Any] | None = None, *, model: Path | None = None
    ) -> Workbench:
        """Copy what this run has stored to a run of its own, as if it had come that far itself."""
        copy = Workbench(
            folder=folder,
            model=model or self.model,
            data=self.data,
            change=merge(self.change, change or {}),
            env=dict(self.env),
        )
        shutil.copytree(self.output, copy.output)
        shutil.rmtree(copy.output / "versions", ignore_errors=True)
        theirs = copy.output / self.run_folder.relative_to(self.output)
        if theirs != copy.run_folder:
            theirs.rename(copy.run_folder)
        return copy

    def stored_steps(self) -> list[int]:
        """Return the steps of the run's whole checkpoints, ascending."""
        paths = self.run_folder.glob("checkpoints/step-*/manifest.json")
        return sorted(int(path.parent.name.removeprefix("step-")) for path in paths)

    @property
    def run_folder(self) -> Path:
        return self.output / self.job().run_prefix

    @property
    def curve(self) -> Path:
        return self.work / "metrics.jsonl"

    def losses(self) -> list[float]:
        points = [json.loads(line) for line in self.curve.read_text().splitlines()]
        return [point["loss"] for point in points if "loss" in point]

    def start(self, stage: str) -> subprocess.Popen[str]:
        """Start a stage in a process group of its own."""
        for folder in (self.output, self.work):
            folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / "job.json"
        path.write_text(self.job().to_json())
        (self.folder / "termination").write_text("")
        env = {
            **os.environ,
            "FINETUNE_WORK_DIR": str(self.work),
            "FINETUNE_CACHE_DIR": str(self.folder / "cache"),
            "FINETUNE_TERMINATION_LOG": str(self.folder / "termination"),
            "FINETUNE_ALLOW_CPU": "1",
            "OMP_NUM_THREADS": "1",
            "PYTHONWARNINGS": "ignore",
            **self.env,
        }
        start = subprocess.Popen if self.is_plain else PreloadedPopen
        return start(
            [sys.executable, "-m", "finetune_trainer", stage, "--job", str(path)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=env,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], timeout: float = 300) -> StageRun:
        """Wait for a started stage and read what it left."""
        stdout, stderr = process.communicate(timeout=timeout)
        events = []
        for line in stdout.splitlines():
            if line.startswith('{"'):
                events.append(json.loads(line))
        text = (self.folder / "termination").read_text()
        return StageRun(
            exit_code=process.returncode,
            events=events,
            termination=json.loads(text) if text else {},
            stderr=stderr,
        )

    def run(self, stage: str, timeout: float = 300) -> StageRun:
        """Run a stage to its end."""
        return self.finish(self.start(stage), timeout)

    def run_to(self, *stages: str, timeout: float = 300) -> StageRun:
        """Run stages in order; all must succeed."""
        last: StageRun | None = None
        for stage in stages:
            last = self.run(stage, timeout)
            assert last.exit_code == 0, f"{stage}: {last.messages}\n{last.stderr[-2000:]}"
        assert last is not None
        return last


def kill_group(process: subprocess.Popen[str]) -> None:
    """Kill a started stage the hard way, as a lost node would."""
    assert process.poll() is None, f"ended by itself: {process.communicate()[0][-2000:]}"
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
