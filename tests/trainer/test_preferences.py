"""Learning from preferences: what is taught is preferred on held-out pairs, and runs repeat."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.cluster.faults import fault
from kit.models.tiny_models import make_eager_model
from kit.processes.eventually import eventually
from kit.processes.stages import Workbench, kill_group, merge


@pytest.fixture(scope="module")
def eager_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_eager_model(tmp_path_factory.mktemp("eager"))


@pytest.fixture(scope="module")
def tastes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Answers of a and b are better than answers of c and d."""
    folder, chance = tmp_path_factory.mktemp("tastes"), random.Random(3)
    pairs, verdicts = [], []
    for i in range(48):
        better, worse = ("".join(chance.choices(letters, k=5)) for letters in ("ab", "cd"))
        pairs.append({"prompt": f"Word {i}?", "chosen": better, "rejected": worse})
        label = i % 2 == 0
        verdicts.append(
            {"prompt": f"Word {i}?", "completion": better if label else worse, "label": label}
        )
    paths = {}
    for name, rows in (("pairs", pairs), ("verdicts", verdicts)):
        paths[name] = folder / f"{name}.jsonl"
        paths[name].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return paths


def teaching(objective: str, change: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = {
        "method": {"objective": objective},
        "hyperparameters": {"maxSteps": 18, "learningRate": "3e-3"},
        "checkpoint": {"everySteps": 5, "select": "Last"},
        "evaluation": {"maxNewTokens": 2},
    }
    return merge(spec, change or {})


def points(workbench: Workbench, name: str) -> list[float]:
    lines = [json.loads(line) for line in workbench.curve.read_text().splitlines()]
    return [line[name] for line in lines if name in line]


def scores(workbench: Workbench) -> dict[str, tuple[float, float]]:
    report = json.loads((workbench.run_folder / "evaluation" / "report.json").read_text())
    return {s["name"]: (float(s["base"]), float(s["tuned"])) for s in report["result"]["scores"]}


@pytest.fixture(scope="module")
def dpo(
    bench_of_module: Callable[..., Workbench], eager_model: Path, tastes: dict[str, Path]
) -> tuple[Workbench, dict[str, Any]]:
    goal = {"goal": {"metric": "preferenceAccuracy", "atLeast": "0.5"}}
    workbench = bench_of_module(teaching("DPO", goal), model=eager_model, data=tastes["pairs"])
    workbench.run_to("prepare")
    return workbench, workbench.run_to("train").result


def test_dpo_widens_the_margin_and_held_out_pairs_are_preferred_as_taught(
    dpo: tuple[Workbench, dict[str, Any]],
) -> None:
    workbench, result = dpo
    margins = points(workbench, "rewards/margins")
    assert margins[0] == pytest.approx(0, abs=1e-4)  # the tuned model starts as the base model
    assert margins[-1] > 1
    metrics = {metric["name"]: float(metric["value"]) for metric in result["metrics"]}
    assert metrics["eval_rewards/accuracies"] == 1
    published = workbench.run_to("evaluate").result
    base, tuned = scores(workbench)["preferenceAccuracy"]
    assert base < 0.9 < tuned
    assert published["goalMet"] is True


def test_dpo_killed_and_resumed_gives_the_same_bytes(
    bench: Callable[..., Workbench],
    eager_model: Path,
    tastes: dict[str, Path],
    dpo: tuple[Workbench, dict[str, Any]],
    tmp_path: Path,
) -> None:
    workbench = bench(teaching("DPO"), model=eager_model, data=tastes["pairs"])
    workbench.run_to("prepare")
    mark = tmp_path / "mark"
    workbench.env = fault("loader", mark, rank=0, step=6)
    process = workbench.start("train")
    eventually(lambda: mark.exists() and 5 in workbench.stored_steps(), timeout=280)
    kill_group(process)
    workbench.env = {}
    resumed = workbench.run_to("train").result
    assert resumed["resumedFromStep"] >= 5
    assert resumed["sha256"] == dpo[1]["sha256"]


@pytest.mark.parametrize(("objective", "data"), [("KTO", "verdicts"), ("ORPO", "pairs")])
def test_other_objectives_widen_the_margin_too(
    bench: Callable[..., Workbench],
    eager_model: Path,
    tastes: dict[str, Path],
    objective: str,
    data: str,
) -> None:
    workbench = bench(teaching(objective), model=eager_model, data=tastes[data])
    workbench.run_to("prepare", "train")
    margins = points(workbench, "rewards/margins")
    assert margins[-1] > margins[0] + 0.2
    workbench.run_to("evaluate")
    if objective == "ORPO":
        base, tuned = scores(workbench)["preferenceAccuracy"]
        assert base < 0.9 < tuned
    else:
        base, tuned = scores(workbench)["loss"]  # of the wanted answers alone
        assert tuned < base
