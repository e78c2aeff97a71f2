"""Every ``auto`` has a rule; the global batch never depends on the world size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from finetune_api.protocol.trainer import ResolvedJob, resolve_job
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.planning.architecture import Architecture, describe_architecture
from finetune_trainer.planning.fit import COMFORT, Asked, Lengths, find_fit, largest_batch
from finetune_trainer.planning.memory import estimate_training
from finetune_trainer.planning.setup import Setup
from finetune_trainer.planning.throughput import tokens_per_second
from finetune_trainer.train.recipe.batches import decide_global_batch
from finetune_trainer.train.recipe.learning_rate import decide_learning_rate
from finetune_trainer.train.recipe.planned import describe_plan, explain
from finetune_trainer.train.recipe.recipe import (
    DataShape,
    Recipe,
    check_settings,
    decide_recipe,
    find_warnings,
)

GIB = 2**30


def llama(hidden: int, layers: int, intermediate: int, *, heads: int, kv: int) -> Architecture:
    return describe_architecture(
        {
            "model_type": "llama",
            "hidden_size": hidden,
            "num_hidden_layers": layers,
            "intermediate_size": intermediate,
            "num_attention_heads": heads,
            "num_key_value_heads": kv,
            "vocab_size": 49_152 if hidden < 1024 else 128_256,
            "tie_word_embeddings": hidden < 1024,
        },
        {},
    )


SMALL = llama(576, 30, 1536, heads=9, kv=3)
LARGE = llama(4096, 32, 14336, heads=32, kv=8)
HUGE = llama(8192, 80, 28672, heads=64, kv=8)
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


def is_accepted(change: dict[str, Any]) -> bool:
    """Whether the API takes such a job at all."""
    try:
        job(change)
    except ValidationError:
        return False
    return True


def decide(change: dict[str, Any] | None = None, **replaced: Any) -> Recipe:
    values: dict[str, Any] = {"data": ROWS, "model": SMALL, "hardware": CPU, "use_gpu": False}
    values |= replaced
    data, model, hardware = (values.pop(name) for name in ("data", "model", "hardware"))
    return decide_recipe(job(change), data, model, hardware, **values)


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


@pytest.mark.slow
@given(
    world=st.sampled_from([1, 2, 3, 8, 64]), rows=st.integers(1, 1_000_000),
    longest=st.integers(1, 4096), use_gpu=st.booleans(), memory=st.integers(6, 80),
)  # fmt: skip
def test_automatic_batches_always_divide_and_fit(
    world: int, rows: int, longest: int, use_gpu: bool, memory: int
) -> None:
    data = DataShape(
        num_rows=rows, num_tokens=rows * longest, mean_tokens=longest, longest_tokens=longest
    )
    hardware = Hardware(
        num_gpus=world * use_gpu, memory_bytes=memory * GIB * (1 if use_gpu else world),
        supports_bfloat16=True, num_cpus=8,
    )  # fmt: skip
    limit = {"hyperparameters": {"maxSequenceLength": 4096}, "resources": {"gpusPerNode": world}}
    recipe = decide(limit, data=data, hardware=hardware, use_gpu=use_gpu)
    product = recipe.micro_batch_size * recipe.accumulation_steps * recipe.world_size
    assert product == recipe.global_batch_size
    if recipe.micro_batch_size > 1:
        assert recipe.micro_batch_size * longest <= (16384 if use_gpu else 2048)
        assert recipe.estimated_memory_bytes <= hardware.memory_bytes


def test_a_batch_left_to_us_is_a_multiple_of_the_micro_batch_asked_for() -> None:
    recipe = decide({"hyperparameters": {"microBatchSize": 3}, "resources": {"nodes": 2}})
    assert (recipe.global_batch_size, recipe.micro_batch_size) == (12, 3)
    assert recipe.accumulation_steps == 2


def test_batch_that_does_not_divide_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"10 does not divide over 4 ranks.*8 or 12"):
        decide_global_batch(10, 100, 4)


@pytest.mark.parametrize(
    ("model", "steps", "adapter", "rate"),
    [
        (SMALL, 50, {}, 2e-3),
        (SMALL, 500, {}, 1.3e-3),
        (LARGE, 500, {}, 2.9e-4),
        (LARGE, 500, {"type": "Full"}, 2.9e-5),
        (LARGE, 500, {"rank": 256}, 2.9e-4),
        (LARGE, 500, {"type": "DoRA", "rank": 8, "alpha": 64}, 1.4e-4),
        (LARGE, 500, {"type": "RsLoRA", "rank": 64}, 3.6e-5),
        (LARGE, 500, {"type": "RsLoRA", "rank": 16, "alpha": 8}, 2.9e-4),
        (LARGE, 500, {"alpha": 4}, 5.7e-4),
        (replace(LARGE, model_type="qwen3"), 500, {}, 4.7e-4),
        (replace(LARGE, model_type="qwen2_moe"), 500, {"type": "Full"}, 4.7e-5),
        (replace(SMALL, model_type="qwen2"), 500, {}, 5.5e-4),
        (replace(LARGE, model_type="mistral"), 500, {}, 2.9e-4),
    ],
)
def test_learning_rate_rule(
    model: Architecture, steps: int, adapter: dict[str, Any], rate: float
) -> None:
    asked = job({"method": {"adapter": adapter}}).spec.method.adapter
    assert decide_learning_rate("auto", model, steps, asked) == pytest.approx(rate, rel=0.05)
    assert decide_learning_rate("3e-4", model, steps, asked) == 3e-4


@pytest.mark.slow  # it needs torch
@pytest.mark.parametrize(
    ("ratio", "total_steps", "steps"),
    [
        ("0.03", 1000, 30),
        ("0.03", 100, 5),
        ("0.03", 50, 5),
        ("0.03", 40, 4),
        ("0.03", 16, 1),
        ("0.03", 2, 1),
        ("0.03", 1, 0),
        ("0.2", 10, 2),
        ("0.9", 10, 9),
        ("0", 100, 0),
    ],
)
def test_the_warm_up_has_five_steps_or_a_tenth_of_a_shorter_run(
    ratio: str, total_steps: int, steps: int
) -> None:
    from finetune_trainer.train.ranks.sft import training_arguments

    asked = job({"hyperparameters": {"warmupRatio": ratio, "maxSteps": total_steps}})
    recipe = decide({"hyperparameters": {"warmupRatio": ratio, "maxSteps": total_steps}})
    arguments = training_arguments(asked, recipe, Path(), has_validation=False)
    assert arguments["warmup_steps"] == steps


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
    small = Hardware(num_gpus=1, memory_bytes=22 * GIB, supports_bfloat16=True, num_cpus=8)
    long = DataShape(num_rows=1000, num_tokens=10**6, mean_tokens=1000, longest_tokens=1024)
    change = {"resources": {"gpusPerNode": 1}}
    roomy = decide(change, model=LARGE, data=long, hardware=GPU, use_gpu=True)
    tight = decide(change, model=LARGE, data=long, hardware=small, use_gpu=True)
    assert not roomy.activation_checkpointing
    assert tight.activation_checkpointing


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hyperparameters": {"precision": "BFloat16"}}, "PrecisionUnsupported"),
    ],
)
def test_contradictions_are_user_errors(change: dict[str, Any], reason: str) -> None:
    old = Hardware(num_gpus=0, memory_bytes=24 * GIB, supports_bfloat16=False, num_cpus=2)
    with pytest.raises(UserError) as caught:
        decide(change, hardware=old)
    assert caught.value.reason == reason


def test_base_too_large_for_one_gpu_is_sharded() -> None:
    change = {"resources": {"gpusPerNode": 8}, "hyperparameters": {"globalBatchSize": 64}}
    recipe = decide(change, model=HUGE, hardware=GPU, use_gpu=True)
    assert recipe.strategy == "FSDP2"
    assert recipe.micro_batch_size > 1
    assert recipe.estimated_memory_bytes < GPU.memory_bytes


def test_base_that_fits_a_node_is_sharded_inside_each_node() -> None:
    two = {"gpusPerNode": 8, "nodes": 2}
    change = {"resources": two, "hyperparameters": {"globalBatchSize": 64}}
    recipe = decide(change, model=HUGE, hardware=GPU, use_gpu=True)
    assert (recipe.strategy, recipe.world_size, recipe.num_replicas) == ("FSDP2", 16, 2)
    small = replace(GPU, memory_bytes=GPU.memory_bytes // 4)
    tight = decide(change, model=HUGE, hardware=small, use_gpu=True)
    assert (tight.strategy, tight.num_replicas) == ("FSDP2", 1)
    one_each = {**change, "resources": {"gpusPerNode": 1, "nodes": 8}}
    assert decide(one_each, model=HUGE, hardware=GPU, use_gpu=True).num_replicas == 1


@pytest.mark.parametrize("memory", [24, 30, 40, 80])
def test_no_other_choice_that_fits_is_estimated_faster(memory: int) -> None:
    lengths, available = Lengths(mean=250, longest=2048, deviation=200), memory * GIB
    fit = find_fit(LARGE, Setup(), Asked(), lengths, per_rank=16, available=available)
    speeds = {
        (micro, checkpointing): speed_of(replace(fit.setup, checkpointing=checkpointing), micro)
        for micro in (1, 2, 4, 8, 16)
        for checkpointing in (False, True)
        if fits(replace(fit.setup, checkpointing=checkpointing), micro, lengths, available)
    }
    chosen = speed_of(fit.setup, fit.micro)
    assert chosen == max(speeds.values())
    assert chosen > min(speeds.values())


def fits(setup: Setup, micro: int, lengths: Lengths, available: int) -> bool:
    need = estimate_training(LARGE, setup, largest_batch(micro, setup, lengths))
    return need.total <= COMFORT * available


def speed_of(setup: Setup, micro: int) -> float:
    return tokens_per_second(
        LARGE, setup, peak_flops=1.0, mean_tokens=250, tokens_per_pass=250 * micro
    )


@pytest.mark.parametrize(
    ("change", "model", "rows", "remedies"),
    [
        ({}, HUGE, 80, ["QLoRA", "4 such GPUs"]),
        (
            {"method": {"adapter": {"type": "Full"}}},
            LARGE,
            80,
            ["optimizer: Adafactor", "type LoRA", "4 such GPUs"],
        ),
        (
            {"method": {"adapter": {"type": "Full"}}, "hyperparameters": {"microBatchSize": 1}},
            LARGE,
            1024,
            ["optimizer: Adafactor, and leave microBatchSize"],
        ),
        ({"hyperparameters": {"maxSequenceLength": 262144}}, LARGE, 262144, ["maxSequenceLength"]),
        (
            {"hyperparameters": {"microBatchSize": 8, "maxSequenceLength": 16384}},
            LARGE,
            16384,
            ["microBatchSize: auto"],
        ),
    ],
)
def test_what_cannot_fit_is_refused_with_what_would_fit(
    change: dict[str, Any], model: Architecture, rows: int, remedies: list[str]
) -> None:
    data = DataShape(num_rows=480, num_tokens=480 * rows, mean_tokens=rows, longest_tokens=rows)
    with pytest.raises(UserError, match=r"does not fit.*GiB.*and has 80\.0 GiB") as caught:
        decide(change, model=model, data=data, hardware=GPU, use_gpu=True)
    assert caught.value.reason == "ModelDoesNotFit"
    for remedy in remedies:
        assert remedy in caught.value.message


def test_all_weights_of_8_billion_fit_one_gpu_without_moments() -> None:
    change = {
        "method": {"adapter": {"type": "Full"}},
        "hyperparameters": {"optimizer": "Adafactor"},
    }
    rows = DataShape(num_rows=480, num_tokens=480_000, mean_tokens=1000, longest_tokens=1024)
    h100 = Hardware(num_gpus=1, memory_bytes=79 * GIB, supports_bfloat16=True, num_cpus=16)
    recipe = decide(change, model=LARGE, data=rows, hardware=h100, use_gpu=True)
    assert recipe.estimated_memory_bytes < 0.85 * h100.memory_bytes
    # Gradients that wait for another forward pass would not fit beside its activations.
    assert recipe.accumulation_steps == 1
    assert find_warnings(recipe, rows) == []


QWEN3_30B_A3B = describe_architecture(
    {
        "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
        "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
        "vocab_size": 151_936, "tie_word_embeddings": False,
    },
    {},
)  # fmt: skip
H100 = Hardware(num_gpus=1, memory_bytes=79 * GIB, supports_bfloat16=True, num_cpus=16)


def test_a_mixture_whose_experts_do_not_fit_is_planned_without_them_as_the_refusal_says() -> None:
    rows = DataShape(num_rows=480, num_tokens=480_000, mean_tokens=1000, longest_tokens=2048)
    experts = {"method": {"adapter": {"targetModules": ["all-linear"]}}}
    with pytest.raises(UserError) as caught:
        decide(experts, model=QWEN3_30B_A3B, data=rows, hardware=H100, use_gpu=True)
    first, *_ = caught.value.message.partition("GiB; ")[2].split("; or ")
    assert first == (
        "leave the experts out (method.adapter.targetModules [q_proj, k_proj, v_proj, o_proj])"
    )
    change = {"method": {"adapter": {"targetModules": ["q_proj", "k_proj", "v_proj", "o_proj"]}}}
    recipe = decide(change, model=QWEN3_30B_A3B, data=rows, hardware=H100, use_gpu=True)
    assert recipe.estimated_memory_bytes < 0.85 * H100.memory_bytes
    assert recipe.strategy == "DDP"


def test_by_default_a_mixture_of_30_billion_is_planned_on_one_gpu_with_the_reason() -> None:
    rows = DataShape(num_rows=480, num_tokens=480_000, mean_tokens=1000, longest_tokens=2048)
    one_gpu = {"resources": {"gpusPerNode": 1}}
    recipe = decide(one_gpu, model=QWEN3_30B_A3B, data=rows, hardware=H100, use_gpu=True)
    assert recipe.estimated_memory_bytes / GIB == pytest.approx(62, abs=1)
    plan = describe_plan(job(one_gpu), rows, QWEN3_30B_A3B, recipe)
    # Rank 16 on four layers of attention in each of 48 blocks.
    assert plan.trainable_parameters == 48 * 16 * (2 * (2048 + 4096) + 2 * (2048 + 512))
    (reason,) = [each.reason for each in plan.reasons if each.name == "targetModules"]
    assert reason == (
        "adapters on attention only (q_proj, k_proj, v_proj, o_proj), because adapters on the "
        "stacked experts would have 981,467,136 weights; write targetModules [all-linear] for the "
        "experts"
    )
    for model, change in ((LARGE, {}), (QWEN3_30B_A3B, {"type": "Full"})):
        assert "targetModules" not in explain(
            job({"method": {"adapter": change}}), rows, model, recipe
        )


def test_a_higher_rank_needs_more_memory() -> None:
    needs = [
        decide({"method": {"adapter": {"rank": rank}}}, model=LARGE, hardware=GPU, use_gpu=True)
        for rank in (16, 512)
    ]
    grown = needs[1].memory["optimizer"] / needs[0].memory["optimizer"]
    assert grown == pytest.approx(32)
    assert needs[1].estimated_memory_bytes - needs[0].estimated_memory_bytes > 15 * GIB


def test_short_rows_fill_a_gpu_by_their_mean_length() -> None:
    uneven = DataShape(
        num_rows=20_000, num_tokens=2_000_000, mean_tokens=100, longest_tokens=1024, std_tokens=120
    )
    recipe = decide(
        {"resources": {"gpusPerNode": 1}}, model=SMALL, data=uneven, hardware=GPU, use_gpu=True
    )
    assert (recipe.micro_batch_size, recipe.accumulation_steps) == (32, 1)


@pytest.mark.parametrize(
    ("change", "model", "like"),
    [
        ({}, LARGE, "flash"),
        ({"method": {"packing": "Off"}}, LARGE, "sdpa"),
        ({"hyperparameters": {"precision": "Float32"}}, LARGE, "sdpa"),
        ({"method": {"adapter": {"type": "Full"}}}, SMALL, "flash"),
        ({}, replace(LARGE, model_type="cohere"), "sdpa"),
    ],
)
def test_boundaries_are_planned_without_a_mask_only_where_they_serve(
    change: dict[str, Any], model: Architecture, like: str
) -> None:
    change = {"resources": {"gpusPerNode": 1}} | change
    gpu = replace(GPU, num_gpus=1)
    found, expected = (
        decide(change, model=model, hardware=gpu, use_gpu=True, attention=name)
        for name in ("varlen", like)
    )
    assert found == expected
    other = decide(
        change,
        model=model,
        hardware=gpu,
        use_gpu=True,
        attention="sdpa" if like == "flash" else "flash",
    )
    assert found != other


def test_fused_kernels_are_counted_where_they_are_installed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def plan(change: dict[str, Any], *, is_installed: bool) -> int:
        monkeypatch.setattr(
            "importlib.util.find_spec", lambda _: object() if is_installed else None
        )
        fixed = {"microBatchSize": 4, "globalBatchSize": 8, "activationCheckpointing": "Off"}
        change = {"resources": {"gpusPerNode": 1}, "hyperparameters": fixed | change}
        gpu = replace(GPU, num_gpus=1)
        return decide(change, model=LARGE, hardware=gpu, use_gpu=True).memory["activations"]

    plain = plan({}, is_installed=False)
    # Two norms keep half of their input's float32, the gated activation two tensors of three.
    saved = 32 * 4 * ROWS.longest_tokens * (2 * 2 * 4096 + 2 * 14336)
    assert plain - plan({}, is_installed=True) == saved
    assert plain == plan({"kernels": "Off"}, is_installed=True)


def test_a_batch_too_small_for_its_gpus_is_told() -> None:
    short = DataShape(num_rows=480, num_tokens=24_000, mean_tokens=50, longest_tokens=80)
    recipe = decide({"resources": {"gpusPerNode": 8}}, data=short, hardware=GPU, use_gpu=True)
    assert "too small for 8 GPU(s)" in "".join(find_warnings(recipe, short))
    long = DataShape(num_rows=480, num_tokens=480_000, mean_tokens=4000, longest_tokens=4096)
    change = {"resources": {"gpusPerNode": 1}, "hyperparameters": {"maxSequenceLength": 4096}}
    filled = decide(change, data=long, hardware=GPU, use_gpu=True)
    assert find_warnings(filled, long) == []
    assert find_warnings(decide(), short) == []  # on a CPU


@pytest.mark.parametrize("strategy", ["ZeRO2", "ZeRO3"])
def test_zero_on_cpu_computes_in_float32(strategy: str) -> None:
    recipe = decide({"resources": {"gpusPerNode": 2, "strategy": strategy}})
    assert (recipe.strategy, recipe.bfloat16) == (strategy, False)


def test_one_rank_has_nothing_to_share() -> None:
    recipe = decide({"resources": {"gpusPerNode": 1, "strategy": "ZeRO3"}})
    assert (recipe.strategy, recipe.bfloat16) == ("DDP", True)


@pytest.mark.slow
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
    asked = {
        "resources": {"gpusPerNode": gpus, "strategy": strategy},
        "hyperparameters": {
            "precision": precision,
            "globalBatchSize": global_batch,
            "microBatchSize": micro_batch,
        },
    }
    assume(is_accepted(asked))
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
