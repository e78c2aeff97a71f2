"""Any step of a run can be evaluated and published, byte for byte, without training a step."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Environment
from finetune_cli.reports.checkpoints import find_weights, read_run
from finetune_trainer.storage import StorageAccess
from kit.cluster.pushes import receiving
from kit.models.tiny_models import make_eager_model
from kit.processes.stages import Workbench, merge

KEPT = {
    "hyperparameters": {"maxSteps": 6},
    "checkpoint": {
        "everySteps": 3,
        "keepLast": 2,
        "validateEverySteps": 3,
        "select": "Best",
        "afterTraining": "Keep",
    },
}


@pytest.fixture(scope="module")
def kept(bench_of_module: Callable[..., Workbench]) -> Workbench:
    """A run that has trained and evaluated, and keeps its checkpoints."""
    workbench = bench_of_module(KEPT)
    workbench.run_to("prepare", "train", "evaluate")
    return workbench


def sha256_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def taking(uri: Path, change: dict[str, Any] | None = None) -> dict[str, Any]:
    origin = {"initFrom": {"uri": f"file://{uri}", "train": False}}
    return merge(merge(KEPT, origin), change or {})


def read_json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_text())
    return found


def published_weights(workbench: Workbench) -> dict[str, Any]:
    version = read_json(workbench.output / "versions" / "default" / "tiny" / "1" / "manifest.json")
    return next(f for f in version["files"] if f["path"] == "adapter_model.safetensors")


def test_checkpoints_that_are_kept_stay_beside_the_adapter(kept: Workbench) -> None:
    assert kept.stored_steps() == [3, 6]
    again = kept.run_to("train")
    assert again.result["reused"]
    assert kept.stored_steps() == [3, 6]


@pytest.mark.parametrize("kind", ["step-3", "best-*"])
def test_the_published_bytes_are_those_of_the_step(
    bench: Callable[..., Workbench], kept: Workbench, kind: str
) -> None:
    (folder,) = sorted((kept.run_folder / "checkpoints").glob(kind))[-1:]
    step, stored = int(folder.name.rpartition("-")[2]), folder / "adapter_model.safetensors"
    second = bench(taking(folder))
    second.run_to("prepare")
    with receiving() as (url, received):
        second.env[Environment.PROGRESS_URL] = url
        run = second.run_to("train")
    del second.env[Environment.PROGRESS_URL]

    (plan,) = [own["plan"] for _, push in received if "plan" in (own := push["finetune"])]
    assert (plan["totalSteps"], plan["trainableParameters"]) == (0, 0)
    assert f"the adapter is the weights after step {step} of " in plan["reasons"][0]["reason"]
    assert run.result["sha256"] == sha256_of(stored)
    assert (run.result["step"], run.result["originStep"]) == (0, step)
    assert "selection" not in run.result
    assert f"taken after step {step} of their run, unchanged" in run.messages
    assert not (second.work / "control" / "plan.json").exists()

    second.run_to("evaluate")
    published = published_weights(second)
    assert published["sha256"] == sha256_of(stored)
    assert sha256_of(second.output / published["key"]) == sha256_of(stored)
    record = read_json(second.run_folder / "adapter" / "run.json")
    trained_on = read_json(kept.run_folder / "adapter" / "run.json")["dataset"]
    assert record["initFrom"] == {
        "uri": f"file://{folder}",
        "digest": run.result["originDigest"],
        "train": False,
        "step": step,
        "dataset": trained_on,
    }
    for page in ("README.md", "report.html"):
        text = (second.run_folder / "evaluation" / page).read_text()
        assert f"after step {step} of file://{folder}" in text
        assert "Learning rate" not in text
    # It is itself a run that another job may take, and says whose weights it has.
    root, home = second.output, second.run_folder.relative_to(second.output).as_posix()
    steps = read_run(f"file://{root}", home, StorageAccess(), versions="versions/x/y", uid="x")
    assert find_weights(steps, step, of="tiny").uri == f"file://{second.run_folder}/adapter"


def test_whole_weights_are_taken_as_they_are(bench: Callable[..., Workbench]) -> None:
    full = {"method": {"adapter": {"type": "Full"}}, "hyperparameters": {"learningRate": "1e-3"}}
    first = bench(merge(KEPT, full))
    first.run_to("prepare", "train")
    stored = first.run_folder / "checkpoints" / "step-3" / "model.safetensors"
    second = bench(taking(stored.parent, full))
    second.run_to("prepare")
    assert second.run_to("train").result["sha256"] == sha256_of(stored)
    second.run_to("evaluate")
    version = second.output / "versions" / "default" / "tiny" / "1" / "manifest.json"
    assert sha256_of(stored) in version.read_text()


def test_the_step_that_was_chosen_has_the_scores_that_it_had(
    bench: Callable[..., Workbench], kept: Workbench
) -> None:
    second = bench(taking(kept.run_folder / "adapter"))
    second.run_to("prepare", "train", "evaluate")

    def scores(workbench: Workbench) -> list[dict[str, Any]]:
        report = read_json(workbench.run_folder / "evaluation" / "report.json")
        return list(report["result"]["scores"])

    assert scores(second) == scores(kept)
    chosen = read_json(kept.run_folder / "adapter" / "run.json")["selection"]["step"]
    record = read_json(second.run_folder / "adapter" / "run.json")
    assert record["initFrom"]["step"] == chosen


def test_weights_that_do_not_fit_are_refused_and_other_data_is_told(
    bench: Callable[..., Workbench], kept: Workbench, tmp_path: Path
) -> None:
    folder = kept.run_folder / "checkpoints" / "step-3"
    shape = bench(taking(folder, {"method": {"adapter": {"rank": 8}}}))
    base = bench(taking(folder), model=make_eager_model(tmp_path / "other"))
    gone = bench(taking(folder.with_name("step-4")))
    for workbench, reason, said in (
        (shape, "OriginMismatch", "method.adapter.rank is 8 here and 4 there"),
        (base, "OriginOfOtherBase", "was trained on tiny/llama at revision"),
        (gone, "OriginNotFound", "There is nothing under"),
    ):
        workbench.run_to("prepare")
        run = workbench.run("train")
        assert (run.exit_code, run.failure["reason"]) == (64, reason), run.messages
        assert said in run.failure["message"]
    other = bench(taking(folder, {"dataset": {"split": {"seed": 9}}}))
    other.run_to("prepare")
    assert "some of these may have been trained on" in other.run_to("train").messages
