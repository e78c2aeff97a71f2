"""The published weights are those of the best validated step, whatever happens on the way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Environment
from finetune_trainer.train.recipe.validation import draw_measured_rows
from kit.cluster.faults import fault
from kit.cluster.pushes import receiving
from kit.models.tiny_models import make_eager_model
from kit.processes.eventually import eventually
from kit.processes.stages import Workbench, kill_group, merge

STEPS = 30
Trained = tuple[Workbench, dict[str, Any], list[dict[str, Any]]]
"""A run, its result, and what it has pushed to the operator of its own."""


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Answers that nothing predicts: whoever learns them by heart does worse on others."""
    folder, chance = tmp_path_factory.mktemp("noise"), random.Random(5)
    sides = {}
    for side, count in (("Train", 4), ("Validation", 9), ("Test", 16)):
        rows = [
            {"prompt": f"{side} code {i}?", "completion": "".join(chance.choices("abcdef", k=6))}
            for i in range(count)
        ]
        sides[side] = folder / f"{side}.jsonl"
        sides[side].write_text("".join(json.dumps(row) + "\n" for row in rows))
    return sides


@pytest.fixture(scope="module")
def eager_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_eager_model(tmp_path_factory.mktemp("eager"))


@pytest.fixture
def bench(bench: Callable[..., Workbench], eager_model: Path) -> Callable[..., Workbench]:
    return partial(bench, model=eager_model)


def overfitting(noise: dict[str, Path], change: dict[str, Any] | None = None) -> dict[str, Any]:
    spec = {
        "dataset": {
            "sources": [{"uri": f"file://{path}", "side": side} for side, path in noise.items()],
            "split": {"testPercent": 0, "validationPercent": 0},
        },
        "method": {"adapter": {"rank": 16, "alpha": 32}},
        # Runs of other lengths train alike only without a warm-up, whose steps follow the length.
        "hyperparameters": {
            "maxSteps": STEPS,
            "scheduler": "Constant",
            "warmupRatio": "0",
            "learningRate": "5e-3",
        },
        "checkpoint": {"everySteps": 10, "keepLast": 1, "validateEverySteps": 5},
        "evaluation": {"maxNewTokens": 2},
    }
    return merge(spec, change or {})


def stored_best(workbench: Workbench) -> list[int]:
    paths = workbench.run_folder.glob("checkpoints/best-*/manifest.json")
    return sorted(int(path.parent.name.removeprefix("best-")) for path in paths)


def run_record(workbench: Workbench) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((workbench.run_folder / "adapter" / "run.json").read_text())
    return record


def tokens_trained(result: dict[str, Any]) -> int:
    return next(int(m["value"]) for m in result["metrics"] if m["name"] == "num_tokens")


def test_loss(workbench: Workbench) -> float:
    report = json.loads((workbench.run_folder / "evaluation" / "report.json").read_text())
    return next(float(s["tuned"]) for s in report["result"]["scores"] if s["name"] == "loss")


test_loss.__test__ = False  # type: ignore[attr-defined]


@pytest.fixture(scope="module")
def best(
    bench_of_module: Callable[..., Workbench], noise: dict[str, Path], eager_model: Path
) -> Trained:
    workbench = bench_of_module(overfitting(noise), model=eager_model)
    workbench.run_to("prepare")
    with receiving() as (url, received):
        workbench.env[Environment.PROGRESS_URL] = url
        result = workbench.run_to("train").result
    del workbench.env[Environment.PROGRESS_URL]
    return workbench, result, [push["finetune"] for _, push in received]


def test_published_step_is_the_best_one_and_scores_better_than_the_last(
    bench: Callable[..., Workbench], noise: dict[str, Path], best: Trained
) -> None:
    workbench, result, _ = best
    selection, curve = result["selection"], run_record(workbench)["curve"]
    losses = dict(curve["validation"])
    assert list(losses) == list(range(5, STEPS + 1, 5))
    assert selection["step"] == min(losses, key=lambda step: losses[step]) < STEPS
    assert float(selection["validationLoss"]) < float(selection["lastValidationLoss"])
    assert selection["lastStep"] == result["step"] == STEPS
    lines = (workbench.run_folder / "metrics.jsonl").read_text().splitlines()
    logged = {
        point["step"]: point["eval_loss"]
        for point in map(json.loads, lines)
        if "eval_loss" in point
    }
    assert logged == pytest.approx(losses)

    last = bench(overfitting(noise, {"checkpoint": {"select": "Last"}}))
    last.run_to("prepare")
    assert last.run_to("train").result["selection"]["step"] == STEPS
    workbench.run_to("evaluate")
    last.run_to("evaluate")
    assert test_loss(workbench) < test_loss(last)


def test_the_operator_knows_the_validation_curve_while_the_job_trains(best: Trained) -> None:
    workbench, result, pushed = best
    told = [own["validation"] for own in pushed if "validation" in own]
    points = {point["step"]: float(point["loss"]) for point in told[-1]["curve"]}
    assert points == pytest.approx(dict(run_record(workbench)["curve"]["validation"]), rel=1e-5)
    selection = result["selection"]
    assert (told[-1]["bestStep"], told[-1]["bestLoss"]) == (
        selection["step"],
        selection["validationLoss"],
    )


def test_weights_are_those_of_a_run_that_ended_at_the_best_step(
    bench: Callable[..., Workbench], noise: dict[str, Path], best: Trained
) -> None:
    _, result, _ = best
    short = bench(
        overfitting(
            noise,
            {
                "hyperparameters": {"maxSteps": result["selection"]["step"]},
                # Validation leaves no trace in what is trained: here it is another number of times.
                "checkpoint": {"select": "Last", "validateEverySteps": 7, "everySteps": 100},
            },
        )
    )
    short.run_to("prepare")
    assert short.run_to("train").result["sha256"] == result["sha256"]


def test_run_killed_before_and_after_its_best_step_publishes_the_same_bytes(
    bench: Callable[..., Workbench], noise: dict[str, Path], best: Trained, tmp_path: Path
) -> None:
    _, result, _ = best
    best_step = result["selection"]["step"]
    workbench = bench(overfitting(noise))
    workbench.run_to("prepare")

    def kill_once(name: str, kind: str, stored: Callable[[], bool], **details: Any) -> None:
        mark = tmp_path / name
        workbench.env = fault(kind, mark, rank=0, **details)
        process = workbench.start("train")
        eventually(lambda: mark.exists() and stored(), timeout=240)
        kill_group(process)

    kill_once("first", "loader", lambda: True, step=3)
    assert not stored_best(workbench)
    checkpoint = best_step // 10 * 10 + 10
    kill_once("best", "loader", lambda: checkpoint in workbench.stored_steps(), step=checkpoint + 1)
    assert best_step in stored_best(workbench)
    # The last checkpoint is there and nothing is left to train.
    kill_once("last", "trained", lambda: STEPS in workbench.stored_steps())

    workbench.env = {}
    resumed = workbench.run_to("train")
    assert resumed.result["resumedFromStep"] == STEPS
    assert resumed.result["sha256"] == result["sha256"]
    assert resumed.result["selection"] == result["selection"]
    assert tokens_trained(resumed.result) == tokens_trained(result) > 0
    assert not list((workbench.run_folder / "checkpoints").glob("**/*"))


def test_early_stopping_saves_the_steps_it_tells(
    bench: Callable[..., Workbench], noise: dict[str, Path], best: Trained
) -> None:
    _, result, _ = best
    workbench = bench(overfitting(noise, {"checkpoint": {"earlyStopping": {"patience": 2}}}))
    workbench.run_to("prepare")
    stopped = workbench.run_to("train")
    step = result["selection"]["step"]
    assert stopped.result["step"] == step + 10
    assert stopped.result["selection"]["plannedSteps"] == STEPS
    assert f"{STEPS - step - 10} of {STEPS} steps saved" in stopped.messages
    assert stopped.result["sha256"] == result["sha256"]
    assert len(workbench.losses()) == step + 10


def test_validation_is_the_mean_over_all_answer_tokens_on_any_number_of_ranks(
    bench: Callable[..., Workbench], noise: dict[str, Path]
) -> None:
    found = []
    for change in (
        {"hyperparameters": {"microBatchSize": 4}},
        {"hyperparameters": {"microBatchSize": 1}, "method": {"packing": "Off"}},
        {"hyperparameters": {"microBatchSize": 2}, "resources": {"gpusPerNode": 2}},
    ):
        plain = {
            "method": {"adapter": {"dropout": "0"}},
            "hyperparameters": {"maxSteps": 4},
            "checkpoint": {"validateEverySteps": 2},
        }
        workbench = bench(overfitting(noise, merge(plain, change)))
        workbench.run_to("prepare", "train")
        found.append([loss for _, loss in run_record(workbench)["curve"]["validation"]])
    assert found[0] == pytest.approx(found[1], abs=2e-6)
    assert found[0] == pytest.approx(found[2], abs=2e-6)


def test_a_short_run_over_many_rows_measures_one_sample_of_them_each_time(
    bench: Callable[..., Workbench], noise: dict[str, Path], tmp_path: Path
) -> None:
    rows = [
        {"prompt": f"Is {i} a code?", "completion": random.Random(i).choice(("yes", "no, never"))}
        for i in range(400)
    ]
    many = tmp_path / "many.jsonl"
    many.write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {
        "method": {"adapter": {"dropout": "0"}},
        "hyperparameters": {"maxSteps": 4},
        # Counting upwards looks like repetition.
        "dataset": {"duplicates": {"near": "Keep"}, "split": {"seed": 7}},
    }
    sampled = bench(
        overfitting(
            {**noise, "Validation": many},
            merge(settings, {"checkpoint": {"validateEverySteps": "auto"}}),
        )
    )
    prepared = sampled.run_to("prepare").result
    trained = sampled.run_to("train")
    record = run_record(sampled)
    assert record["recipe"]["num_validation_rows"] == 400
    assert record["recipe"]["num_measured_rows"] == 100
    assert "on 100 of 400 validation rows" in trained.messages
    assert 0 < record["selection"]["validation_error"] < record["selection"]["validation_loss"]

    side = Path(prepared["uri"].removeprefix("file://"), "validation.jsonl")
    lines = side.read_text().splitlines()
    drawn = tmp_path / "drawn.jsonl"
    drawn.write_text("".join(lines[i] + "\n" for i in draw_measured_rows(400, 100, seed=7)))
    whole = bench(
        overfitting(
            {**noise, "Validation": drawn},
            merge(settings, {"checkpoint": {"validateEverySteps": 1}}),
        )
    )
    whole.run_to("prepare", "train")
    expected = run_record(whole)["curve"]["validation"]
    assert [step for step, _ in expected] == [1, 2, 3, 4]
    assert [tuple(point) for point in record["curve"]["validation"]] == [
        (step, pytest.approx(loss, abs=2e-6)) for step, loss in expected
    ]
