"""When the parents of a run's nodes start their ranks together, and when they give up."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from finetune_api.protocol.trainer import Environment, Stage, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import RetryableError
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import publish_folder
from finetune_trainer.train.parent import meeting
from finetune_trainer.train.parent.launch import LAUNCH_SECONDS, Topology, launch_command
from finetune_trainer.train.parent.meeting import is_awaited, meet
from finetune_trainer.train.parent.storing import wait_for_adapter

MINUTE = 60.0


class Nodes:
    """The parents of a run on this machine, each in a thread, with a clock that tests move."""

    def __init__(self, num_nodes: int) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.num_nodes = num_nodes
        self.now = 0.0
        self.is_over = False
        self.said: list[str] = []
        self._waits = threading.Event()
        self._pool = ThreadPoolExecutor(8)
        MADE.append(self)

    def place(self, rank: int) -> Topology:
        return Topology(
            num_nodes=self.num_nodes,
            node_rank=rank,
            processes_per_node=1,
            host="127.0.0.1",
            port=self.port,
        )

    def start(self, rank: int) -> Future[bool]:
        return self._pool.submit(
            meet,
            self.place(rank),
            "uid-1",
            self._say,
            is_over=lambda: self.is_over,
            clock=lambda: self.now,
        )

    def start_alone(self, rank: int) -> Future[bool]:
        """Start a node, and return once it says that it waits."""
        started = self.start(rank)
        assert self._waits.wait(30)
        return started

    def pass_minutes(self, minutes: float) -> None:
        """Let so much time pass that somebody says again that it waits."""
        self._waits.clear()
        self.now += minutes * MINUTE
        assert self._waits.wait(30)

    def _say(self, words: str) -> None:
        self.said.append(words)
        self._waits.set()


MADE: list[Nodes] = []


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(meeting, "RETRY_SECONDS", 0.02)
    yield
    while MADE:
        MADE.pop().now = 1e9  # whoever still waits gives up


@pytest.mark.parametrize("first", [0, 1])
@pytest.mark.parametrize("minutes", [15, 59])
def test_two_nodes_that_start_far_apart_meet(first: int, minutes: int) -> None:
    nodes = Nodes(2)
    early = nodes.start_alone(first)
    nodes.pass_minutes(minutes)
    assert not early.done()
    late = nodes.start(1 - first)
    assert [early.result(30), late.result(30)] == [True, True]
    assert any(f"({minutes} minutes so far)" in words for words in nodes.said)
    # The port is free for the store of the ranks.
    socket.create_server(("127.0.0.1", nodes.port)).close()


def test_launchers_wait_only_minutes_for_each_other_after_the_meeting(tmp_path: Path) -> None:
    place = Topology(num_nodes=2, node_rank=1, processes_per_node=8, host="a", port=29500)
    command = launch_command(place, tmp_path / "plan.json")
    assert command[command.index("--rdzv_conf") + 1] == f"timeout={LAUNCH_SECONDS}"


def test_nobody_starts_before_the_last_has_come() -> None:
    nodes = Nodes(3)
    early = [nodes.start_alone(0), nodes.start(2)]
    nodes.pass_minutes(10)
    assert not any(each.done() for each in early)
    for each in (nodes.start(1), *early):
        each.result(30)


@pytest.mark.parametrize("rank", [0, 1])
def test_a_node_that_waits_an_hour_in_vain_ends_and_is_retried(rank: int) -> None:
    nodes = Nodes(2)
    alone = nodes.start_alone(rank)
    nodes.now = 60 * MINUTE
    with pytest.raises(RetryableError) as ended:
        alone.result(30)
    assert ended.value.reason == "PeersMissing"
    assert f"node {1 - rank}" in ended.value.message
    assert "60 minutes" in ended.value.message


def connect(port: int, words: bytes) -> socket.socket:
    peer = socket.create_connection(("127.0.0.1", port), timeout=30)
    peer.sendall(words)
    return peer


def is_welcome(peer: socket.socket) -> bool:
    return peer.recv(16) == b"waiting\n"


def test_a_node_that_left_is_waited_for_again() -> None:
    nodes = Nodes(3)
    first = nodes.start_alone(0)
    connect(nodes.port, b"uid-1 1\n").close()
    second = nodes.start(2)
    nodes.pass_minutes(10)
    assert not first.done()
    assert not second.done()
    for each in (nodes.start(1), first, second):
        each.result(30)


@pytest.mark.parametrize("words", [b"uid-2 1\n", b"uid-1 0\n", b"uid-1 7\n", b"GET / HTTP/1.1\n"])
def test_strangers_and_nodes_of_other_runs_are_turned_away(words: bytes) -> None:
    nodes = Nodes(2)
    first = nodes.start_alone(0)
    with connect(nodes.port, words) as stranger:
        is_welcome(stranger)
        assert stranger.recv(16) == b""
    assert not first.done()
    nodes.start(1).result(30)
    first.result(30)


def test_the_pod_that_replaces_a_node_takes_its_place() -> None:
    nodes = Nodes(3)
    first = nodes.start_alone(0)
    with connect(nodes.port, b"uid-1 1\n") as old, connect(nodes.port, b"uid-1 1\n") as new:
        assert is_welcome(old)
        assert is_welcome(new)
        assert old.recv(16) == b""
        nodes.start(2).result(30)
        assert new.recv(16) == b"start\n"
    first.result(30)


def test_a_node_that_comes_back_when_the_run_is_over_starts_no_ranks() -> None:
    nodes = Nodes(2)
    late = nodes.start_alone(1)
    assert not late.done()
    nodes.is_over = True
    assert late.result(30) is False


def test_nodes_can_ask_whether_node_0_waits_without_taking_part() -> None:
    nodes = Nodes(2)
    assert not is_awaited(nodes.place(1), "uid-1")
    first = nodes.start_alone(0)
    assert is_awaited(nodes.place(1), "uid-1")
    assert not is_awaited(nodes.place(1), "uid-2")
    assert not first.done()
    nodes.start(1).result(30)
    first.result(30)


def test_a_node_whose_ranks_have_ended_comes_back_to_node_0_that_has_begun_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = Nodes(2)
    storage = make_storage(tmp_path, nodes.port, monkeypatch)
    nodes.start_alone(0)
    with pytest.raises(RetryableError, match="node 0 began anew") as ended:
        wait_for_adapter(storage, Workspace(folder=tmp_path / "work"), "adapter")
    assert ended.value.reason == "PeerLost"


def test_only_node_0_has_the_adapter_on_its_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    storage = make_storage(tmp_path, 9, monkeypatch)
    trained, work = tmp_path / "trained", Workspace(folder=tmp_path / "work")
    trained.mkdir()
    (trained / "adapter_model.safetensors").write_bytes(b"weights")
    (trained / "run.json").write_text(json.dumps(RECORD))
    publish_folder(storage.output, "adapter", trained, created_by="test", inputs={})
    result = wait_for_adapter(storage, work, "adapter")
    assert (result.step, result.num_bytes) == (7, len(b"weights"))
    assert [path.name for path in (work.folder / "adapter").iterdir()] == ["run.json"]


def test_one_node_meets_nobody() -> None:
    nodes = Nodes(1)
    nodes.start(0).result(30)
    assert nodes.said == []


RECORD: dict[str, Any] = {
    "step": 7, "metrics": {}, "recipe": {}, "resumedFromStep": 0, "numTrainableParameters": 1,
}  # fmt: skip


def make_storage(folder: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> RunStorage:
    """Return the storage of a run of two nodes, on node 1."""
    for name, value in (
        (Environment.NODE_RANK, "1"),
        (Environment.RENDEZVOUS_HOST, "127.0.0.1"),
        (Environment.RENDEZVOUS_PORT, str(port)),
    ):
        monkeypatch.setenv(name, value)
    spec = {
        "model": {"uri": "file:///m"},
        "dataset": {"sources": [{"uri": "file:///d"}]},
        "output": {"uri": f"file://{folder / 'out'}"},
        "resources": {"nodes": 2, "gpusPerNode": 1},
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "two"}, "spec": spec})
    return RunStorage(
        job=resolve_job(job, namespace="n", uid="uid-1"), stage=Stage.TRAIN, say=lambda _: None
    )
