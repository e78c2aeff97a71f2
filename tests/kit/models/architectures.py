"""Random models of two layers, one for each way to remember what was read."""

from __future__ import annotations

from typing import Any

import torch
import transformers

SHAPE = {
    "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 128,
}  # fmt: skip
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "whole attention": ("LlamaConfig", SHAPE),
    "a sliding window shorter than a prompt": ("MistralConfig", {**SHAPE, "sliding_window": 4}),
    "layers of both kinds": (
        "Gemma3TextConfig",
        {**SHAPE, "head_dim": 8, "sliding_window": 4, "sliding_window_pattern": 2},
    ),
    "positions turned by the length": (
        "LlamaConfig",
        {
            **SHAPE,
            "max_position_embeddings": 8,
            "rope_parameters": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 10000.0},
        },
    ),
    "learned positions": (
        "GPT2Config",
        {"vocab_size": 512, "n_embd": 32, "n_layer": 2, "n_head": 4},
    ),
    "states beside attention": (
        "Lfm2Config",
        {**SHAPE, "layer_types": ["conv", "full_attention"]},
    ),
}


def make_model(kind: str, *, adapted: bool = False) -> Any:
    name, values = MODELS[kind]
    torch.manual_seed(3)
    config = getattr(transformers, name)(**values, pad_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    if adapted:
        from peft import LoraConfig, get_peft_model

        model = get_peft_model(
            model,
            LoraConfig(target_modules="all-linear", fan_in_fan_out=kind == "learned positions"),
        ).eval()
    return model
