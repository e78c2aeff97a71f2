"""Whether a training pod's memory suffices is told before it holds GPUs."""

from __future__ import annotations

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from finetune_api.meta import whole_bytes
from finetune_api.protocol.trainer import Environment
from finetune_trainer import estimate
from finetune_trainer.context import StageContext
from finetune_trainer.data.expected import NOTHING_ASKED
from finetune_trainer.errors import UserError
from finetune_trainer.estimate import check_host_memory, on_gpus, plan_on
from finetune_trainer.planning.architecture import Architecture, describe_architecture
from finetune_trainer.planning.headers import Stored
from finetune_trainer.planning.host import CUDA_PROCESS, estimate_host
from finetune_trainer.planning.setup import Setup
from finetune_trainer.planning.throughput import GPUS
from finetune_trainer.train.recipe.recipe import DataShape
from unit.trainer.test_estimate import DATA, LLAMA_8B, resolved

GIB = 2**30
LLAMA = replace(LLAMA_8B, stored_type="BF16")
STRATEGIES = ("DDP", "ZeRO2", "ZeRO3", "FSDP2")


def setup(**change: Any) -> Setup:
    return Setup(**{"world_size": 8, **change})


def planned(
    *, is_known: bool = True, model: Architecture = LLAMA, data: DataShape = DATA, **spec: Any
) -> Any:
    job = resolved(**spec)
    return plan_on(on_gpus(job, GPUS["h100"], is_known=is_known), job, data, model)


def test_one_rank_of_a_node_converts_the_weights_under_fsdp2_and_each_under_ddp() -> None:
    whole = 4 * LLAMA.num_parameters
    full = setup(adapter="Full", strategy="FSDP2")
    assert estimate_host(LLAMA, full, num_ranks=8).loading == whole
    copied = estimate_host(LLAMA, replace(full, strategy="DDP"), num_ranks=8)
    assert copied.loading == 8 * whole
    # ZeRO-3 puts each weight on the GPUs as it converts it.
    assert estimate_host(LLAMA, replace(full, strategy="ZeRO3"), num_ranks=8).loading == 0


@pytest.mark.parametrize(
    ("adapter", "stored", "num_bytes"),
    [("LoRA", "BF16", 0), ("LoRA", "", 0), ("LoRA", "F16", 2), ("LoRA", "F32", 2),
     ("QLoRA", "F16", 0), ("Full", "F32", 0), ("Full", "BF16", 4)],
)  # fmt: skip
def test_only_weights_of_another_type_are_copied(adapter: str, stored: str, num_bytes: int) -> None:
    model = replace(LLAMA, stored_type=stored)
    found = estimate_host(model, setup(adapter=adapter), num_ranks=8)
    assert found.loading == 8 * num_bytes * LLAMA.num_parameters


def test_experts_are_stacked_in_memory() -> None:
    mixture = replace(LLAMA, model_type="qwen3_moe", num_experts=8, num_expert_parameters=10**9)
    assert estimate_host(mixture, setup(), num_ranks=8).loading == 8 * 2 * 2 * 10**9
    stacked = replace(mixture, model_type="gpt_oss")  # its files hold them stacked
    assert estimate_host(stacked, setup(), num_ranks=8).loading == 0


def test_a_checkpoint_takes_the_optimizers_states_on_the_first_node() -> None:
    one_node = setup(adapter="Full", strategy="FSDP2")
    found = estimate_host(LLAMA, one_node, num_ranks=8)
    assert found.saving == 8 * LLAMA.num_parameters
    two_nodes = replace(one_node, world_size=16, num_nodes=2)
    assert estimate_host(LLAMA, two_nodes, num_ranks=8) == found
    # Each rank of ZeRO saves its share, with the float32 weights.
    shared = estimate_host(LLAMA, replace(two_nodes, strategy="ZeRO2"), num_ranks=8)
    assert shared.saving == 12 * LLAMA.num_parameters / 2


def test_a_merge_takes_a_few_tensors_or_a_mixture_whose_experts_are_trained() -> None:
    plain = estimate_host(LLAMA, setup(world_size=1), num_ranks=1, merges=True)
    assert plain.merging == 2 * GIB < plain.total
    mixture = replace(LLAMA, model_type="qwen3_moe")
    found = estimate_host(mixture, setup(), num_ranks=8, merges=True)
    assert 4 * LLAMA.num_parameters == found.least < found.total == found.merging
    named = setup(targets=("q_proj", "v_proj"))
    assert estimate_host(mixture, named, num_ranks=8, merges=True).merging == 2 * GIB
    assert estimate_host(mixture, setup(adapter="Full"), num_ranks=8, merges=True).merging == 0


def test_rows_of_preferences_are_kept_by_every_rank() -> None:
    found = estimate_host(LLAMA, setup(), num_ranks=8, encoded_tokens=10**6)
    assert found.processes == 8 * (CUDA_PROCESS + 36 * 10**6)
    assert found.least == estimate_host(LLAMA, setup(), num_ranks=8).least


def test_every_rank_reads_quantised_files_itself() -> None:
    plain = estimate_host(LLAMA, setup(adapter="Full", strategy="FSDP2"), num_ranks=8)
    packed = replace(LLAMA, is_quantized=True)
    found = estimate_host(packed, setup(adapter="Full", strategy="FSDP2"), num_ranks=8)
    assert found.loading == 8 * plain.loading > 0


def test_without_gpus_nothing_is_counted_here() -> None:
    assert estimate_host(LLAMA, setup(use_gpu=False), num_ranks=0).total == 0


def test_the_need_never_falls_when_gpus_or_parameters_grow() -> None:
    cases = itertools.product(("LoRA", "QLoRA", "Full"), STRATEGIES, ("", "F16", "BF16", "F32"))
    for adapter, strategy, stored in cases:
        grid = {
            (ranks, layers): estimate_host(
                replace(
                    LLAMA,
                    stored_type=stored,
                    num_parameters=layers * 2 * 10**8,
                    linears=tuple(replace(each, count=layers) for each in LLAMA.linears),
                    num_layers=layers,
                ),
                setup(adapter=adapter, strategy=strategy, world_size=ranks),
                num_ranks=ranks,
            )
            for ranks in (1, 2, 4, 8, 16)
            for layers in (8, 32, 80)
        }
        for (ranks, layers), found in grid.items():
            assert 0 < found.least <= found.total
            larger = [each for (r, n), each in grid.items() if r >= ranks and n >= layers]
            assert min(each.total for each in larger) == found.total
            assert min(each.least for each in larger) == found.least


FULL: dict[str, Any] = {"method": {"adapter": {"type": "Full"}}}
EIGHT: dict[str, Any] = {"gpusPerNode": 8}


@pytest.mark.parametrize("memory", ["64Gi", "64G", "64000M", "68719476736", "65536Mi"])
def test_memory_that_is_certainly_too_small_is_refused_in_every_notation(memory: str) -> None:
    plan = planned(**FULL, resources={**EIGHT, "memory": memory})
    assert check_host_memory(plan, limit=whole_bytes("512Gi")) == ""
    limit = whole_bytes(memory) // 4
    with pytest.raises(UserError, match=r"resources\.memory is 1[456]") as caught:
        check_host_memory(plan, limit=limit)
    assert caught.value.reason == "HostMemoryTooSmall"
    wanted = int(caught.value.message.rpartition("set resources.memory to ")[2].partition("Gi")[0])
    # The remedy is enough, and not far more.
    assert check_host_memory(plan, limit=wanted * GIB) == ""
    assert check_host_memory(plan, limit=(wanted - 1) * GIB) != ""


def test_memory_that_may_be_too_small_is_a_warning() -> None:
    plan = planned(resources=EIGHT)
    words = check_host_memory(plan, limit=16 * GIB)
    assert "the operator's default is 16.0 GiB" in words
    assert "set resources.memory to 20Gi or more" in words
    assert check_host_memory(plan, limit=128 * GIB) == ""


def test_sharding_is_a_remedy_where_it_fits_the_memory() -> None:
    small = replace(LLAMA, num_parameters=2 * 10**9)
    light: dict[str, Any] = {"hyperparameters": {"optimizer": "AdamW8bit"}}
    plan = planned(model=small, **FULL, **light, resources=EIGHT)
    with pytest.raises(UserError, match=r"Gi or more, or resources\.strategy to FSDP2"):
        check_host_memory(plan, limit=48 * GIB)
    with pytest.raises(UserError, match=r"Gi or more$"):
        check_host_memory(plan, limit=16 * GIB)


def test_two_nodes_of_eight_gpus_need_what_the_first_node_needs() -> None:
    one, two = (planned(**FULL, resources={**EIGHT, "nodes": nodes}) for nodes in (1, 2))
    for plan in (one, two):
        with pytest.raises(UserError, match="at least"):
            check_host_memory(plan, limit=48 * GIB)
        assert check_host_memory(plan, limit=128 * GIB) == ""


@pytest.mark.parametrize("is_known", [True, False])
def test_a_guessed_strategy_refuses_nothing_that_another_would_do_with(is_known: bool) -> None:
    # On GPUs that hold a small model whole every rank converts it, else one for all.
    small = replace(LLAMA, num_parameters=2 * 10**9)
    light: dict[str, Any] = {"hyperparameters": {"optimizer": "AdamW8bit"}}
    plan = planned(is_known=is_known, model=small, **FULL, **light, resources=EIGHT)
    assert plan.recipe.strategy == "DDP"
    if is_known:
        with pytest.raises(UserError, match="at least"):
            check_host_memory(plan, limit=48 * GIB)
    else:
        assert "about" in check_host_memory(plan, limit=48 * GIB)


@pytest.mark.parametrize(
    ("gib", "allow_cpu", "is_refused"),
    [(16, "", True), (128, "", False), (None, "", False), (16, "1", False)],
)
def test_prepare_refuses_before_gpus_are_held(
    monkeypatch: pytest.MonkeyPatch, gib: int | None, allow_cpu: str, is_refused: bool
) -> None:
    plan = planned(**FULL, resources=EIGHT)
    context, said = prepared_context(monkeypatch, plan)
    node = {} if gib is None else {"memoryBytes": gib * GIB}
    monkeypatch.setenv(Environment.TRAINING_NODE, json.dumps(node))
    monkeypatch.setenv(Environment.ALLOW_CPU, allow_cpu)
    if is_refused:
        with pytest.raises(UserError, match=r"resources\.memory") as caught:
            estimate.prepare_with_estimate(context)
        assert caught.value.reason == "HostMemoryTooSmall"
    else:
        done: Any = estimate.prepare_with_estimate(context)
        assert "estimate" in done
        assert not any("warning" in each for each in said)


@pytest.mark.parametrize(
    ("scratch", "nodes", "remedy"),
    [
        ("100Gi", 1, None),
        ("100Gi", 2, None),
        ("80Gi", 1, "106Gi or more"),
    ],
)
def test_a_disk_that_does_not_hold_a_checkpoint_is_refused(
    monkeypatch: pytest.MonkeyPatch, scratch: str, nodes: int, remedy: str | None
) -> None:
    plan = planned(
        **FULL,
        resources={**EIGHT, "nodes": nodes},
        data=replace(DATA, num_validation_rows=100, num_validation_tokens=40_000),
    )
    context, _ = prepared_context(monkeypatch, plan)
    monkeypatch.setenv(Environment.SCRATCH_BYTES, str(whole_bytes(scratch)))
    if remedy is None:
        estimate.prepare_with_estimate(context)
        return
    with pytest.raises(UserError, match=r"config\.scratchSize is") as caught:
        estimate.prepare_with_estimate(context)
    assert caught.value.reason == "DiskTooSmall"
    assert caught.value.message.endswith(f"have config.scratchSize raised to {remedy}")


def test_a_size_of_the_disk_that_is_no_number_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    context, _ = prepared_context(monkeypatch, planned(resources=EIGHT))
    monkeypatch.setenv(Environment.SCRATCH_BYTES, "100Gi")
    with pytest.raises(UserError, match=Environment.SCRATCH_BYTES):
        estimate.prepare_with_estimate(context)


@pytest.mark.parametrize("change", [{}, {"method": {"adapter": {"type": "QLoRA"}}}])
def test_adapters_fit_any_disk(monkeypatch: pytest.MonkeyPatch, change: dict[str, Any]) -> None:
    context, _ = prepared_context(monkeypatch, planned(resources=EIGHT, **change))
    monkeypatch.setenv(Environment.SCRATCH_BYTES, str(2 * GIB))
    estimate.prepare_with_estimate(context)


def prepared_context(monkeypatch: pytest.MonkeyPatch, plan: Any) -> tuple[StageContext, list[str]]:
    """A context of a prepared data set that is planned so, and its messages."""
    found = estimate.estimate_time(plan, NOTHING_ASKED)
    said: list[str] = []
    result = SimpleNamespace(model_copy=lambda update: update)
    prepared = SimpleNamespace(report=None, num_chosen=None, folder=Path())
    monkeypatch.setattr("finetune_trainer.prepare.stage.prepare", lambda _: result)
    monkeypatch.setattr(estimate, "read_prepared", lambda *_, **__: prepared)
    monkeypatch.setattr(estimate, "read_model_architecture", lambda _: LLAMA)
    monkeypatch.setattr(estimate, "read_format", lambda _: SimpleNamespace(knows_reasoning=False))
    monkeypatch.setattr(estimate, "estimate", lambda *_, **__: (plan, found))
    context = SimpleNamespace(
        job=plan.job,
        storage=SimpleNamespace(output=None),
        work_dir=Path(),
        model=SimpleNamespace(fetch=lambda **_: (Path(), "main")),
        emit=SimpleNamespace(message=said.append),
    )
    return cast(StageContext, context), said


def test_the_type_of_the_weights_is_that_of_most_of_them() -> None:
    config = {
        "model_type": "llama", "hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1,
        "vocab_size": 9, "torch_dtype": "float16",
    }  # fmt: skip
    assert describe_architecture(config, {}).stored_type == "F16"
    weights = {"model.embed_tokens.weight": Stored((9, 8), "BF16"), "a.bias": Stored((8,), "F32")}
    assert describe_architecture(config, weights).stored_type == "BF16"
    outside = {"text_config": {**config, "torch_dtype": None}, "dtype": "bfloat16"}
    assert describe_architecture(outside, {}).stored_type == "BF16"
