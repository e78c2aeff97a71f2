"""Starts the ranks of this node and waits for their end: several through ``accelerate launch``."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import Environment, ExitCode
from finetune_trainer.errors import (
    Hang,
    InternalError,
    OutOfMemory,
    RetryableError,
    Stopped,
    TrainerError,
)
from finetune_trainer.failures import failure_of_record, read_record
from finetune_trainer.process import die_with_parent, environment_of, num_oom_kills, read_tail
from finetune_trainer.stopping import deadline, on_stop
from finetune_trainer.train.parent.beats import Phase, dump_stacks, read_beats
from finetune_trainer.train.parent.interfaces import gloo_interface
from finetune_trainer.train.parent.watchdog import Limits, find_blame, is_hung

POLL_SECONDS = 1.0
LAUNCH_SECONDS = 600
"""How long the launchers of nodes wait for each other; their parents have met already."""
STOP_FLAG = "stop"
"""File in the control folder that asks the ranks to stop; see ``StopRequest``."""
RECIPE_NAME = "recipe.json"
"""File in the control folder that the ranks leave their recipe in."""

_WORKER = "finetune_trainer.train.ranks.worker"

_KILLED = re.compile(r"SIGKILL|exitcode\s*:\s*-9\b|Signal 9\b")
"""torchrun's message about a killed rank."""

_PEER_LOST = re.compile(
    r"Connection (closed|reset) by peer|Broken pipe|DistNetworkError|DistStoreError"
    r"|ncclRemoteError|ncclSystemError|NCCL communicator was aborted|remote process exited"
    r"|Watchdog caught collective operation timeout"
)
"""Messages of gloo, the rendezvous store and NCCL when another rank is gone.

Source: torch/csrc/distributed/c10d.
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Topology:
    """The node's place among the nodes of a run, and the interface of Gloo; empty: its default."""

    num_nodes: int
    node_rank: int
    processes_per_node: int
    host: str
    port: int
    interface: str = ""


def read_topology(num_nodes: int, processes_per_node: int) -> Topology:
    """Read the node's place from the environment of an Indexed Job.

    A run of one node needs no variables. A local run keeps all ranks on one node.

    Raises:
        RetryableError: The pod has no network interface that its variables name.
    """
    host = os.environ.get(Environment.RENDEZVOUS_HOST)
    interface = gloo_interface(os.environ) if num_nodes * processes_per_node > 1 else ""
    if num_nodes == 1 or host is None:
        return Topology(
            num_nodes=1,
            node_rank=0,
            processes_per_node=processes_per_node * num_nodes,
            host="127.0.0.1",
            port=_free_port(),
            interface=interface,
        )
    return Topology(
        num_nodes=num_nodes,
        node_rank=int(os.environ.get(Environment.NODE_RANK) or 0),
        processes_per_node=processes_per_node,
        host=host,
        port=int(os.environ.get(Environment.RENDEZVOUS_PORT) or 29500),
        interface=interface,
    )


def launch_command(topology: Topology, plan: Path) -> list[str]:
    """Return the command that starts this node's ranks.

    One rank starts without a launcher, which saves five seconds.
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
    command += ["--rdzv_conf", f"timeout={LAUNCH_SECONDS}"]
    return [*command, "--module", _WORKER, str(plan)]


def run_ranks(
    topology: Topology, plan: Path, control_dir: Path, *, use_gpu: bool, limits: Limits
) -> dict[str, Any]:
    """Run this node's ranks to their end; return rank 0's ``outcome.json``, else an empty one.

    Args:
        topology: Place of this node.
        plan: The plan of the ranks.
        control_dir: Folder that ranks and parent share.
        use_gpu: Ranks run on GPUs.
        limits: How long they may be without a step.

    Raises:
        TrainerError: As the failing rank classified it; RetryableError when peers vanished.
    """
    oom_before = num_oom_kills()
    with (control_dir / "ranks.log").open("w") as log:
        process = subprocess.Popen(
            launch_command(topology, plan),
            env=_environment(topology, control_dir, use_gpu=use_gpu),
            stderr=log,
            start_new_session=True,
            preexec_fn=die_with_parent,
        )
        try:
            with on_stop(
                "stopped on request; the time was over before the ranks had saved, the next "
                "attempt resumes at the checkpoint before. Raise "
                "podTemplate.terminationGracePeriodSeconds",
                reason="StoppedWithoutSave",
                act=lambda: ask_ranks_to_stop(control_dir),
            ):
                exit_code = watch_ranks(
                    process, control_dir, limits, has_other_nodes=topology.num_nodes > 1
                )
                if exit_code:
                    raise _failure_of(
                        control_dir, exit_code, oom_killed=num_oom_kills() > oom_before
                    )
        except TrainerError as error:
            error.step = max((b.step for b in read_beats(control_dir)), default=0) or None  # type: ignore[attr-defined]
            raise
        finally:
            _kill(process)
    outcome = control_dir / "outcome.json"
    return json.loads(outcome.read_text()) if outcome.exists() else {}


def _environment(topology: Topology, control_dir: Path, *, use_gpu: bool) -> dict[str, str]:
    environment = environment_of(topology.processes_per_node, use_gpu=use_gpu)
    environment["ACCELERATE_MIXED_PRECISION"] = "no"
    environment.setdefault("HF_DATASETS_CACHE", str(control_dir / "datasets"))
    if topology.interface:
        environment["GLOO_SOCKET_IFNAME"] = topology.interface
    if use_gpu and topology.num_nodes * topology.processes_per_node == 1:
        # transformers would spread the model over all GPUs that a single rank sees.
        visible = environment.get("CUDA_VISIBLE_DEVICES", "0")
        environment["CUDA_VISIBLE_DEVICES"] = visible.partition(",")[0]
    if not use_gpu:
        environment["ACCELERATE_USE_CPU"] = "true"
        environment.setdefault("DS_ACCELERATOR", "cpu")
        environment.setdefault("CUDA_VISIBLE_DEVICES", "")
    # A virtual environment's tools (ninja, for operations built on GPUs) are not on PATH by itself.
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment.get('PATH', '')}"
    return environment


def watch_ranks(
    process: subprocess.Popen[bytes], control_dir: Path, limits: Limits, *, has_other_nodes: bool
) -> int:
    """Wait for the end of the ranks; return the exit code of their launcher.

    Raises:
        Hang: No rank makes steps; their stacks are in the control folder.
        Stopped: A stop came before the first step.
    """
    started = time.monotonic()
    while True:
        with suppress(subprocess.TimeoutExpired):
            return process.wait(timeout=POLL_SECONDS)
        beats, now = read_beats(control_dir), time.monotonic()
        if (control_dir / STOP_FLAG).exists() and all(b.phase is Phase.STARTING for b in beats):
            raise Stopped(
                "StoppedBeforeTraining",
                "stopped on request before the first step; there was nothing to save, the next "
                "attempt begins at the same step",
            )
        if is_hung(beats, limits, now=now, started=started):
            stacks = dump_stacks(control_dir, beats)
            blame = find_blame(beats, stacks, limits, now=now, has_other_nodes=has_other_nodes)
            reason = "CollectiveHung" if blame.rank is None else "RankHung"
            error = Hang(reason, blame.message)
            error.rank = blame.rank  # type: ignore[attr-defined]
            raise error


def ask_ranks_to_stop(control_dir: Path) -> None:
    """Request all ranks to save and stop at the same step, with a deadline."""
    until = deadline()
    path = control_dir / f"{STOP_FLAG}.new"
    path.write_text("" if until is None else repr(until))
    path.rename(control_dir / STOP_FLAG)


def _kill(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _failure_of(control_dir: Path, exit_code: int, *, oom_killed: bool) -> TrainerError:
    found = [read_record(path) for path in sorted(control_dir.glob("failure-*.json"))]
    records = [record for record in found if record is not None]
    # A rank that failed on its own says more than one that lost its peer.
    records.sort(key=lambda r: (r["lost_peer"], r["exit_code"] == ExitCode.STOPPED, r["rank"]))
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
        f"the training processes ended with exit code {exit_code}, and no rank left a reason",
    )


def lost_peer(message: str) -> bool:
    """Return whether these are the words of a rank that lost another one."""
    return _PEER_LOST.search(message) is not None


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])
