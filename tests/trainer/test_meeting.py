"""Stages of several nodes meet before their ranks start, as processes on one machine."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from finetune_trainer.train.parent import meeting
from finetune_trainer.train.parent.launch import Topology
from finetune_trainer.train.parent.meeting import is_awaited, meet
from kit.cluster.faults import fault
from kit.processes.stages import Workbench
from kit.servers.ports import free_port

TWO = {
    "hyperparameters": {"maxSteps": 2, "microBatchSize": 2},
    "resources": {"nodes": 2, "strategy": "DDP"},
    "checkpoint": {"everySteps": 2},
}
PLACE: dict[str, Any] = {
    "num_nodes": 2,
    "node_rank": 1,
    "processes_per_node": 1,
    "host": "127.0.0.1",
}


def environment(rank: int, port: int) -> dict[str, str]:
    return {
        "JOB_COMPLETION_INDEX": str(rank),
        "FINETUNE_RENDEZVOUS_HOST": "127.0.0.1",
        "FINETUNE_RENDEZVOUS_PORT": str(port),
        "NCCL_SOCKET_IFNAME": "lo",  # Gloo takes it from there
    }


def test_a_node_whose_peer_never_comes_says_so_and_starts_no_rank(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    node = bench(TWO)
    node.run_to("prepare")
    node.env = {**environment(0, free_port()), **fault("impatience", tmp_path, meeting=3)}
    run = node.run("train")
    assert (run.exit_code, run.termination["failureClass"]) == (75, "Retryable"), run.messages
    assert run.termination["reason"] == "PeersMissing"
    assert "node 1 of 2 did not come within" in run.failure["message"]
    assert not list(node.work.rglob("ranks.log"))


def test_a_node_that_comes_first_waits_for_node_0_and_trains_with_it(
    bench: Callable[..., Workbench], tmp_path: Path
) -> None:
    change = {**TWO, "output": {"uri": f"file://{tmp_path}/out"}}
    first, second = bench(change), bench(change)
    first.run_to("prepare")
    with socket.create_server(("127.0.0.1", 0)) as door:
        door.settimeout(240)
        port = door.getsockname()[1]
        first.env, second.env = environment(0, port), environment(1, port)
        early = second.start("train")
        visitor, _ = door.accept()
        visitor.settimeout(30)
        with visitor, visitor.makefile("rb") as words:
            assert words.readline(256) == f"{second.job().uid} 1\n".encode()
    assert not list(second.work.rglob("ranks.log"))
    late = first.start("train")
    runs = [first.finish(late), second.finish(early)]
    assert [run.exit_code for run in runs] == [0, 0], [run.messages for run in runs]
    assert runs[0].result["sha256"] == runs[1].result["sha256"]
    assert [run.result["step"] for run in runs] == [2, 2]


def test_a_node_that_knocks_at_the_store_of_running_ranks_does_not_disturb_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its pod was replaced, and the ranks of node 0 have not noticed yet."""
    monkeypatch.setattr(meeting, "HELLO_SECONDS", 0.5)
    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    place = Topology(**PLACE, port=store.port)
    assert not is_awaited(place, "uid-1")
    assert meet(place, "uid-1", lambda _: None, is_over=lambda: True) is False
    store.set("key", "value")
    other = TCPStore("127.0.0.1", store.port, is_master=False)
    assert other.get("key") == b"value"
