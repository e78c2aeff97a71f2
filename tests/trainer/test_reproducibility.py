"""The same job gives the same adapter, whatever happens on the way."""

from __future__ import annotations

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.cluster.faults import fault
from kit.processes.eventually import eventually
from kit.processes.stages import Workbench, kill_group


def steps_done(workbench: Workbench) -> int:
    return len(workbench.losses()) if workbench.curve.exists() else 0


def test_same_job_twice_gives_the_same_adapter(
    bench: Callable[..., Workbench], undisturbed: tuple[Workbench, dict[str, Any]]
) -> None:
    first, result = undisturbed
    again = bench({"output": {"uri": first.spec()["output"]["uri"] + "-again"}})
    again.run_to("prepare")
    assert again.run_to("train").result["sha256"] == result["sha256"]


def test_run_killed_at_three_steps_ends_with_the_same_adapter(
    bench: Callable[..., Workbench],
    undisturbed: tuple[Workbench, dict[str, Any]],
    tmp_path: Path,
) -> None:
    _, result = undisturbed
    workbench = bench()
    workbench.run_to("prepare")
    # Before the first checkpoint, between two, and after the last, which is stored behind training.
    for step, stored in ((1, 0), (5, 3), (10, 9)):
        mark = tmp_path / f"step-{step}"
        workbench.env = fault("loader", mark, rank=0, step=step)
        process = workbench.start("train")
        eventually(
            lambda mark=mark, stored=stored: (
                mark.exists() and (stored == 0 or stored in workbench.stored_steps())
            ),
            timeout=240,
        )
        kill_group(process)
        assert not (workbench.run_folder / "adapter" / "manifest.json").exists()

    workbench.env = {}
    resumed = workbench.run_to("train")

    assert resumed.result["sha256"] == result["sha256"]
    assert resumed.result["resumedFromStep"] >= 9
    assert steps_done(workbench) == 12


def test_stop_request_saves_and_the_next_run_goes_on(
    bench: Callable[..., Workbench],
    undisturbed: tuple[Workbench, dict[str, Any]],
    tmp_path: Path,
) -> None:
    _, result = undisturbed
    workbench = bench({"checkpoint": {"everySteps": 1000}})
    workbench.run_to("prepare")
    # The third step does not begin before the rank can know of the stop.
    asked = str(workbench.work / "control" / "stop")
    workbench.env = fault("loader", tmp_path / "mark", rank=0, step=2, until=asked)
    process = workbench.start("train")
    eventually((tmp_path / "mark").exists, timeout=240)
    process.send_signal(signal.SIGTERM)
    stopped = workbench.finish(process)
    workbench.env = {}
    assert stopped.exit_code == 79, stopped.messages
    assert stopped.termination["reason"] == "StoppedAfterSave"
    assert stopped.termination["resumedFromStep"] == 0

    resumed = workbench.run_to("train")

    assert resumed.result["resumedFromStep"] >= 2
    assert resumed.result["sha256"] == result["sha256"]


NO_DROPOUT = {
    "method": {"adapter": {"dropout": "0"}},
    "hyperparameters": {"maxSteps": 6, "microBatchSize": 2},
}


@pytest.fixture(scope="module")
def two_ranks(bench_of_module: Callable[..., Workbench]) -> list[float]:
    """Losses of two ranks under DDP."""
    return train_two_ranks(bench_of_module, "DDP")


def train_two_ranks(bench: Callable[..., Workbench], strategy: str) -> list[float]:
    workbench = bench({**NO_DROPOUT, "resources": {"gpusPerNode": 2, "strategy": strategy}})
    workbench.run_to("prepare", "train")
    return workbench.losses()


def test_two_ranks_equal_one_rank_with_twice_the_accumulation(
    bench: Callable[..., Workbench], two_ranks: list[float]
) -> None:
    one = bench(NO_DROPOUT)
    one.run_to("prepare", "train")
    assert two_ranks == pytest.approx(one.losses(), abs=1e-6)
    assert len(two_ranks) == 6


@pytest.mark.parametrize("strategy", ["ZeRO2", "ZeRO3"])
def test_strategies_agree(
    bench: Callable[..., Workbench], two_ranks: list[float], strategy: str
) -> None:
    losses = train_two_ranks(bench, strategy)
    assert losses[:3] == pytest.approx(two_ranks[:3], abs=1e-5)
    assert losses == pytest.approx(two_ranks, abs=1e-4)
