"""What ``finetune checkpoints`` tells of a run: measured, stored, chosen, published."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.app import app
from finetune_cli.errors import CliError
from finetune_cli.files.documents import read_single
from finetune_cli.local.job import plan_run
from finetune_cli.reports.checkpoints import (
    Step,
    list_steps,
    read_losses,
    read_run,
    steps_of_status,
)
from finetune_trainer.storage import (
    ObjectInfo,
    ObjectStore,
    StorageAccess,
    open_store,
    publish_folder,
)
from kit.cases.spec_cases import minimal_job

RUN, VERSIONS = "runs/team-a/headlines/u1", "versions/team-a/headlines"
CURVE = "".join(
    json.dumps(point) + "\n"
    for point in (
        {"step": 10, "eval_loss": 0.9, "loss": 1.2},
        {"step": 20, "eval_loss": 0.7},
        {"step": 25, "loss": 0.3},
        {"step": 30, "eval_loss": 0.8},
    )
)


def store_folder(store: ObjectStore, key: str, made: Path, files: dict[str, str]) -> None:
    folder = made / key.replace("/", "-")
    folder.mkdir()
    for name, text in files.items():
        (folder / name).write_text(text)
    publish_folder(store, key, folder, created_by="test")


def begin(folder: Path, run: str = RUN) -> ObjectStore:
    """Store a run that trains: two checkpoints, the best weights, and one that is not whole."""
    store = open_store(f"file://{folder}/out", StorageAccess())
    for key in ("step-20", "step-30", "best-20"):
        store_folder(
            store, f"{run}/checkpoints/{key}", folder, {"adapter_model.safetensors": "w" * 7}
        )
    store.write_bytes(f"{run}/checkpoints/step-40/optimizer.pt.safetensors", b"half")
    store.write_bytes(f"{run}/metrics.jsonl", CURVE.encode())
    return store


def read(folder: Path) -> list[Step]:
    return read_run(f"file://{folder}/out", RUN, StorageAccess(), versions=VERSIONS, uid="u1")


def told(steps: list[Step]) -> list[tuple[Any, ...]]:
    return [(s.step, s.validation_loss, s.stored, s.num_bytes, s.verdict) for s in steps]


def test_a_run_that_trains_has_checkpoints_and_the_best_weights_so_far(tmp_path: Path) -> None:
    begin(tmp_path)
    steps = read(tmp_path)
    assert told(steps) == [
        (10, 0.9, "", 0, ""),
        (20, 0.7, "checkpoint", 7, "best"),
        (20, 0.7, "weights", 7, "best"),
        (30, 0.8, "checkpoint", 7, ""),
    ]
    assert steps[3].uri == f"file://{tmp_path}/out/{RUN}/checkpoints/step-30"


def finish(folder: Path, store: ObjectStore, selection: dict[str, Any] | None) -> None:
    for item in list(store.list(f"{RUN}/checkpoints/")):
        store.delete(item.key)
    record = json.dumps({"step": 30, "selection": selection})
    store_folder(
        store, f"{RUN}/adapter", folder, {"adapter_model.safetensors": "w" * 9, "run.json": record}
    )


def test_a_run_that_has_trained_has_its_adapter_at_the_chosen_step(tmp_path: Path) -> None:
    store = begin(tmp_path)
    finish(tmp_path, store, {"step": 20, "validation_loss": 0.7})
    assert [(s.step, s.stored, s.verdict) for s in read(tmp_path)] == [
        (10, "", ""),
        (20, "adapter", "chosen"),
        (30, "", ""),
    ]
    for number, uid in ((1, "other"), (2, "u1"), (3, "other")):
        body = json.dumps({"inputs": {"uid": uid}}).encode()
        store.write_bytes(f"{VERSIONS}/{number}/manifest.json", body)
    assert read(tmp_path)[1].verdict == "published as version 2"


def test_a_run_without_validation_has_its_last_step(tmp_path: Path) -> None:
    store = open_store(f"file://{tmp_path}/out", StorageAccess())
    finish(tmp_path, store, None)
    assert [(s.step, s.validation_loss, s.verdict) for s in read(tmp_path)] == [
        (30, None, "chosen")
    ]


@pytest.mark.parametrize(
    ("lines", "losses"),
    [
        ("", {}),
        ("not json\n[]\n{}\n" + '{"step": 1, "loss": 2}\n', {}),
        ('{"step": 5, "eval_loss": 2}\n{"step": 5, "eval_loss": 1}\n', {5: 1.0}),
    ],
)
def test_lines_of_the_curve_without_a_validation_say_nothing(
    lines: str, losses: dict[int, float]
) -> None:
    assert read_losses(lines) == losses


def test_a_loss_that_is_not_finite_is_never_the_best() -> None:
    losses = {1: float("nan"), 2: 3.0, 3: float("inf")}
    steps = list_steps(
        [ObjectInfo(key="best-x/y", num_bytes=1)], losses, folder_uri="", chosen=None
    )
    assert [s.step for s in steps if s.is_best] == [2]


def test_where_storage_cannot_be_read_the_status_tells_what_it_knows() -> None:
    with pytest.raises(CliError, match="pvc://claim/x can be read in a pod only"):
        read_run("pvc://claim/x", RUN, StorageAccess(), versions=VERSIONS, uid="u1")
    selection = {"step": 20, "validationLoss": "0.7", "lastStep": 30, "lastValidationLoss": "0.8"}
    artifact = {"uri": "pvc://claim/x/adapter", "bytes": 9, "version": 4}
    job = {"status": {"selection": selection, "artifact": artifact}}
    assert told(steps_of_status(job)) == [
        (20, 0.7, "adapter", 9, "published as version 4"),
        (30, 0.8, "", 0, ""),
    ]
    assert steps_of_status({}) == []


@pytest.fixture
def local(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)
    body = {**minimal_job("headlines")}
    body["spec"]["output"] = {"uri": "file://./out"}
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(body))

    def call(*arguments: str) -> None:
        app(["checkpoints", "job.yaml", *arguments], standalone_mode=False)

    return call


def test_a_run_of_this_machine_is_found_by_its_file(
    local: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    local()
    assert capsys.readouterr().out == "job.yaml has no checkpoint and no validation yet\n"
    begin(tmp_path, plan_run(read_single("job.yaml"), namespace="default").job.run_prefix)
    local()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["STEP", "VALIDATION", "LOSS", "STORED", "BYTES", "STATE", "URI"]
    assert lines[2].split()[:5] == ["20", "0.7", "checkpoint", "7", "best"]
    local("-o", "json")
    item = json.loads(capsys.readouterr().out)["items"][3]
    assert item["uri"].endswith("/checkpoints/step-30")
    del item["uri"]
    assert item == {
        "step": 30,
        "validationLoss": "0.8",
        "stored": "checkpoint",
        "bytes": 7,
        "chosen": False,
        "best": False,
        "version": None,
    }
