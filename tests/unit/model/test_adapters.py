"""Which modules get an adapter, on models whose modules cannot all carry one."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import FalconH1Config, FalconH1ForCausalLM

from finetune_api.v1alpha1.finetunejob import Adapter
from finetune_trainer.errors import UserError
from finetune_trainer.model.adapters import build_lora_config, check_target_modules


@pytest.fixture
def hybrid() -> Any:
    """A tiny model of attention and state-space layers."""
    return FalconH1ForCausalLM(
        FalconH1Config(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            mamba_d_ssm=32,
            mamba_n_heads=2,
            mamba_d_head=16,
            mamba_d_state=16,
            mamba_chunk_size=16,
        )
    )


def test_all_linear_leaves_out_what_kernels_read_past_the_adapter(hybrid: Any) -> None:
    from peft import get_peft_model

    adapted = get_peft_model(hybrid, build_lora_config(Adapter(), hybrid))
    names = {name for name, _ in adapted.named_parameters() if "lora_A" in name}
    assert any("in_proj" in name for name in names)
    assert any("o_proj" in name for name in names)
    assert not any("out_proj" in name for name in names)


def test_such_a_module_cannot_be_asked_for(hybrid: Any) -> None:
    with pytest.raises(UserError, match="out_proj"):
        check_target_modules(Adapter(target_modules=["in_proj", "out_proj"]), hybrid)
