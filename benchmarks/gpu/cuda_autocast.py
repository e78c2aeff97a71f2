"""Counts what autograd saves of one layer under CUDA's autocast, without a GPU.

Autocast of a CPU leaves norms and powers in bfloat16, which CUDA's computes in float32. Fake
tensors say that they are on a GPU, and dispatch as if they were. Only the backbone is run.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from counted import NUM_LAYERS, build_model, fake_tensors_of, make_inputs, shorten

from finetune_trainer.planning.architecture import Architecture, describe_architecture
from finetune_trainer.planning.headers import Stored
from finetune_trainer.planning.memory import saved_bytes
from finetune_trainer.planning.setup import Batch, Setup

BATCH = Batch(rows=2, longest=64, tokens=128)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
BARE = Setup(attention="eager", dropout=False, padding_free=False)
WAYS = {
    "LoRA": BARE,
    "Full, FSDP2": replace(BARE, adapter="Full", strategy="FSDP2", world_size=8),
}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", {"num_key_value_heads": 8}),
    "qwen3_moe": (
        "Qwen3MoeConfig",
        {"moe_intermediate_size": 192, "num_experts": 16, "num_experts_per_tok": 4},
    ),
    "gpt_oss": ("GptOssConfig", {"num_local_experts": 8, "num_experts_per_tok": 4}),
    "llama4_text": (
        "Llama4TextConfig",
        {"num_local_experts": 8, "intermediate_size_mlp": 2816, "interleave_moe_layer_step": 2},
    ),
    "gpt2": (
        "GPT2Config",
        {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0, "intermediate_size": None},
    ),
    "phi": ("PhiConfig", {"resid_pdrop": 0.0, "embd_pdrop": 0.0}),
    "stablelm": ("StableLmConfig", {}),
    "starcoder2": ("Starcoder2Config", {"residual_dropout": 0.0, "embedding_dropout": 0.0}),
}
SIZE = {
    "hidden_size": 512,
    "intermediate_size": 1408,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "vocab_size": 512,
}


def compare_layer(family: str, setup: Setup) -> tuple[float, float]:
    """Return the bytes per token that a layer of a family saves, as planned and as counted."""
    config = make_config(family)
    if config.to_dict().get("num_local_experts") or config.to_dict().get("num_experts"):
        setup = replace(setup, targets=ATTENTION)
    few, many = NUM_LAYERS

    def per_layer(one: float, other: float) -> float:
        return (other - one) / (many - few) / BATCH.tokens

    planned = (saved_bytes(describe(config, layers), setup, BATCH) for layers in NUM_LAYERS)
    counted = (count_saved(config, setup, layers) for layers in NUM_LAYERS)
    return per_layer(*planned), per_layer(*counted)


def make_config(family: str) -> Any:
    """Make the configuration of a small model of a family."""
    import transformers

    name, change = FAMILIES[family]
    return getattr(transformers, name)(**{**SIZE, **change})


def describe(config: Any, num_layers: int) -> Architecture:
    """Describe a model of so many layers as the planner would from its files."""
    import torch
    from transformers import AutoModelForCausalLM

    small = shorten(config, num_layers)
    with torch.device("meta"):
        weights = AutoModelForCausalLM.from_config(small).named_parameters()
    stored = {name: Stored(tuple(weight.shape), "BF16") for name, weight in weights}
    return describe_architecture(small.to_dict(), stored)


def count_saved(config: Any, setup: Setup, num_layers: int) -> int:
    """Return the bytes that autograd saves of a backbone of so many layers."""
    import torch
    from allocations import SavedMeter
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("meta"):
        model: Any = build_model(config, setup, num_layers)
    mode = FakeTensorMode()
    fake_tensors_of(model, mode, "cuda")
    backbone = (model if setup.is_full else model.get_base_model()).base_model
    saved = SavedMeter([*model.parameters(), *model.buffers()])
    with mode, _autocast(setup):
        inputs = {name: each.to("cuda") for name, each in make_inputs(setup, BATCH).items()}
        del inputs["labels"]
        with saved.hooks():
            backbone(**inputs, use_cache=False)
    saved.close()
    return saved.largest


@contextmanager
def _autocast(setup: Setup) -> Iterator[None]:
    """Switch on CUDA's autocast, which asks for a GPU where it is entered as a context."""
    import torch

    capability = mock.patch.object(torch.cuda, "get_device_capability", return_value=(9, 0))
    torch.set_autocast_dtype("cuda", torch.bfloat16)
    torch.set_autocast_enabled("cuda", setup.bfloat16)
    try:
        with capability:
            yield
    finally:
        torch.set_autocast_enabled("cuda", False)
        torch.clear_autocast_cache()
