"""Attention of grouped queries gives what transformers' own gives, for every kind of mask."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    FalconH1Config,
    Gemma3TextConfig,
    GlmConfig,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen3Config,
)

from finetune_trainer.model.kernels.grouped_attention import NAME, attend_in_groups

pytestmark = pytest.mark.slow  # it needs torch

SHAPE: dict[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 48,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GROUPED = {
    "llama": LlamaConfig(**SHAPE),
    "one shared head": LlamaConfig(**{**SHAPE, "num_key_value_heads": 1}),
    "sliding window": MistralConfig(**SHAPE, sliding_window=5),
    "norms of queries": Qwen3Config(**SHAPE),
    "windows and whole": Gemma3TextConfig(
        **SHAPE,
        sliding_window=5,
        query_pre_attn_scalar=8,
        layer_types=["sliding_attention", "full_attention", "sliding_attention"],
    ),
    "fused projections": Phi3Config(
        **{**SHAPE, "num_attention_heads": 4}, original_max_position_embeddings=128
    ),
    "partial rotation": GlmConfig(**SHAPE),
    "hybrid": FalconH1Config(
        **SHAPE, mamba_d_ssm=32, mamba_n_heads=4, mamba_d_head=8, mamba_n_groups=1, mamba_d_state=8
    ),
}


def make_model(config: PreTrainedConfig) -> PreTrainedModel:
    torch.manual_seed(5)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    return model.eval()


def make_rows() -> tuple[torch.Tensor, torch.Tensor]:
    ids = torch.randint(3, 64, (3, 12), generator=torch.Generator().manual_seed(7))
    mask = torch.ones_like(ids)
    mask[1, :5] = 0
    mask[2, :1] = 0
    return ids, mask


@pytest.mark.parametrize("kind", GROUPED)
def test_prompts_and_answers_are_those_of_transformers(kind: str) -> None:
    plain = make_model(GROUPED[kind])
    grouped = deepcopy(plain)
    attend_in_groups(grouped)
    assert grouped.config._attn_implementation == NAME
    assert plain.config._attn_implementation == "sdpa"
    ids, mask = make_rows()
    with torch.inference_mode():
        expected = plain(input_ids=ids, attention_mask=mask).logits
        found = grouped(input_ids=ids, attention_mask=mask).logits
        answers = [
            model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=10,
                min_new_tokens=10,
                do_sample=False,
                output_scores=True,
                return_dict_in_generate=True,
            )
            for model in (plain, grouped)
        ]
    seen = mask.bool()
    torch.testing.assert_close(found[seen], expected[seen], rtol=0, atol=1e-5)
    assert torch.equal(answers[0].sequences, answers[1].sequences)
    torch.testing.assert_close(answers[1].scores, answers[0].scores, rtol=0, atol=1e-5)


def test_tokens_behind_a_cache_see_what_they_should() -> None:
    plain = make_model(GROUPED["llama"])
    grouped = deepcopy(plain)
    attend_in_groups(grouped)
    ids, mask = make_rows()
    with torch.inference_mode():
        expected = plain(input_ids=ids, attention_mask=mask).logits[:, 8:]
        cache = grouped(input_ids=ids[:, :8], attention_mask=mask[:, :8]).past_key_values
        found = grouped(input_ids=ids[:, 8:], attention_mask=mask, past_key_values=cache).logits
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def test_keys_and_values_are_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers.integrations import sdpa_attention

    model = make_model(GROUPED["llama"])
    attend_in_groups(model)
    monkeypatch.setattr(sdpa_attention, "repeat_kv", pytest.fail)
    ids, mask = make_rows()
    model.generate(input_ids=ids, attention_mask=mask, max_new_tokens=4, do_sample=False)


@pytest.mark.parametrize(
    ("config", "implementation"),
    [(LlamaConfig(**SHAPE), "eager"), (GPT2Config(n_embd=16, n_head=2, n_layer=1), "sdpa")],
    ids=["another attention stays", "without groups nothing changes"],
)
def test_other_models_answer_as_before(config: PreTrainedConfig, implementation: str) -> None:
    torch.manual_seed(5)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=implementation).eval()
    ids, mask = make_rows()
    with torch.inference_mode():
        expected = model(input_ids=ids, attention_mask=mask).logits
        attend_in_groups(model)
        found = model(input_ids=ids, attention_mask=mask).logits
    assert torch.equal(found, expected)
