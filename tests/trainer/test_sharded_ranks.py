"""Ranks that share the weights by FSDP2 train as plain TRL does in one process."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import transformers

from finetune_trainer.planning.setup import Setup
from finetune_trainer.train.parent.meeting import MEETING_SECONDS
from finetune_trainer.train.ranks.sharding import share_timeout
from kit.models.measured_trainer import Case, make_trainer
from kit.models.sharded_ranks import SIZE
from kit.processes.ranks import run_ranks

MODULE = "kit.models.sharded_ranks"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a rank of two shows, and plain TRL."""
    folder = str(tmp_path_factory.mktemp("ranks"))
    first, second = run_ranks(MODULE, folder)
    assert first["losses"] == second["losses"]
    (plain,) = run_ranks(MODULE, folder, num_ranks=1)
    return {**first, "plain": plain}


def test_gradients_are_shared_out_after_every_micro_batch(trained: dict[str, Any]) -> None:
    assert trained["held"] == pytest.approx(0.5, abs=0.05)
    assert trained["types"] == ["torch.float32"]


def test_norms_are_those_of_plain_trl(trained: dict[str, Any]) -> None:
    assert trained["norms"] == pytest.approx(trained["plain"]["norms"], rel=5e-3)


def test_losses_are_those_of_plain_trl(trained: dict[str, Any]) -> None:
    assert trained["losses"] == pytest.approx(trained["plain"]["losses"], abs=1e-3)


def test_gradients_are_summed_over_ranks_in_float32(trained: dict[str, Any]) -> None:
    # Half of the sums of two numbers of eight bits have eight bits.
    assert trained["narrow"] < 0.7


@pytest.mark.filterwarnings("ignore")  # libraries, on models smaller than they expect
def test_ranks_wait_for_one_that_reads_as_long_as_nodes_wait_for_each_other(tmp_path: Path) -> None:
    base = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZE))
    case = Case(family="llama", rows=2, length=8, setup=Setup(use_gpu=False, rank=2))
    trainer = make_trainer(case, base, tmp_path)
    assert trainer.args.ddp_timeout_delta.total_seconds() >= MEETING_SECONDS


def test_groups_of_a_mesh_wait_as_long_as_the_group_of_all_ranks() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        groups = [dist.group.WORLD, dist.new_group()]
        share_timeout(timedelta(hours=1))
        backends = [group._get_backend(torch.device("cpu")) for group in groups]
        assert [each.options._timeout for each in backends] == [timedelta(hours=1)] * 2
    finally:
        dist.destroy_process_group()
