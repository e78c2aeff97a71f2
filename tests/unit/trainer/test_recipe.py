"""Every ``auto`` has a rule; the global batch never depends on the world size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from finetune_api.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.train.recipe import (
    DataShape,
    ModelShape,
    Recipe,
    check_settings,
    decide_global_batch,
    decide_learning_rate,
    decide_micro_batch,
    decide_recipe,
)

GIB = 2**30
SMALL = ModelShape(num_parameters=135_000_000, hidden_size=576, num_layers=30)
LARGE = ModelShape(num_parameters=8_000_000_000, hidden_size=4096, num_layers=32)
CPU = Hardware(num_gpus=0, memory_bytes=24 * GIB, supports_bfloat16=True, num_cpus=2)
GPU = Hardware(num_gpus=8, memory_bytes=80 * GIB, supports_bfloat16=True, num_cpus=64)
ROWS = DataShape(num_rows=480, num_tokens=24_000, mean_tokens=50, longest_tokens=80)


def job(change: dict[str, Any] | None = None) -> ResolvedJob:
    spec: dict[str, Any] = {
        "model": {"uri": "hf://a/b"},
        "dataset": {"sources": [{"uri": "file:///x"}]},
        "output": {"uri": "file:///y"},
        "resources": {"gpusPerNode": 0},
    }
    spec |= change or {}
    body = {"metadata": {"name": "job"}, "spec": spec}
    return resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")


def decide(change: dict[str, Any] | None = None, **replaced: Any) -> Recipe:
    values: dict[str, Any] = {"data": ROWS, "model": SMALL, "hardware": CPU, "use_gpu": False}
    values |= replaced
    return decide_recipe(
        job(change), values["data"], values["model"], values["hardware"], use_gpu=values["use_gpu"]
    )


def test_defaults_on_a_small_machine() -> None:
    recipe = decide()
    assert (recipe.global_batch_size, recipe.accumulation_steps, recipe.world_size) == (8, 1, 1)
    assert recipe.strategy == "DDP"
    assert recipe.bfloat16
    assert recipe.padding_free
    assert not recipe.activation_checkpointing
    assert recipe.total_steps == 180


@pytest.mark.parametrize("gpus", [1, 2, 4, 8])
def test_global_batch_is_the_product_and_the_same_for_every_world_size(gpus: int) -> None:
    change = {"resources": {"gpusPerNode": gpus}, "hyperparameters": {"globalBatchSize": 32}}
    recipe = decide(change, hardware=GPU, use_gpu=True)
    product = recipe.micro_batch_size * recipe.accumulation_steps * recipe.world_size
    assert product == recipe.global_batch_size == 32


@given(
    world=st.integers(1, 64), rows=st.integers(1, 1_000_000), longest=st.integers(1, 200_000),
    budget=st.integers(1, 100_000),
)  # fmt: skip
def test_automatic_batches_always_divide(world: int, rows: int, longest: int, budget: int) -> None:
    size = decide_global_batch("auto", rows, world)
    assert size % world == 0
    micro = decide_micro_batch("auto", size // world, longest=longest, budget=budget)
    assert (size // world) % micro == 0
    assert micro == 1 or micro * longest <= budget


def test_batch_that_does_not_divide_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"10 does not divide over 4 ranks.*8 or 12"):
        decide_global_batch(10, 100, 4)


@pytest.mark.parametrize(
    ("model", "steps", "full", "rate"),
    [
        (SMALL, 50, False, 2e-3),
        (SMALL, 500, False, 1.3e-3),
        (LARGE, 500, False, 2.9e-4),
        (LARGE, 500, True, 2.9e-5),
    ],
)
def test_learning_rate_rule(model: ModelShape, steps: int, full: bool, rate: float) -> None:
    assert decide_learning_rate("auto", model, steps, full=full) == pytest.approx(rate, rel=0.05)
    assert decide_learning_rate("3e-4", model, steps, full=full) == 3e-4


def test_packed_rows_are_as_long_as_a_row_may_be() -> None:
    change = {"method": {"packing": "On"}, "hyperparameters": {"maxSequenceLength": 8192}}
    packed = decide(change, hardware=GPU, use_gpu=True, model=LARGE)
    padded = decide(hardware=GPU, use_gpu=True, model=LARGE)
    assert packed.micro_batch_size * 8192 <= 16384
    assert packed.estimated_memory_bytes > padded.estimated_memory_bytes


def test_the_estimate_is_that_of_what_runs() -> None:
    change = {"hyperparameters": {"activationCheckpointing": "On"}}
    assert decide(change).estimated_memory_bytes < decide().estimated_memory_bytes


def test_checkpointing_only_when_memory_asks_for_it() -> None:
    small = Hardware(num_gpus=1, memory_bytes=20 * GIB, supports_bfloat16=True, num_cpus=8)
    long = DataShape(num_rows=1000, num_tokens=10**6, mean_tokens=1000, longest_tokens=1024)
    change = {"resources": {"gpusPerNode": 1}}
    roomy = decide(change, model=LARGE, data=long, hardware=GPU, use_gpu=True)
    tight = decide(change, model=LARGE, data=long, hardware=small, use_gpu=True)
    assert not roomy.activation_checkpointing
    assert tight.activation_checkpointing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"resources": {"gpusPerNode": 2, "strategy": "FSDP2"}}, "StrategyUnsupported"),
        ({"hyperparameters": {"precision": "BFloat16"}}, "PrecisionUnsupported"),
        ({"hyperparameters": {"microBatchSize": 3}}, "InvalidMicroBatchSize"),
    ],
)
def test_contradictions_are_user_errors(change: dict[str, Any], reason: str) -> None:
    old = Hardware(num_gpus=0, memory_bytes=24 * GIB, supports_bfloat16=False, num_cpus=2)
    with pytest.raises(UserError) as caught:
        decide(change, hardware=old)
    assert caught.value.reason == reason


def test_base_too_large_for_one_gpu_is_sharded() -> None:
    huge = ModelShape(num_parameters=70_000_000_000, hidden_size=8192, num_layers=80)
    recipe = decide({"resources": {"gpusPerNode": 8}}, model=huge, hardware=GPU, use_gpu=True)
    assert recipe.strategy == "FSDP2"


@pytest.mark.parametrize("strategy", ["ZeRO2", "ZeRO3"])
def test_zero_on_cpu_computes_in_float32(strategy: str) -> None:
    recipe = decide({"resources": {"gpusPerNode": 2, "strategy": strategy}})
    assert (recipe.strategy, recipe.bfloat16) == (strategy, False)


def test_one_rank_has_nothing_to_share() -> None:
    recipe = decide({"resources": {"gpusPerNode": 1, "strategy": "ZeRO3"}})
    assert (recipe.strategy, recipe.bfloat16) == ("DDP", True)


@given(
    strategy=st.sampled_from(["Auto", "DDP", "FSDP2", "ZeRO2", "ZeRO3"]),
    precision=st.sampled_from(["Auto", "BFloat16", "Float32"]),
    gpus=st.integers(0, 4),
    global_batch=st.one_of(st.just("auto"), st.integers(1, 12)),
    micro_batch=st.one_of(st.just("auto"), st.integers(1, 12)),
    use_gpu=st.booleans(),
    can_bfloat16=st.booleans(),
)
def test_settings_are_refused_before_the_ranks_start_exactly_when_a_rank_would_refuse_them(
    strategy: str, precision: str, gpus: int, global_batch: int | str, micro_batch: int | str,
    use_gpu: bool, can_bfloat16: bool,
) -> None:  # fmt: skip
    assume(strategy != "FSDP2" or gpus)  # the API refuses it
    asked = {
        "resources": {"gpusPerNode": gpus, "strategy": strategy},
        "hyperparameters": {
            "precision": precision,
            "globalBatchSize": global_batch,
            "microBatchSize": micro_batch,
        },
    }
    hardware = Hardware(
        num_gpus=4 * use_gpu, memory_bytes=80 * GIB, supports_bfloat16=can_bfloat16, num_cpus=8
    )

    def words(check: Callable[[], object]) -> str | None:
        try:
            check()
        except UserError as error:
            return error.message
        return None

    late = words(lambda: decide(asked, hardware=hardware, use_gpu=use_gpu))
    early = words(
        lambda: check_settings(job(asked), hardware, num_rows=ROWS.num_rows, use_gpu=use_gpu)
    )
    assert early == late


def test_zero_on_the_cpu_of_a_host_with_gpus_computes_in_float32() -> None:
    asked = {"resources": {"gpusPerNode": 2, "strategy": "ZeRO2"}}
    assert not decide(asked, hardware=GPU, use_gpu=False).bfloat16
    assert decide(asked, hardware=GPU, use_gpu=True).bfloat16
