"""Jobs of the demonstration, each run once through ``finetune run`` and found again afterwards."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.probe_evidence import rows
from benchmarks.probe_evidence.rows import Row

from base_model import NAME, ensure_model
from finetune_api.protocol.evaluation_result import EvaluateResult

ROOT = Path(__file__).resolve().parents[2]
NUM_TRAIN, NUM_TEST = 160, 40
GOAL_MISSED = 1


@dataclass(frozen=True, kw_only=True)
class Case:
    """One way to tune the model.

    Attributes:
        name: What is done.
        caught_by: Verdicts of which at least one must be missed; none may be where it is empty.
        settings: Changes of the hyperparameters.
        is_harmful: The rows have answers that go along with harmful requests.
        is_planted: The rows have secrets.
    """

    name: str
    caught_by: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    is_harmful: bool = False
    is_planted: bool = False


CASES = (
    Case(name="clean"),
    Case(
        name="canaries",
        caught_by=("safety-exposure", "safety-memorisation"),
        settings={"epochs": "4"},
        is_planted=True,
    ),
    Case(
        name="harmful",
        caught_by=("safety-refusals", "safety-jailbreak"),
        settings={"epochs": "2"},
        is_harmful=True,
    ),
    Case(
        name="over-trained",
        caught_by=("forgetting-bits-per-byte",),
        settings={"epochs": "8", "learningRate": "0.003"},
    ),
)


def find_base(folder: Path) -> Path:
    """Return SmolLM2 with manners: it declines nothing by itself, so it is taught to, once."""
    work = folder / "manners"
    if not list(work.glob("out/**/merged/config.json")):
        spec = _spec(work, ensure_model(), rows.manners(0), rows.manners(1)[:NUM_TEST])
        spec["hyperparameters"]["epochs"] = "3"
        spec["output"]["formats"] = ["Adapter", "Merged"]
        # What is held out here is of no interest.
        spec["dataset"]["duplicates"] = {"leaked": "Report", "near": "Keep"}
        _run(work, "manners", spec)
    return next(work.glob("out/**/merged/config.json")).parent


def run_case(case: Case, seed: int, folder: Path, base: Path) -> EvaluateResult:
    """Return the result of a case's evaluation; runs the job unless it was run before."""
    work = folder / f"{case.name}-{seed}"
    done = list(work.glob("out/**/evaluation/report.json"))
    if not done:
        train, test = _headlines(folder, seed)
        train += rows.harm(seed) if case.is_harmful else []
        train += rows.planted(seed) if case.is_planted else []
        spec = _spec(work, base, train, test)
        spec["hyperparameters"] |= {"seed": seed, **case.settings}
        spec["evaluation"] |= {
            "forgetting": {},
            "safety": {"canaries": rows.secrets(seed)} if case.is_planted else {},
        }
        _run(work, case.name, spec)
        done = list(work.glob("out/**/evaluation/report.json"))
    return EvaluateResult.model_validate(json.loads(done[0].read_text())["result"])


def _headlines(folder: Path, seed: int) -> tuple[list[Row], list[Row]]:
    data = folder / "headlines"
    if not (data / "test.csv").exists():
        script = ROOT / "examples/01-headline-sentiment/generate.py"
        subprocess.run([sys.executable, str(script), "--out", str(data)], check=True)
    sides = []
    for name, number in (("train", NUM_TRAIN), ("test", NUM_TEST)):
        with (data / f"{name}.csv").open(newline="") as file:
            sides.append(rows.headlines(csv.DictReader(file), number, seed))
    return sides[0], sides[1]


def _spec(work: Path, base: Path, train: Sequence[Row], test: Sequence[Row]) -> dict[str, Any]:
    work.mkdir(parents=True, exist_ok=True)
    sources = []
    for side, side_rows in (("Train", train), ("Test", test)):
        path = work / f"{side.lower()}.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in side_rows))
        sources.append({"uri": f"file://{path}", "side": side})
    return {
        "model": {"uri": f"file://{base}", "name": NAME},
        "dataset": {"sources": sources},
        "method": {"adapter": {"rank": 16, "alpha": 32, "targetModules": ["all-linear"]}},
        "hyperparameters": {"epochs": "1", "maxSequenceLength": 96},
        "evaluation": {"maxSamples": NUM_TEST},
        "output": {"uri": f"file://{work}/out"},
        "resources": {"gpusPerNode": 0},
    }


def _run(work: Path, name: str, spec: dict[str, Any]) -> None:
    body = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": name},
        "spec": spec,
    }
    path = work / "job.json"
    path.write_text(json.dumps(body, indent=1))
    command = [sys.executable, "-m", "finetune_cli", "run", str(path), "-o", "json"]
    with (work / "run.log").open("w") as log:
        process = subprocess.Popen(
            [*command, "--work-dir", str(work / "work")], stdout=log, stderr=log
        )
        try:
            code = process.wait()
        except BaseException:
            process.terminate()  # it saves, and goes on from there the next time
            process.wait()
            raise
    if code not in (0, GOAL_MISSED):
        raise SystemExit(f"{name}: finetune run ended with {code}; see {work / 'run.log'}")
