"""The balance of a mixture's experts is trained only with its router, and never validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from finetune_trainer.planning.experts import trains_router
from finetune_trainer.planning.setup import Setup
from finetune_trainer.train.recipe.selection import VALIDATION_LOSS
from kit.models.measured_trainer import Case, make_trainer

SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "num_local_experts": 4,
}
CASE = Case(family="mixtral", rows=2, length=8, setup=Setup(use_gpu=False, dropout=False, rank=2))


@pytest.mark.parametrize(
    ("model_type", "adapter", "targets", "expected"),
    [
        ("mixtral", "LoRA", ("all-linear",), True),
        ("mixtral", "LoRA", ("q_proj", "v_proj"), False),
        ("gpt_oss", "LoRA", ("all-linear",), False),
        ("gpt_oss", "Full", ("all-linear",), True),
    ],
)
def test_whose_router_is_trained(
    model_type: str, adapter: str, targets: tuple[str, ...], expected: bool
) -> None:
    assert trains_router(model_type, adapter, targets) is expected


@pytest.mark.filterwarnings("ignore")  # libraries, on models smaller than they expect
def test_the_validation_loss_is_that_of_the_answers_alone(tmp_path: Path) -> None:
    losses = []
    for number, weight in enumerate((0.9, 0.0)):
        torch.manual_seed(0)
        config = transformers.MixtralConfig(**SIZE, router_aux_loss_coef=weight)
        model = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
        trainer = make_trainer(CASE, model, tmp_path / str(number))
        assert trainer.aux_loss_enabled is (weight > 0)
        trainer.eval_dataset = trainer.train_dataset
        trainer.model_wrapped = trainer.model
        losses.append(trainer.evaluate()[VALIDATION_LOSS])
        assert trainer.aux_loss_enabled is (weight > 0)
    assert losses[0] == losses[1]
