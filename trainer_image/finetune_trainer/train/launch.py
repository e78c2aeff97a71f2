"""Starts the ranks of this node and waits for their end: several through ``accelerate launch``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.trainer import Environment, ExitCode
from finetune_trainer.errors import InternalError, OutOfMemory, RetryableError, TrainerError
from finetune_trainer.failures import failure_of_record
from finetune_trainer.process import (
    die_with_parent,
    handling_stop_signals,
    num_oom_kills,
    read_tail,
    threads_per_process,
)

_WORKER = "finetune_trainer.train.ranks.worker"

_KILLED = re.compile(r"SIGKILL|exitcode\s*:\s*-9\b|Signal 9\b")
"""How torchrun tells that a rank was killed."""

_PEER_LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|DistNetworkError|DistStoreError"
    r"|ncclRemoteError|ncclSystemError|NCCL communicator was aborted|remote process exited"
    r"|Watchdog caught collective operation timeout"
)
"""What gloo, the rendezvous store and NCCL say when another rank is gone.

Source: torch/csrc/distributed/c10d (ProcessGroupNCCL.cpp, NCCLUtils.cpp, TCPStore.cpp).
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """Where this node stands among the nodes of a run."""

    num_nodes: int
    node_rank: int
    processes_per_node: int
    host: str
    port: int


def read_topology(num_nodes: int, processes_per_node: int) -> Topology:
    """Read the node's place from the environment of an Indexed Job.

    A run of one node needs none of it. Locally, all ranks of a run of several nodes live on one.

    Raises:
        UserError: Several nodes, but no rendezvous host.
    """
    host = os.environ.get(Environment.RENDEZVOUS_HOST)
    if num_nodes == 1 or host is None:
        return Topology(
            num_nodes=1,
            node_rank=0,
            processes_per_node=processes_per_node * num_nodes,
            host="127.0.0.1",
            port=_free_port(),
        )
    return Topology(
        num_nodes=num_nodes,
        node_rank=int(os.environ.get(Environment.NODE_RANK) or 0),
        processes_per_node=processes_per_node,
        host=host,
        port=int(os.environ.get(Environment.RENDEZVOUS_PORT) or 29500),
    )


def launch_command(topology: Topology, plan: Path) -> list[str]:
    """Return the command that starts this node's ranks.

    One rank needs no launcher, which would load torch only to start it: five seconds of every run.
    """
    total = topology.num_nodes * topology.processes_per_node
    if total == 1:
        return [sys.executable, "-m", _WORKER, str(plan)]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    command += ["--num_processes", str(total), "--num_machines", str(topology.num_nodes)]
    # The flag selects torchrun; ranks without a GPU then meet over gloo.
    command += ["--multi_gpu", "--machine_rank", str(topology.node_rank)]
    command += ["--main_process_ip", topology.host, "--main_process_port", str(topology.port)]
    command += ["--rdzv_backend", "static", "--max_restarts", "0"]
    return [*command, "--module", _WORKER, str(plan)]


def run_ranks(
    topology: Topology, plan: Path, control_dir: Path, *, use_gpu: bool
) -> dict[str, Any]:
    """Run this node's ranks to their end.

    Returns:
        What rank 0 left in ``outcome.json``; empty on other nodes.

    Raises:
        TrainerError: As the failing rank classified it; RetryableError when peers vanished.
    """
    environment = dict(os.environ)
    environment["OMP_NUM_THREADS"] = str(threads_per_process(topology.processes_per_node))
    environment["ACCELERATE_MIXED_PRECISION"] = "no"
    environment.setdefault("PYTHONHASHSEED", "0")
    environment.setdefault("HF_HUB_OFFLINE", "1")
    environment.setdefault("HF_DATASETS_CACHE", str(control_dir / "datasets"))
    if not use_gpu:
        environment["ACCELERATE_USE_CPU"] = "true"
        environment.setdefault("DS_ACCELERATOR", "cpu")
        environment.setdefault("CUDA_VISIBLE_DEVICES", "")
    # A virtual environment's tools (ninja, for operations built on GPUs) are not on PATH by itself.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    oom_before = num_oom_kills()
    with (control_dir / "ranks.log").open("w") as log:
        process = subprocess.Popen(
            launch_command(topology, plan),
            env=environment,
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        with _stop_on_signal(control_dir, process):
            exit_code = process.wait()
    outcome = control_dir / "outcome.json"
    if exit_code == 0:
        return json.loads(outcome.read_text()) if outcome.exists() else {}
    raise _failure_of(control_dir, exit_code, oom_killed=num_oom_kills() > oom_before)


def _failure_of(control_dir: Path, exit_code: int, *, oom_killed: bool) -> TrainerError:
    records = [json.loads(path.read_text()) for path in sorted(control_dir.glob("failure-*.json"))]
    # A rank that failed on its own says more than one that lost its peer.
    records.sort(
        key=lambda r: (
            r["lost_peer"],
            r["exit_code"] == ExitCode.STOPPED,
            r["rank"],
        )
    )
    if oom_killed:
        return OutOfMemory(
            "HostOutOfMemory",
            "a training process was killed by the kernel for lack of memory; raise "
            "resources.memory or lower hyperparameters.microBatchSize",
        )
    if records:
        record = records[0]
        if record["lost_peer"]:
            return RetryableError(
                "PeerLost",
                f"rank {record['rank']} lost contact with another rank ({record['message']})",
            )
        error = failure_of_record(record)
        error.rank = record["rank"]  # type: ignore[attr-defined]
        return error
    tail = read_tail(control_dir / "ranks.log")
    if exit_code in (-signal.SIGKILL, 137) or _KILLED.search(tail):
        return RetryableError(
            "RankKilled",
            "a training process was killed (SIGKILL) without a word: the host ran out of memory, "
            "or someone killed it; the next attempt resumes at the last checkpoint",
        )
    if lost_peer(tail):  # NCCL's watchdog aborts the process, which then leaves no record
        return RetryableError("PeerLost", "a rank lost contact with another rank")
    return InternalError(
        "RanksFailed",
        f"accelerate launch ended with exit code {exit_code}, and no rank left a reason",
    )


def lost_peer(message: str) -> bool:
    """Return whether these are the words of a rank that lost another one."""
    return _PEER_LOST.search(message) is not None


@contextmanager
def _stop_on_signal(control_dir: Path, process: subprocess.Popen[bytes]) -> Iterator[None]:
    # The flag, not the signal, stops the ranks: all must save at the same step.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    try:
        with handling_stop_signals(lambda _number: (control_dir / "stop").touch()):
            yield
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
