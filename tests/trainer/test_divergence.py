"""A step that is not finite changes no weight; after several in a row training has diverged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import TrainerCallback

from finetune_trainer.errors import UserError
from finetune_trainer.planning.setup import Setup
from finetune_trainer.train.ranks.callbacks.divergence import FiniteSteps
from kit.models.measured_trainer import Case, make_trainer

pytestmark = pytest.mark.filterwarnings("ignore")  # libraries, on models smaller than they expect
SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


class Recorder(TrainerCallback):
    """Copies the trained weights after every step."""

    def __init__(self, weights: dict[str, torch.Tensor]) -> None:
        self.weights = weights
        self.copies = [self.copy()]

    def copy(self) -> dict[str, torch.Tensor]:
        return {name: weight.detach().clone() for name, weight in self.weights.items()}

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.copies.append(self.copy())

    def has_moved(self, step: int) -> bool:
        """Return whether any weight moved in a step, counted from 1."""
        before, after = self.copies[step - 1 : step + 1]
        return any(not torch.equal(before[name], after[name]) for name in before)


class Watched:
    """Two steps of training, watched."""

    def __init__(self, folder: Path) -> None:
        setup = Setup(use_gpu=False, rank=2, bfloat16=False, dropout=False)
        torch.manual_seed(0)
        base = transformers.AutoModelForCausalLM.from_config(transformers.LlamaConfig(**SIZE))
        case = Case(family="llama", rows=2, length=8, setup=setup)
        self.trainer = make_trainer(case, base, folder)
        self.trainer.args.warmup_steps = 0
        self.said: list[str] = []
        self.finite = FiniteSteps(self.said.append)
        self.finite.attach(self.trainer)
        named = self.trainer.model.named_parameters()
        self.recorder = Recorder({n: p for n, p in named if p.requires_grad})
        self.trainer.add_callback(self.finite)
        self.trainer.add_callback(self.recorder)

    def spoil_losses(self, steps: set[int]) -> None:
        """Make the losses of these steps NaN, counted from 1."""
        compute: Callable[..., torch.Tensor] = self.trainer.compute_loss

        def spoiled(*arguments: Any, **named: Any) -> torch.Tensor:
            loss = compute(*arguments, **named)
            is_wrong = self.trainer.state.global_step + 1 in steps
            return loss * float("nan") if is_wrong else loss

        self.trainer.compute_loss = spoiled


def test_a_step_whose_loss_is_not_finite_changes_no_weight(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.spoil_losses({1})
    watched.trainer.train()
    watched.finite.raise_if_diverged(total_steps=2)
    assert watched.said == ["step 1 changes no weight: the loss of rank 0 is not finite"]
    assert [watched.recorder.has_moved(step) for step in (1, 2)] == [False, True]
    losses = [entry["loss"] for entry in watched.trainer.state.log_history if "loss" in entry]
    assert [torch.isfinite(torch.tensor(loss)).item() for loss in losses] == [False, True]


def test_a_gradient_that_is_not_finite_is_found_behind_a_finite_loss(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    weight = next(iter(watched.recorder.weights.values()))
    weight.register_hook(lambda gradient: gradient * float("inf"))
    watched.trainer.train()
    with pytest.raises(UserError, match="the gradient is not finite, though every loss is"):
        watched.finite.raise_if_diverged(total_steps=2)
    assert not watched.recorder.has_moved(1)


def test_training_ends_when_no_step_in_a_row_is_finite(tmp_path: Path) -> None:
    watched = Watched(tmp_path)
    watched.spoil_losses({1, 2})
    watched.trainer.train()
    with pytest.raises(UserError, match="diverged at step 1 of 2: the loss of rank 0") as caught:
        watched.finite.raise_if_diverged(total_steps=2)
    assert caught.value.reason == "Diverged"
    assert "learning rate 0.0001" in caught.value.message


def test_steps_that_are_finite_are_as_without_a_watch(tmp_path: Path) -> None:
    watched, plain = Watched(tmp_path / "a"), Watched(tmp_path / "b")
    plain.trainer.remove_callback(plain.finite)
    for each in (watched, plain):
        each.trainer.train()
    assert watched.said == []
    for name, weight in watched.recorder.weights.items():
        assert torch.equal(weight, plain.recorder.weights[name])
