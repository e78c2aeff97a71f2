"""Optimisers are the ones asked for, and keep as much memory as the plan says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from bitsandbytes.optim import GlobalOptimManager

from finetune_trainer.planning.architecture import describe_architecture
from finetune_trainer.planning.memory import estimate_training
from finetune_trainer.planning.setup import Batch, Setup
from kit.models.measured_trainer import Case, make_trainer

SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "tie_word_embeddings": False,
}


@pytest.fixture(autouse=True)
def _forget_earlier_models() -> None:
    """bitsandbytes notes by id which weights keep 32 bits, and a new weight may get an old id."""
    GlobalOptimManager.get_instance().initialize()


def train(folder: Path, setup: Setup) -> Any:
    case = Case(family="llama", rows=2, length=8, setup=setup)
    torch.manual_seed(0)
    base = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZE))
    trainer = make_trainer(case, base, folder)
    trainer.train()
    return trainer


def num_state_bytes(trainer: Any) -> int:
    """Count the tensors of an optimiser's states but for the tables of 8-bit values."""
    optimizer = trainer.optimizer.optimizer
    return sum(
        value.numel() * value.element_size()
        for state in optimizer.state.values()
        for name, value in state.items()
        if isinstance(value, torch.Tensor) and value.dim() and not name.startswith("qmap")
    )


@pytest.mark.filterwarnings("ignore")  # libraries, on models smaller than they expect
@pytest.mark.parametrize("adapter", ["Full", "LoRA"])
@pytest.mark.parametrize(
    "optimizer",
    ["AdamW", "AdamW8bit", "Adafactor"],
)
def test_states_are_as_large_as_planned(tmp_path: Path, optimizer: str, adapter: str) -> None:
    # Of tensors below 4,096 weights bitsandbytes keeps 32 bits: rank 32 leaves none of them.
    setup = Setup(
        use_gpu=False,
        adapter=adapter,
        rank=32,
        bfloat16=False,
        dropout=False,
        optimizer=optimizer,
    )
    trainer = train(tmp_path, setup)
    model = describe_architecture({"model_type": "llama", **SIZE}, {})
    planned = estimate_training(model, setup, Batch(rows=2, longest=8, tokens=16)).optimizer
    assert num_state_bytes(trainer) == pytest.approx(planned, rel=0.02)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("optimizer", "kind"), [("AdamW", "AdamW"), ("Adafactor", "Adafactor")])
def test_the_optimizer_is_the_one_asked_for(tmp_path: Path, optimizer: str, kind: str) -> None:
    trainer = train(tmp_path, Setup(use_gpu=False, rank=2, bfloat16=False, optimizer=optimizer))
    assert type(trainer.optimizer.optimizer).__name__ == kind
