"""Evaluation on several processes: the same answers, and every end of one ends all."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.cluster.faults import fault
from kit.processes.eventually import eventually
from kit.processes.stages import StageRun, Workbench

pytestmark = pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="one core runs one process"
)

TWO = {"resources": {"gpusPerNode": 2}, "evaluation": {"batchSize": 2}}


def unevaluated(trained: Workbench, folder: Path, change: dict[str, Any]) -> Workbench:
    workbench = trained.fork(folder, change)
    shutil.rmtree(workbench.run_folder / "evaluation")
    return workbench


def evidence(workbench: Workbench) -> tuple[str, list[dict[str, Any]]]:
    folder = workbench.run_folder / "evaluation"
    report = json.loads((folder / "report.json").read_text())
    return (folder / "samples.jsonl").read_text(), report["result"]["scores"]


def workers(workbench: Workbench) -> dict[int, int]:
    """Return the ids of this run's running workers, by rank."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            command = (folder / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if (
            "finetune_trainer.evaluate.inference.worker" in command
            and str(workbench.work) in command[-3]
        ):
            found[int(command[-2])] = int(folder.name)
    return found


def test_two_processes_say_what_one_says(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    trained, _ = undisturbed
    one = unevaluated(trained, tmp_path / "one", {"evaluation": {"batchSize": 2}})
    two = unevaluated(trained, tmp_path / "two", TWO)
    ended = two.run_to("evaluate")
    assert "on 2 processes, CPU" in ended.messages
    assert "on 1 process, CPU" in one.run_to("evaluate").messages
    assert evidence(two) == evidence(one)
    told = [event for event in ended.events if event["event"] == "progress"]
    steps = [event["step"] for event in told]
    assert steps == sorted(steps)
    # 12 rows and prompts of the base, of the base with a prompt, with 12 labels, and of the tuned.
    assert steps[-1] == told[-1]["totalSteps"] == 84
    assert ended.result["version"] == 1


def test_a_pod_that_was_given_fewer_gpus_than_training_evaluates(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = unevaluated(undisturbed[0], tmp_path / "run", TWO)
    workbench.env["FINETUNE_NUM_GPUS"] = "1"
    assert "on 1 process, CPU" in workbench.run_to("evaluate").messages


def test_a_pod_that_asked_for_too_few_gpus_does_not_train(bench: Callable[..., Workbench]) -> None:
    workbench = bench(TWO, env={"FINETUNE_NUM_GPUS": "1"})
    workbench.run_to("prepare")
    ended = workbench.run("train")
    assert (ended.exit_code, ended.termination["reason"]) == (64, "GPUNotVisible")


@pytest.fixture
def asking(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> Iterator[tuple[Workbench, subprocess.Popen[str], dict[int, int]]]:
    """An evaluation whose two workers are at work, found by their command lines."""
    workbench = unevaluated(undisturbed[0], tmp_path / "run", TWO)
    workbench.is_plain = True
    process = workbench.start("evaluate")
    try:
        eventually(lambda: len(workers(workbench)) == 2, timeout=120, interval=0.05)
        yield workbench, process, workers(workbench)
    finally:
        if process.poll() is None:
            process.kill()
            process.communicate()


def end(workbench: Workbench, process: subprocess.Popen[str]) -> StageRun:
    ended = workbench.finish(process)
    assert not workers(workbench)
    assert not (workbench.run_folder / "evaluation").exists()
    return ended


def test_a_stopped_evaluation_keeps_its_answers_and_ends_with_the_same_report(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = unevaluated(undisturbed[0], tmp_path / "run", {"evaluation": {"batchSize": 2}})
    workbench.run_to("evaluate")
    folder = workbench.run_folder / "evaluation"
    expected = {path.name: path.read_bytes() for path in folder.iterdir()}
    shutil.rmtree(folder)

    workbench.env = fault("answers", tmp_path / "mark", answers=2)
    process = workbench.start("evaluate")
    eventually((tmp_path / "mark").exists, timeout=120, interval=0.05)
    process.send_signal(signal.SIGTERM)
    stopped = end(workbench, process)
    assert (stopped.exit_code, stopped.termination["reason"]) == (79, "StoppedBeforeScores")
    assert "8 of 84 answers are kept" in stopped.failure["message"]  # 4, each with its reference

    workbench.env = {}
    resumed = workbench.run_to("evaluate")
    assert "8 of 84 asks were answered before" in resumed.messages
    steps = [event["step"] for event in resumed.events if event["event"] == "progress"]
    assert steps[0] > 8
    assert steps[-1] == 84
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == expected
    assert not (workbench.run_folder / "answers").exists()


def test_a_stop_ends_all_processes_and_is_told(
    asking: tuple[Workbench, subprocess.Popen[str], dict[int, int]],
) -> None:
    workbench, process, _ = asking
    process.send_signal(signal.SIGTERM)
    ended = end(workbench, process)
    assert (ended.exit_code, ended.termination["reason"]) == (79, "StoppedBeforeScores")


def test_a_killed_process_ends_the_other_and_may_pass_next_time(
    asking: tuple[Workbench, subprocess.Popen[str], dict[int, int]],
) -> None:
    workbench, process, ids = asking
    os.kill(ids[1], signal.SIGKILL)
    ended = end(workbench, process)
    assert (ended.exit_code, ended.termination["reason"]) == (75, "WorkerKilled")
