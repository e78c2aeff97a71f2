"""The shape of a model from its files; what sharding, quantising and length do to memory; time."""

from __future__ import annotations

import json
import struct
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_trainer.planning.activations import backward_bytes
from finetune_trainer.planning.architecture import (
    Architecture,
    describe_architecture,
    read_architecture,
)
from finetune_trainer.planning.caches import describe_cache
from finetune_trainer.planning.headers import Stored
from finetune_trainer.planning.memory import count_adapter, estimate_training, saved_bytes
from finetune_trainer.planning.setup import Batch, Setup
from finetune_trainer.planning.throughput import GPUS, tokens_per_second

LLAMA_8B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 14336,
    "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "vocab_size": 128256, "tie_word_embeddings": False,
}  # fmt: skip
MIXTRAL = {
    **LLAMA_8B, "model_type": "mixtral", "vocab_size": 32000, "num_local_experts": 8,
    "num_experts_per_tok": 2,
}  # fmt: skip
QWEN3_MOE = {
    "model_type": "qwen3_moe", "hidden_size": 2048, "intermediate_size": 6144,
    "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
    "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    "vocab_size": 151936, "tie_word_embeddings": False,
}  # fmt: skip
GIB = 2**30
BATCH = Batch(rows=4, longest=1024, tokens=4096)


def architecture(config: dict[str, Any]) -> Architecture:
    return describe_architecture(config, {})


def need(setup: Setup, batch: Batch = BATCH, config: dict[str, Any] = LLAMA_8B) -> int:
    return estimate_training(architecture(config), setup, batch).total


@pytest.mark.parametrize(
    ("config", "total", "active"),
    [
        (LLAMA_8B, 8_030_261_248, 7_504_924_672),
        (MIXTRAL, 46_702_792_704, 12_748_587_008),
        ({**LLAMA_8B, "tie_word_embeddings": True}, 7_504_924_672, 7_504_924_672),
    ],
)
def test_weights_are_counted_from_the_configuration_alone(
    config: dict[str, Any], total: int, active: int
) -> None:
    found = architecture(config)
    assert found.num_parameters == total
    assert found.num_active_parameters == pytest.approx(active, rel=0.001)


def test_weights_are_counted_from_the_headers_of_all_files(tmp_path: Path) -> None:
    config = {**LLAMA_8B, "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1,
              "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": 10}  # fmt: skip
    write_header(
        tmp_path / "a.safetensors",
        {
            "model.embed_tokens.weight": ("BF16", [10, 8]),
            "model.layers.0.self_attn.qkv_proj.weight": ("BF16", [16, 8]),
        },
    )
    write_header(
        tmp_path / "b.safetensors",
        {
            "model.layers.0.mlp.gate_up_proj.weight": ("BF16", [32, 8]),
            "model.layers.0.input_layernorm.weight": ("BF16", [8]),
            # A layer for predicting several tokens, which is not loaded.
            "model.layers.1.mlp.gate_up_proj.weight": ("BF16", [32, 8]),
        },
    )
    found = read_architecture(tmp_path, config)
    assert found.num_parameters == 80 + 128 + 256 + 8
    assert found.tied  # there is no head of its own
    assert {(each.name, each.width_in, each.width_out) for each in found.linears} == {
        ("qkv_proj", 8, 16),
        ("gate_up_proj", 8, 32),
    }


@pytest.mark.parametrize("content", [b"", b"\x01", struct.pack("<Q", 2**60), b"\x02" + b"\0" * 7])
def test_a_damaged_weight_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(ValueError, match=r"model\.safetensors is no safetensors file"):
        read_architecture(tmp_path, LLAMA_8B)


def test_unusual_configurations_are_still_counted() -> None:
    uneven = architecture({**LLAMA_8B, "intermediate_size": [1024, 14336]})
    assert uneven.intermediate_size == 14336
    headless = {k: v for k, v in LLAMA_8B.items() if k not in ("num_attention_heads",)}
    assert architecture({**headless, "num_key_value_heads": None}).query_width == 4096
    several_media = {"model_type": "gemma3", "text_config": {**LLAMA_8B, "head_dim": 256}}
    assert architecture(several_media).query_width == 32 * 256


def test_a_configuration_without_widths_is_named() -> None:
    with pytest.raises(ValueError, match="names no hidden_size"):
        architecture({"model_type": "llama"})


def test_attention_is_known_by_its_place_and_shares_no_name_with_experts() -> None:
    attention = ["q_proj", "o_proj", "gate_proj"]  # AFMoE's attention has a gate too
    mlp = ["mlp.shared_experts.up_proj", "mlp.router.classifier", "mlp.experts.0.up_proj"]
    names = [*(f"self_attn.{each}" for each in attention), *mlp]
    stored = {f"model.layers.0.{name}.weight": Stored((8, 8), "BF16") for name in names}
    assert describe_architecture(MIXTRAL, stored).attention_names == ("q_proj", "o_proj")


def test_adapter_size_is_that_of_its_targets() -> None:
    model = architecture(LLAMA_8B)
    assert count_adapter(model, Setup(rank=16)) == 41_943_040
    few = Setup(rank=8, targets=("q_proj", "model.layers.0.self_attn.v_proj"))
    assert count_adapter(model, few) == 32 * 8 * (4096 + 4096 + 4096 + 1024)


def test_modules_that_are_trained_whole_are_counted_with_their_states() -> None:
    model = architecture(LLAMA_8B)
    plain = estimate_training(model, Setup(), BATCH)
    whole = estimate_training(model, Setup(saved_modules=("lm_head", "model.norm")), BATCH)
    size = 128256 * 4096 + 4096
    # In float32, though the model computes in bfloat16.
    assert whole.adapter - plain.adapter == 4 * size
    assert whole.optimizer - plain.optimizer == 8 * size


def test_states_need_what_their_optimizer_keeps() -> None:
    model, size = architecture(LLAMA_8B), 8_030_261_248
    embedding = 128256 * 4096

    def states(optimizer: str, adapter: str = "Full") -> int:
        setup = Setup(adapter=adapter, optimizer=optimizer)
        return estimate_training(model, setup, BATCH).optimizer

    assert states("AdamW") == 8 * size
    assert states("AdamW8bit") == int(2.03125 * (size - embedding)) + 8 * embedding
    assert states("Adafactor") < size / 500
    assert states("AdamW8bit", "LoRA") == int(2.03125 * 41_943_040)
    # A step of Adafactor holds two images of the largest matrix beside all gradients.
    full = Setup(adapter="Full", optimizer="Adafactor", checkpointing=True)
    assert estimate_training(model, full, BATCH).activations >= 8 * embedding


def test_the_adapter_of_a_4_bit_base_is_cast_where_it_is_float32() -> None:
    model = architecture(LLAMA_8B)
    setup = Setup(adapter="QLoRA", world_size=2, strategy="DDP")
    float32, bfloat16 = (
        estimate_training(model, replace(setup, strategy=strategy), BATCH).activations
        for strategy in ("DDP", "FSDP2")
    )
    assert float32 - bfloat16 == 2 * count_adapter(model, setup)


def test_experts_that_no_adapter_reaches_add_nothing_to_it() -> None:
    stacked = {**MIXTRAL, "model_type": "qwen2_moe"}
    bare = Setup(dropout=False)
    attention = Setup(dropout=False, targets=("q_proj", "k_proj", "v_proj", "o_proj"))
    assert need(bare, config=stacked) == need(attention, config=stacked)
    # PEFT adds the update to the experts' weights, and keeps the sums for the backward pass.
    assert need(bare, config=MIXTRAL) - need(bare, config=stacked) > 2 * 45e9


@pytest.mark.parametrize(
    ("config", "tokens", "expected"),
    [
        ({}, 10, 2 * 10 * 64),
        ({"sliding_window": 5}, 10, 2 * 4 * 64),
        ({"sliding_window": 5, "use_sliding_window": False}, 10, 2 * 10 * 64),
        (
            {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 5},
            10,
            14 * 64,
        ),
        ({"kv_lora_rank": 24, "qk_rope_head_dim": 8}, 10, 2 * 10 * 32),
        ({"layer_types": ["conv", "full_attention"], "conv_L_cache": 3}, 10, 10 * 64 + 16 * 3),
        ({"model_type": "mamba", "state_size": 4, "conv_kernel": 2}, 99, 2 * (32 * 4 * 2 + 32 * 2)),
    ],
)
def test_a_cache_holds_what_the_layers_keep(
    config: dict[str, Any], tokens: int, expected: int
) -> None:
    found = describe_cache(config, num_layers=2, kv_width=32, hidden_size=16)
    assert found.num_bytes(tokens, 2) == 2 * expected


def test_memory_falls_in_the_order_that_people_expect() -> None:
    full = Setup(adapter="Full")
    lora = Setup()
    quantized = Setup(adapter="QLoRA")
    assert need(full) > need(lora) > need(replace(lora, checkpointing=True))
    assert need(lora) > need(quantized)
    assert need(replace(lora, attention="eager")) > need(lora)
    assert need(lora) > need(replace(lora, attention="flash"))


@pytest.mark.parametrize("strategy", ["ZeRO2", "ZeRO3", "FSDP2"])
def test_sharding_divides_what_it_shards(strategy: str) -> None:
    full = Setup(adapter="Full", strategy=strategy, world_size=8, checkpointing=True)
    one = estimate_training(architecture(LLAMA_8B), replace(full, world_size=1), BATCH)
    eight = estimate_training(architecture(LLAMA_8B), full, BATCH)
    assert eight.optimizer == pytest.approx(one.optimizer / 8 * (1 if strategy == "FSDP2" else 1.5))
    assert eight.weights == (one.weights if strategy == "ZeRO2" else one.weights // 8)


@pytest.mark.parametrize(
    ("checkpointing", "rows", "longest", "saved"), [(False, 2, 2048, 27.14), (True, 8, 1736, 3.81)]
)
def test_weights_that_are_gathered_in_bfloat16_are_not_cast_again(
    checkpointing: bool, rows: int, longest: int, saved: float
) -> None:
    """Counted on fake tensors of the real model, in GiB, with FSDP2's bfloat16 weights."""
    model, batch = architecture(LLAMA_8B), Batch(rows=rows, longest=longest, tokens=rows * longest)
    full = Setup(adapter="Full", strategy="FSDP2", world_size=8, checkpointing=checkpointing)
    assert saved_bytes(model, full, batch) == pytest.approx(saved * GIB, rel=0.01)
    whole = replace(full, strategy="DDP")
    # Autocast keeps a bfloat16 copy of every weight, and float32 between blocks.
    gathered, cast = (estimate_training(model, each, batch) for each in (full, whole))
    assert cast.activations - gathered.activations > 12 * GIB
    # Without bfloat16 nothing is cast by either.
    float32 = [replace(each, bfloat16=False) for each in (full, whole)]
    assert len({saved_bytes(model, each, batch) for each in float32}) == 1


def test_frozen_experts_keep_no_inputs() -> None:
    """Qwen3-30B-A3B with adapters on attention, counted on fake tensors, in GiB."""
    model = architecture(QWEN3_MOE)
    attention = Setup(targets=model.attention_names, strategy="FSDP2", world_size=8)
    batch = Batch(rows=2, longest=2048, tokens=4096)
    assert saved_bytes(model, attention, batch) == pytest.approx(32.46 * GIB, rel=0.01)
    # A block that is computed anew, its gradients by visit, and the inputs of all blocks.
    one_gpu = Setup(targets=model.attention_names, checkpointing=True)
    large = Batch(rows=8, longest=2048, tokens=16384)
    peak = estimate_training(model, one_gpu, large).activations
    assert peak == pytest.approx(8.03 * GIB, rel=0.05)


@pytest.mark.parametrize(("adapter", "counted"), [("LoRA", 9.80), ("QLoRA", 8.31)])
def test_dropout_widens_no_input_of_a_layer_in_4_bits(adapter: str, counted: float) -> None:
    """Llama 3 8B counted on fake tensors, in GiB, without gradients."""
    setup = Setup(adapter=adapter, checkpointing=True)
    batch = Batch(rows=8, longest=1736, tokens=13888)
    memory = estimate_training(architecture(LLAMA_8B), setup, batch)
    assert 0.98 * counted < memory.activations / GIB < 1.1 * counted


@pytest.mark.parametrize(
    ("tokens", "rows", "sums"),
    [(131_072, 1, 1), (32_769, 1, 1), (32_768, 1, 5), (32_768, 4, 2), (32_768, 8, 1)],
)
def test_the_fixed_order_of_flash_attention_is_counted_up_to_its_longest_row(
    tokens: int, rows: int, sums: int
) -> None:
    model, setup = architecture(LLAMA_8B), Setup(attention="flash", is_fused=True)
    batch = Batch(rows=rows, longest=tokens // rows, tokens=tokens)
    gradients = 2 * (4096 + 2 * 1024)
    assert backward_bytes(model, setup, batch) == tokens * (sums * 4 * 4096 + gradients)
    assert backward_bytes(model, replace(setup, attention="sdpa"), batch) == 0


def test_one_long_example_takes_more_than_several_of_the_same_tokens() -> None:
    setup = Setup(attention="flash", dropout=False, is_fused=True)
    one, several = (
        estimate_training(
            architecture(LLAMA_8B),
            setup,
            Batch(rows=rows, longest=32_768 // rows, tokens=32_768),
        )
        for rows in (1, 8)
    )
    assert one.activations > several.activations


def test_memory_of_activations_grows_with_tokens_alone() -> None:
    setup = Setup(attention="flash", checkpointing=False)
    model = architecture(LLAMA_8B)
    small, large = (
        estimate_training(model, setup, Batch(rows=n, longest=512, tokens=512 * n)).activations
        for n in (16, 32)
    )
    assert large / small == pytest.approx(2, rel=0.02)


def test_speed_is_within_what_the_device_can_do() -> None:
    model, setup = architecture(LLAMA_8B), Setup()
    speed = tokens_per_second(
        model, setup, peak_flops=GPUS["h100"].flops, mean_tokens=512, tokens_per_pass=16384
    )
    # Public figures for LoRA on an 8B model lie between 8,000 and 15,000 tokens/s.
    assert 8_000 < speed < 15_000
    short = tokens_per_second(
        model, setup, peak_flops=GPUS["h100"].flops, mean_tokens=64, tokens_per_pass=128
    )
    assert short < speed / 4


def write_header(path: Path, tensors: dict[str, tuple[str, list[int]]]) -> None:
    header = {
        name: {"dtype": dtype, "shape": shape, "data_offsets": [0, 0]}
        for name, (dtype, shape) in tensors.items()
    }
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)


def test_llama_4_computes_all_experts_for_every_token() -> None:
    config = {**MIXTRAL, "model_type": "llama4_text", "num_experts_per_tok": 1}
    model = describe_architecture(config, {})
    assert model.experts_per_token == model.num_experts == 8
    assert describe_architecture({**config, "model_type": "mixtral"}, {}).experts_per_token == 1
    apart = describe_architecture({**config, "interleave_moe_layer_step": 2}, {})
    assert apart.dense_layers == 16
    assert apart.num_expert_parameters == model.num_expert_parameters / 2


def test_doras_norms_take_what_a_weight_takes_however_few_tokens_there_are() -> None:
    few = Batch(rows=1, longest=1, tokens=1)
    setup = Setup(adapter="DoRA", dropout=False)
    model = describe_architecture(LLAMA_8B, {})
    needed = estimate_training(model, setup, few).activations
    assert needed > 6 * 14336**2
    assert needed > estimate_training(model, replace(setup, adapter="LoRA"), few).activations


def test_layers_cast_what_layer_norm_puts_out_in_float32_on_gpus() -> None:
    bare = Setup(dropout=False)
    batch = Batch(rows=1, longest=1024, tokens=1024)
    config = {**LLAMA_8B, "model_type": "starcoder2"}
    model = describe_architecture(config, {})
    on_gpu = saved_bytes(model, bare, batch)
    by_master = saved_bytes(model, replace(bare, strategy="ZeRO2"), batch)
    # Two copies for q, k and v, which share one otherwise.
    assert on_gpu - by_master == 2 * 2 * 4096 * 1024 * model.num_layers
