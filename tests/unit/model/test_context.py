"""How many tokens a model takes, as its configuration says and as a vLLM server counts."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.model.context import context_of, evaluated_context, served_context


@pytest.mark.parametrize(
    ("config", "length"),
    [
        ({"max_position_embeddings": 2048}, 2048),
        ({"text_config": {"max_position_embeddings": 131072}}, 131072),
        ({"n_positions": 1024}, 1024),
        ({"d_model": 64}, None),
    ],
    ids=str,
)
def test_the_length_that_a_model_takes_is_read_from_its_configuration(
    config: dict[str, Any], length: int | None
) -> None:
    assert context_of(config) == length
    assert served_context(config) == length


def stated(length: int = 4096, **more: Any) -> dict[str, Any]:
    return {"model_type": "llama", "max_position_embeddings": length, **more}


@pytest.mark.parametrize(
    ("config", "length"),
    [
        (stated(), 4096),
        (stated(rope_scaling=None), 4096),
        (stated(rope_scaling={"type": "linear", "factor": 2.0}), 8192),
        (stated(rope_scaling={"type": "dynamic", "factor": 4}), 16384),
        (stated(rope_parameters={"rope_type": "default", "rope_theta": 1e4}), 4096),
        # Of these the stated length is that after stretching.
        (stated(131072, rope_scaling={"rope_type": "llama3", "factor": 8.0}), 131072),
        (stated(32768, rope_scaling={"type": "yarn", "factor": 4.0}), 32768),
        (stated(131072, rope_scaling={"type": "longrope", "short_factor": [1.0]}), 131072),
        (stated(32768, rope_scaling={"type": "mrope", "mrope_section": [16, 24]}), 32768),
        (stated(rope_scaling={"type": "linear", "factor": None}), 4096),
        # Kinds of layers with positions of their own.
        (
            stated(
                rope_parameters={
                    "full_attention": {"rope_type": "linear", "factor": 8.0},
                    "sliding_attention": {"rope_type": "default"},
                }
            ),
            32768,
        ),
        (
            {
                "model_type": "gemma3",
                "text_config": {
                    "model_type": "gemma3_text",
                    "max_position_embeddings": 131072,
                    "rope_scaling": {"rope_type": "linear", "factor": 8.0},
                },
            },
            131072,
        ),
        # Command R
        (stated(8192, model_max_length=131072), 131072),
        ({"model_type": "mamba"}, None),
    ],
    ids=str,
)
def test_a_server_stretches_the_length_by_the_positions(
    config: dict[str, Any], length: int | None
) -> None:
    assert served_context(config) == length
    assert evaluated_context(config, "VLLM") == length
    assert evaluated_context(config, "Transformers") == context_of(config)
