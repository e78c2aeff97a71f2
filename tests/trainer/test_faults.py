"""What training does when a rank hangs or runs out of memory, and what it leaves behind."""

from __future__ import annotations

import json
import math
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from kit.cluster.faults import fault
from kit.processes.eventually import eventually, patient
from kit.processes.stages import Workbench

SHORT = {
    "hyperparameters": {"maxSteps": 4, "microBatchSize": 2},
    "checkpoint": {"validateEverySteps": 4},
}


def untrained(done: Workbench, folder: Path, change: dict[str, Any]) -> Workbench:
    """Return a run of another job whose data set is prepared."""
    workbench = done.fork(folder, change)
    for name in ("adapter", "evaluation"):
        shutil.rmtree(workbench.run_folder / name)
    return workbench


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core runs one rank")
@pytest.mark.parametrize(
    ("kind", "reason", "said"),
    [
        ("loader", "RankHung", "rank 1 is behind, after step 2 while training, at sitecustomize"),
        ("collective", "CollectiveHung", "all ranks wait for each other after step 2"),
    ],
)
def test_ranks_that_hang_are_named_and_leave_their_stacks(
    undisturbed: tuple[Workbench, dict[str, Any]],
    tmp_path: Path,
    kind: str,
    reason: str,
    said: str,
) -> None:
    two = {"resources": {"gpusPerNode": 2}, "trainer": {"stepTimeoutSeconds": 4}}
    workbench = untrained(undisturbed[0], tmp_path / "run", {**SHORT, **two})
    workbench.env = fault(kind, tmp_path / "mark", rank=1, step=2)
    run = workbench.run("train")
    assert (tmp_path / "mark").exists(), run.stderr[-2000:]
    assert (run.exit_code, run.termination["failureClass"]) == (76, "Hang"), run.messages
    assert (run.termination["reason"], run.termination["step"]) == (reason, 2)
    assert said in run.failure["message"]
    attempt = workbench.run_folder / "attempts" / "1"
    assert f"file://{attempt}" in run.failure["message"]
    assert json.loads((attempt / "end.json").read_text())["reason"] == reason
    for rank in (0, 1):
        assert "most recent call first" in (attempt / f"stacks-{rank}.txt").read_text()


def test_lack_of_memory_halves_the_micro_batch_and_keeps_the_global_batch(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    change = {"hyperparameters": {"maxSteps": 4, "microBatchSize": 4}}
    workbench = untrained(undisturbed[0], tmp_path / "run", change)
    workbench.env = fault("memory", tmp_path / "mark", fits=2)
    run = workbench.run("train")
    assert (run.exit_code, run.termination["failureClass"]) == (77, "OutOfMemory"), run.messages
    assert "the next attempt takes at most 2 examples" in run.failure["message"]

    run = workbench.run_to("train")
    assert "an attempt before ran out of memory with 4 examples" in run.messages
    assert "2 micro x 2 accumulation" in run.messages
    recipe = json.loads((workbench.run_folder / "adapter" / "run.json").read_text())["recipe"]
    assert (recipe["global_batch_size"], recipe["micro_batch_size"]) == (4, 2)
    assert recipe["out_of_memory_at"] == run.result["outOfMemoryAt"] == 4


def test_training_that_is_not_finite_ends_and_keeps_the_checkpoints_before(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = untrained(undisturbed[0], tmp_path / "run", {"checkpoint": {"everySteps": 2}})
    workbench.env = fault("not-finite", tmp_path / "mark", rank=0, steps=[5, 6, 7])
    run = workbench.run("train")
    assert (run.exit_code, run.termination["failureClass"]) == (64, "UserError"), run.messages
    assert (run.termination["reason"], run.termination["rank"]) == ("Diverged", 0)
    assert "at step 6 of 12: the loss of rank 0 is not finite" in run.failure["message"]
    assert "learning rate 0.01" in run.failure["message"]
    # That of step 6 itself is not among them, though two steps were yet to come.
    assert workbench.stored_steps() == [2, 4]


def test_a_single_step_that_is_not_finite_changes_no_weight(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = untrained(undisturbed[0], tmp_path / "run", {})
    workbench.env = fault("not-finite", tmp_path / "mark", rank=0, steps=[4, 7])
    run = workbench.run_to("train")
    assert "step 5 changes no weight: the loss of rank 0 is not finite" in run.messages
    losses = workbench.losses()
    assert [i for i, loss in enumerate(losses) if math.isnan(loss)] == [4, 7]
    saved = load_file(workbench.run_folder / "adapter" / "adapter_model.safetensors")
    assert all(bool(torch.isfinite(weight).all()) for weight in saved.values())
    record = json.loads((workbench.run_folder / "adapter" / "run.json").read_text())
    assert "NaN" not in json.dumps(record)


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core runs one rank")
@pytest.mark.parametrize("strategy", ["DDP", "ZeRO2"])
def test_all_ranks_end_by_what_one_of_them_finds(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path, strategy: str
) -> None:
    change = {**SHORT, "resources": {"gpusPerNode": 2, "strategy": strategy}}
    workbench = untrained(undisturbed[0], tmp_path / "run", change)
    workbench.env = fault("not-finite", tmp_path / "mark", rank=1, steps=[1, 2, 3])
    run = workbench.run("train")
    assert (run.exit_code, run.termination["reason"]) == (64, "Diverged"), run.messages
    assert run.termination["rank"] == 1
    assert "at step 2 of 4: the loss of rank 1 is not finite" in run.failure["message"]


def test_a_stop_before_the_first_step_is_not_kept_waiting_by_ranks(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = untrained(undisturbed[0], tmp_path / "run", SHORT)
    workbench.env = fault("loader", tmp_path / "mark", rank=0, step=0)
    process = workbench.start("train")
    eventually((tmp_path / "mark").exists, timeout=120, interval=0.05)
    process.send_signal(signal.SIGTERM)
    run = workbench.finish(process, timeout=patient(30))
    assert (run.exit_code, run.termination["reason"]) == (79, "StoppedBeforeTraining"), run.messages


@pytest.mark.parametrize("stage", ["prepare", "train", "evaluate"])
def test_a_stop_during_a_download_ends_the_stage_at_once(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path, stage: str
) -> None:
    """The store takes the connection and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        change = {"output": {"uri": "s3://bucket/prefix"}, "s3": {"endpoint": address}}
        if stage == "prepare":
            change["dataset"] = {"sources": [{"uri": "s3://bucket/rows.jsonl"}]}
        workbench = Workbench(
            folder=tmp_path / "run",
            model=undisturbed[0].model,
            data=undisturbed[0].data,
            change=change,
            env={"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"},
        )
        process = workbench.start(stage)
        silent.settimeout(120)
        connection, _ = silent.accept()
        with connection:
            process.send_signal(signal.SIGTERM)
            run = workbench.finish(process, timeout=patient(30))
    assert (run.exit_code, run.termination["reason"]) == (79, "Stopped"), run.messages
    assert run.termination["stage"] == stage
