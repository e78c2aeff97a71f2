"""Checkpoints hold no code, resume exactly, and cost training no wait they need not."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kit.cluster.faults import fault
from kit.processes.eventually import eventually
from kit.processes.pickles import find_pickles, forge_checkpoint
from kit.processes.stages import Workbench, merge
from kit.servers.ports import free_port

SIX_STEPS = {"hyperparameters": {"maxSteps": 6, "microBatchSize": 1}}
STRATEGIES = {
    "one rank": {},
    # Sums of more than two numbers depend on their order.
    "DDP": {"gpusPerNode": 4, "strategy": "DDP"},
    "ZeRO2": {"gpusPerNode": 2, "strategy": "ZeRO2"},
    "ZeRO3": {"gpusPerNode": 2, "strategy": "ZeRO3"},
    "FSDP2": {"gpusPerNode": 2, "strategy": "FSDP2"},
}


def train_and_copy(workbench: Workbench, copy: Path) -> dict[str, Any]:
    """Train undisturbed and copy the checkpoint of step 3 as it lies in storage."""
    workbench.run_to("prepare")
    # Before it publishes, and removes its checkpoints.
    mark, copied = workbench.folder / "mark", workbench.folder / "copied"
    workbench.env = fault("trained", mark, rank=0, until=str(copied))
    process = workbench.start("train")
    eventually(lambda: mark.exists() or process.poll() is not None, timeout=280)
    if mark.exists():
        shutil.copytree(workbench.run_folder / "checkpoints" / "step-3", copy)
        copied.touch()
    run = workbench.finish(process)
    assert run.exit_code == 0, run.messages + run.stderr[-2000:]
    return run.result


@pytest.mark.parametrize(
    ("strategy", "precision"),
    # Auto is bfloat16 on processors that compute in it.
    [*((strategy, "Float32") for strategy in STRATEGIES), ("FSDP2", "Auto")],
)
def test_run_that_resumes_beside_planted_pickles_ends_with_the_same_bytes(
    bench: Callable[..., Workbench], tmp_path: Path, strategy: str, precision: str
) -> None:
    numbers = {"hyperparameters": {"precision": precision}, "resources": STRATEGIES[strategy]}
    change = merge(SIX_STEPS, numbers)
    undisturbed, good = bench(change), tmp_path / "step-3"
    result = train_and_copy(undisturbed, good)
    # accelerate may run DDP instead without a word: only ZeRO leaves one file per rank.
    is_sharded = "zero_pp_rank_1" in (good / "manifest.json").read_text()
    assert is_sharded == strategy.startswith("ZeRO")
    assert find_pickles(good) == []
    assert find_pickles(undisturbed.output) == []
    assert not (undisturbed.run_folder / "checkpoints").exists()

    resumed, mark = bench(change), tmp_path / "executed"
    resumed.run_to("prepare")
    checkpoints = resumed.run_folder / "checkpoints"
    shutil.copytree(good, checkpoints / "step-3")
    forge_checkpoint(good, checkpoints / "step-4", mark, renamed=True)
    forge_checkpoint(good, checkpoints / "step-5", mark, renamed=False)
    run = resumed.run_to("train")

    assert run.result["resumedFromStep"] == 3
    assert run.messages.count("passed over as damaged") == 2
    assert run.result["sha256"] == result["sha256"]
    assert not mark.exists()


@pytest.mark.parametrize("kind", ["LoRA", "Full"])
def test_sharded_checkpoint_holds_trained_weights_once_and_resumes_from_them(
    bench: Callable[..., Workbench], tmp_path: Path, kind: str
) -> None:
    resources = {"gpusPerNode": 2, "nodes": 2, "strategy": "FSDP2"}
    steps = {"maxSteps": 6, "microBatchSize": 1, "learningRate": "auto"}
    method = {"adapter": {"type": kind, "dropout": "0"}}
    change = {"hyperparameters": steps, "method": method, "resources": resources}
    good = tmp_path / "step-3"
    result = train_and_copy(bench(change), good)
    name = "model" if kind == "Full" else "adapter_model"
    weights = weights_of(good, f"{name}.safetensors")
    num_bytes = sum(values.nbytes for values in weights.values())
    stored = sum(each.stat().st_size for each in good.glob("*.safetensors"))
    random_states = sum(each.stat().st_size for each in good.glob("rng_state*"))
    # Weights, and two float32 moments of each; names and shapes come on top.
    assert stored - random_states < 3 * num_bytes * 1.05 + 64 * 1024

    resumed = bench(change)
    resumed.run_to("prepare")
    shutil.copytree(good, resumed.run_folder / "checkpoints" / "step-3")
    again = resumed.run_to("train").result
    assert (again["resumedFromStep"], again["sha256"]) == (3, result["sha256"])

    whole = bench({**change, "resources": {"gpusPerNode": 4, "strategy": "DDP"}})
    alone = whole.run_to("prepare", "train").result
    expected = float(alone["selection"]["validationLoss"])
    assert float(result["selection"]["validationLoss"]) == pytest.approx(expected, abs=2e-5)


@pytest.mark.parametrize("strategy", ["DDP", "FSDP2"])
def test_adapter_of_a_4_bit_base_resumes_with_the_same_bytes(
    bench: Callable[..., Workbench], tmp_path: Path, strategy: str
) -> None:
    change = {
        "hyperparameters": {"maxSteps": 4, "microBatchSize": 1, "learningRate": "auto"},
        "method": {"adapter": {"type": "QLoRA"}},
        "resources": {"gpusPerNode": 2, "strategy": strategy},
    }
    good = tmp_path / "step-3"
    workbench = bench(change)
    result = train_and_copy(workbench, good)
    record = json.loads((workbench.run_folder / "adapter" / "run.json").read_text())
    assert record["quantization"] == "NF4"

    resumed = bench(change)
    resumed.run_to("prepare")
    shutil.copytree(good, resumed.run_folder / "checkpoints" / "step-3")
    again = resumed.run_to("train").result
    assert (again["resumedFromStep"], again["sha256"]) == (3, result["sha256"])


def test_second_attempt_removes_what_a_crash_after_publication_left(
    undisturbed: tuple[Workbench, dict[str, Any]], tmp_path: Path
) -> None:
    workbench = undisturbed[0].fork(tmp_path / "fork")
    left = workbench.run_folder / "checkpoints" / "step-12"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text("{}")
    assert workbench.run_to("train").result["reused"]
    assert not left.parent.exists()


def test_store_that_fails_ends_the_run_as_a_storage_error(bench: Callable[..., Workbench]) -> None:
    workbench = bench(SIX_STEPS)
    workbench.run_to("prepare")
    # A file where the folder of the checkpoints should be: every upload fails.
    (workbench.run_folder / "checkpoints").parent.mkdir(parents=True, exist_ok=True)
    (workbench.run_folder / "checkpoints").write_text("")
    run = workbench.run("train")
    assert run.exit_code == 73, run.messages
    assert run.failure["reason"] == "LocalIoError"


def is_open(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def run_two_nodes(nodes: list[Workbench]) -> list[dict[str, Any]]:
    """Run one stage process per node, node 0 long before the others; return the results."""
    port = free_port()
    for rank, node in enumerate(nodes):
        node.env = {
            "JOB_COMPLETION_INDEX": str(rank),
            "FINETUNE_RENDEZVOUS_HOST": "127.0.0.1",
            "FINETUNE_RENDEZVOUS_PORT": str(port),
        }
    first = nodes[0].start("train")
    # Node 0 has fetched its inputs, holds the port and starts no rank before the other comes.
    eventually(lambda: is_open(port) or first.poll() is not None, timeout=60)
    assert not list(nodes[0].work.rglob("ranks.log"))
    processes = [first, *(node.start("train") for node in nodes[1:])]
    runs = [node.finish(process) for node, process in zip(nodes, processes, strict=True)]
    for run in runs:
        assert run.exit_code == 0, run.messages + run.stderr[-2000:]
    return [run.result for run in runs]


def test_two_nodes_commit_together_and_end_as_two_ranks_of_one_node(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    one = bench({**SIX_STEPS, "resources": {"gpusPerNode": 2, "strategy": "DDP"}})
    expected = train_and_copy(one, tmp_path / "step-3")
    output = {"output": {"uri": f"file://{tmp_path}/out"}}
    change = {**SIX_STEPS, **output, "resources": {"nodes": 2, "strategy": "DDP"}}
    nodes = [bench(change), bench(change)]
    nodes[0].run_to("prepare")
    run = tmp_path / "out" / nodes[0].job().run_prefix
    shutil.copytree(tmp_path / "step-3", run / "checkpoints" / "step-3")
    results = run_two_nodes(nodes)
    assert {result["sha256"] for result in results} == {expected["sha256"]}
    assert [result["resumedFromStep"] for result in results] == [3, 3]


AGREE = """
import os, sys
import torch.distributed as dist
from finetune_trainer.errors import StorageError
from finetune_trainer.train.ranks.agreement import agree_on_step
rank, steps = int(sys.argv[1]), [int(step) for step in sys.argv[2].split(",")]
dist.init_process_group("gloo", init_method=f"file://{sys.argv[3]}", rank=rank, world_size=2)
def fetch(step):
    if step not in steps:
        raise StorageError("ChecksumMismatch", "damaged")
def older(step):
    return max((s for s in steps if s < step), default=0)
print(agree_on_step(max(steps), is_local_first=True, fetch=fetch, older=older))
dist.destroy_process_group()
"""


@pytest.mark.parametrize(
    ("first", "second", "agreed"),
    [("0,3,6", "0,3,6", "6"), ("0,3,6", "0,3", "3"), ("0,3", "0,3,6", "3"), ("0,6", "0,3", "0")],
)
def test_nodes_that_see_different_checkpoints_resume_from_the_same(
    tmp_path: Path, first: str, second: str, agreed: str
) -> None:
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", AGREE, str(rank), steps, str(tmp_path / "store")],
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        for rank, steps in enumerate([first, second])
    ]
    answers = [process.communicate(timeout=120)[0].split()[-1] for process in processes]
    assert answers == [agreed, agreed]


# ------------------------------------------------------------------------------------ initFrom

STILL = {"hyperparameters": {"maxSteps": 1, "learningRate": "1e-12", "warmupRatio": "0"}}
"""One step that moves nothing: what comes out is what went in."""


def weights_of(folder: Path, name: str = "adapter_model.safetensors") -> dict[str, Any]:
    from safetensors.numpy import load_file

    return dict(load_file(folder / name))


def assert_same_weights(first: dict[str, Any], second: dict[str, Any]) -> None:
    assert first.keys() == second.keys()
    for name, values in first.items():
        assert abs(values - second[name]).max() < 1e-6, name


@pytest.mark.parametrize("kind", ["adapter", "version"])
def test_job_begins_from_what_another_run_has_stored(
    bench: Callable[..., Workbench], undisturbed: tuple[Workbench, dict[str, Any]], kind: str
) -> None:
    first, result = undisturbed
    place = first.run_folder / "adapter"
    uri = place if kind == "adapter" else first.output / "versions" / "default" / "tiny" / "1"
    second = bench({**STILL, "initFrom": {"uri": f"file://{uri}"}})
    second.run_to("prepare")
    run = second.run_to("train")
    assert_same_weights(weights_of(place), weights_of(second.run_folder / "adapter"))
    record = json.loads((second.run_folder / "adapter" / "run.json").read_text())
    assert record["initFrom"] == {"uri": f"file://{uri}", "digest": run.result["originDigest"]}
    assert len(run.result["originDigest"]) == 64
    assert str(uri) in (second.run_folder / "adapter" / "README.md").read_text()


def test_full_weights_begin_from_a_checkpoint_and_a_retry_takes_the_same(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    full = {"method": {"adapter": {"type": "Full"}}}
    first = bench({**SIX_STEPS, **full, "hyperparameters": {"maxSteps": 4, "learningRate": "1e-3"}})
    kept = tmp_path / "checkpoints" / "step-3"
    train_and_copy(first, kept)
    second = bench({**STILL, **full, "initFrom": {"uri": f"file://{kept}"}})
    second.run_to("prepare")
    second.run_to("train")
    assert_same_weights(
        weights_of(kept, "model.safetensors"),
        weights_of(second.run_folder / "adapter", "model.safetensors"),
    )
    shutil.rmtree(second.run_folder / "adapter")
    manifest = json.loads((kept / "manifest.json").read_text())
    manifest["files"] = [file for file in manifest["files"] if file["path"] != "latest"][:-1]
    (kept / "manifest.json").write_text(json.dumps(manifest))
    again = second.run("train")
    assert again.exit_code == 64, again.messages
    assert again.failure["reason"] == "OriginChanged"


def test_job_of_another_shape_is_refused_before_its_ranks_start(
    bench: Callable[..., Workbench], undisturbed: tuple[Workbench, dict[str, Any]]
) -> None:
    uri = f"file://{undisturbed[0].run_folder / 'adapter'}"
    second = bench({"initFrom": {"uri": uri}, "method": {"adapter": {"rank": 8}}})
    second.run_to("prepare")
    run = second.run("train")
    assert run.exit_code == 64
    assert "method.adapter.rank is 8 here and 4 there" in run.failure["message"]
    assert not (second.work / "control" / "plan.json").exists()
