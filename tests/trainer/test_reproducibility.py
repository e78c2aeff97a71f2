"""The same job gives the same adapter, whatever happens on the way."""

from __future__ import annotations

import signal
from collections.abc import Callable
from typing import Any

import pytest

from support.eventually import eventually
from support.stages import Workbench, kill_group

TWO = {"resources": {"gpusPerNode": 2}}


def steps_done(workbench: Workbench) -> int:
    return len(workbench.losses()) if workbench.curve.exists() else 0


def test_same_job_twice_gives_the_same_adapter(
    bench: Callable[..., Workbench], undisturbed: tuple[Workbench, dict[str, Any]]
) -> None:
    first, result = undisturbed
    again = bench({"output": {"uri": first.spec()["output"]["uri"] + "-again"}})
    again.run_to("prepare")
    assert again.run_to("train").result["sha256"] == result["sha256"]


@pytest.mark.parametrize("step", [1, 5, 10])
def test_killed_run_resumes_to_the_same_adapter(
    bench: Callable[..., Workbench],
    undisturbed: tuple[Workbench, dict[str, Any]],
    step: int,
) -> None:
    _, result = undisturbed
    workbench = bench()
    workbench.run_to("prepare")
    process = workbench.start("train")
    eventually(lambda: steps_done(workbench) >= step, timeout=240, interval=0.001)
    kill_group(process)
    assert not (workbench.run_folder / "adapter" / "manifest.json").exists()

    resumed = workbench.run_to("train")

    assert resumed.result["sha256"] == result["sha256"]
    assert resumed.result["resumedFromStep"] >= (step - 1) // 3 * 3
    assert steps_done(workbench) == 12


def test_stop_request_saves_and_the_next_run_goes_on(
    bench: Callable[..., Workbench], undisturbed: tuple[Workbench, dict[str, Any]]
) -> None:
    _, result = undisturbed
    workbench = bench({"checkpoint": {"everySteps": 1000}})
    workbench.run_to("prepare")
    process = workbench.start("train")
    eventually(lambda: steps_done(workbench) >= 2, timeout=240, interval=0.001)
    process.send_signal(signal.SIGTERM)
    stopped = workbench.finish(process)
    assert stopped.exit_code == 79, stopped.messages
    assert stopped.termination["reason"] == "StoppedAfterSave"

    resumed = workbench.run_to("train")

    assert resumed.result["resumedFromStep"] >= 2
    assert resumed.result["sha256"] == result["sha256"]


def test_two_ranks_equal_one_rank_with_twice_the_accumulation(
    bench: Callable[..., Workbench],
) -> None:
    no_dropout = {
        "method": {"adapter": {"dropout": "0"}},
        "hyperparameters": {"maxSteps": 5, "microBatchSize": 2},
    }
    one = bench(no_dropout)
    one.run_to("prepare", "train")
    two = bench({**no_dropout, **TWO})
    two.run_to("prepare", "train")
    assert two.losses() == pytest.approx(one.losses(), abs=1e-6)
    assert len(two.losses()) == 5


def test_strategies_agree_and_their_checkpoints_resume(bench: Callable[..., Workbench]) -> None:
    losses: dict[str, list[float]] = {}
    for strategy in ("DDP", "ZeRO2", "ZeRO3"):
        workbench = bench(
            {
                "resources": {"gpusPerNode": 2, "strategy": strategy},
                "method": {"adapter": {"dropout": "0"}},
                "hyperparameters": {"maxSteps": 6, "microBatchSize": 2},
            }
        )
        workbench.run_to("prepare")
        process = workbench.start("train")
        committed = workbench.run_folder / "checkpoints" / "step-3" / "manifest.json"
        eventually(
            lambda committed=committed, process=process: (
                committed.exists() or process.poll() is not None
            ),
            timeout=280,
            interval=0.001,
        )
        kill_group(process)
        # accelerate may run DDP instead without a word: only ZeRO leaves one file per rank.
        shards = "zero_pp_rank_1" in committed.read_text()
        assert shards == (strategy != "DDP")
        resumed = workbench.run_to("train")
        assert resumed.result["step"] == 6
        losses[strategy] = workbench.losses()
        assert len(losses[strategy]) == 6
    for strategy in ("ZeRO2", "ZeRO3"):
        assert losses[strategy][:3] == pytest.approx(losses["DDP"][:3], abs=1e-5)
        assert losses[strategy] == pytest.approx(losses["DDP"], abs=1e-4)
