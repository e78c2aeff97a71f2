"""What ranks find in their environment, and what their end is called, from the files they left."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_trainer.errors import StorageError
from finetune_trainer.failures import failure_record, leave_record, reserve_record
from finetune_trainer.process import environment_of
from finetune_trainer.train.parent.launch import Topology, _environment, _failure_of, lost_peer


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("rank 1: exitcode  : -9 (pid: 12)", "RankKilled"),
        ("traceback : Signal 9 (SIGKILL) received by PID 12", "RankKilled"),
        ("[PG 0 Rank 1] Watchdog caught collective operation timeout: WorkNCCL(...)", "PeerLost"),
        ("torch.distributed.DistBackendError: NCCL error ... ncclRemoteError", "PeerLost"),
        ("RuntimeError: [gloo] Connection closed by peer [10.0.0.2]:51234", "PeerLost"),
        ("ValueError: the rate 1e-9 is odd", "RanksFailed"),
        ("", "RanksFailed"),
    ],
)
def test_ranks_that_left_no_reason_are_told_by_their_log(
    tmp_path: Path, log: str, reason: str
) -> None:
    (tmp_path / "ranks.log").write_text(log)
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == reason


def test_a_rank_that_failed_by_itself_says_more_than_those_that_lost_it(tmp_path: Path) -> None:
    for rank, reason, message in (
        (0, "DistBackendError", "NCCL error: remote process exited"),
        (1, "OutOfMemory", "out of memory"),
    ):
        record = {"exit_code": 77 if rank else 70, "reason": reason, "message": message}
        record["lost_peer"] = lost_peer(message)
        (tmp_path / f"failure-{rank}.json").write_text(json.dumps({**record, "rank": rank}))
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == "OutOfMemory"
    (tmp_path / "failure-1.json").unlink()
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == "PeerLost"


def test_rank_that_reserved_room_for_its_reason_has_it_on_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "failure-0.json"
    reserve_record(path)
    before = path.stat().st_blocks
    assert _failure_of(tmp_path, -9, oom_killed=False).reason == "RankKilled"  # it left none
    failure = StorageError("DiskFull", "no space left " + "there " * 5000)
    leave_record(path, {**failure_record(failure), "rank": 0, "lost_peer": False})
    assert path.stat().st_blocks == before
    found = _failure_of(tmp_path, 1, oom_killed=False)
    assert (type(found), found.reason) == (StorageError, "DiskFull")
    assert found.message.startswith("no space left there")


def test_record_that_could_not_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "failure-0.json").write_text("")
    (tmp_path / "ranks.log").write_text("exitcode  : -9")
    assert _failure_of(tmp_path, 1, oom_killed=False).reason == "RankKilled"


@pytest.mark.parametrize(
    ("visible", "num_nodes", "num_ranks", "expected"),
    [
        (None, 1, 1, "0"),
        ("3,5", 1, 1, "3"),
        ("GPU-8932f937,GPU-46c1", 1, 1, "GPU-8932f937"),
        ("3,5", 1, 2, "3,5"),
        (None, 1, 8, None),
        (None, 2, 1, None),  # ranks that have a launcher take one GPU each
    ],
)
def test_single_rank_sees_a_single_gpu(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    visible: str | None,
    num_nodes: int,
    num_ranks: int,
    expected: str | None,
) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    topology = Topology(
        num_nodes=num_nodes, node_rank=0, processes_per_node=num_ranks, host="127.0.0.1", port=1
    )
    found = _environment(topology, tmp_path, use_gpu=True)
    assert found.get("CUDA_VISIBLE_DEVICES") == expected


@pytest.mark.parametrize(
    ("given", "use_gpu", "expected"),
    [
        ({}, True, {"PYTORCH_ALLOC_CONF": "expandable_segments:True"}),
        ({}, False, {}),
        ({"PYTORCH_ALLOC_CONF": "backend:native"}, True, {"PYTORCH_ALLOC_CONF": "backend:native"}),
        (
            {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"},
            True,
            {"PYTORCH_CUDA_ALLOC_CONF": "backend:native"},
        ),
    ],
)
def test_processes_on_gpus_extend_their_segments_of_memory_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], use_gpu: bool, expected: dict[str, str]
) -> None:
    for name in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    found = environment_of(1, use_gpu=use_gpu)
    assert {name: found[name] for name in found if name.endswith("_ALLOC_CONF")} == expected
