"""A run that asks for RDMA and gets TCP sockets says so after its first step."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from finetune_trainer.train.ranks.callbacks.network import NetworkCheck

pytestmark = pytest.mark.slow  # it needs transformers

RDMA = {"NCCL_IB_HCA": "=mlx5_0"}
SOCKETS = "node:7:9 [0] NCCL INFO Assigned NET plugin Socket to comm\n"
VERBS = "node:7:9 [0] NCCL INFO Assigned NET plugin IB to comm\n"
UNOPENED = "node:7:9 [0] NCCL INFO Failed to open libibverbs.so[.1]\n"


def check(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    *,
    log: str,
    num_nodes: int = 2,
    use_gpu: bool = True,
    environment: dict[str, str] = RDMA,
) -> list[str]:
    monkeypatch.setattr(os, "environ", dict(environment))
    told: list[str] = []
    plan = cast(Any, SimpleNamespace(use_gpu=use_gpu, control_dir=str(folder)))
    watch = NetworkCheck(plan, num_nodes, told.append)
    if "NCCL_DEBUG_FILE" in os.environ:
        Path(os.environ["NCCL_DEBUG_FILE"]).write_text(log)
    for _ in range(2):
        watch.on_step_end(cast(Any, None), cast(Any, None), cast(Any, None))
    return told


@pytest.mark.parametrize("log", [SOCKETS, UNOPENED + 2 * SOCKETS, "NCCL INFO Using network Socket"])
def test_sockets_in_place_of_rdma_are_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str
) -> None:
    (warning,) = check(tmp_path, monkeypatch, log=log)
    assert warning.startswith("warning: resources.network.rdmaDevices names mlx5_0")


@pytest.mark.parametrize(
    ("log", "change"),
    [
        (VERBS, {}),
        ("", {}),
        (SOCKETS, {"num_nodes": 1}),
        (SOCKETS, {"use_gpu": False}),
        (SOCKETS, {"environment": {}}),
        (SOCKETS, {"environment": {**RDMA, "NCCL_DEBUG": "INFO"}}),
    ],
    ids=["rdma", "no communicator", "one node", "gloo", "nothing asked", "own log"],
)
def test_nothing_else_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, log: str, change: dict[str, Any]
) -> None:
    assert check(tmp_path, monkeypatch, log=log, **change) == []
