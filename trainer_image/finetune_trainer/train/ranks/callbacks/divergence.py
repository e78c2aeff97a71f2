"""Leaves out updates that are not finite, and ends a training that makes no others.

One NaN in a gradient makes every weight NaN: clipping multiplies all gradients by the norm.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.tensor import DTensor
from transformers import Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from finetune_trainer.errors import UserError

MAX_STEPS_NOT_FINITE = 3
"""Steps in a row without a finite loss and gradient after which training has diverged."""


class WatchedSteps(Trainer):  # type: ignore[misc]
    """Notes whether the losses of an optimiser step are finite, and the norm of its gradient."""

    are_losses_finite: torch.Tensor | None = None
    gradient_norm: Any = None

    def training_step(self, *arguments: Any, **named: Any) -> torch.Tensor:
        """Train on a micro batch; its loss stays on the device."""
        loss: torch.Tensor = super().training_step(*arguments, **named)
        is_finite, earlier = torch.isfinite(loss).all(), self.are_losses_finite
        self.are_losses_finite = is_finite if earlier is None else earlier & is_finite
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        self.gradient_norm = super()._get_grad_norm(model, grad_norm)
        return self.gradient_norm


class FiniteSteps(TrainerCallback):  # type: ignore[misc]
    """Drops the gradients of a step that is not finite; stops after several such steps in a row.

    All ranks share what they found, so they decide alike. DeepSpeed drops such gradients itself.
    No checkpoint is saved at such a step: a run resumes before it. Each attempt counts anew.

    Args:
        tell: Called with a message for people.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._trainer: Any = None
        self._num_in_a_row = 0
        self._cause = ""
        self._rank: int | None = None
        self._diverged_at: int | None = None

    def attach(self, trainer: WatchedSteps) -> None:
        """Set the trainer whose steps are watched."""
        self._trainer = trainer

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Drop the gradients if this step is not finite on any rank."""
        rank, is_gradient_finite = self._compare(args)
        if rank is None and is_gradient_finite:
            self._num_in_a_row = 0
            return
        cause = "the gradient is not finite, though every loss is"
        if rank is not None:
            cause = f"the loss of rank {rank} is not finite"
        if self._num_in_a_row == 0:
            self._cause, self._rank = cause, rank
        self._num_in_a_row += 1
        self._trainer.optimizer.zero_grad()
        self._tell(f"step {state.global_step + 1} changes no weight: {cause}")

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        """Save nothing at such a step; stop after too many of them."""
        if self._num_in_a_row == 0:
            return
        control.should_save = False
        if self._num_in_a_row >= min(MAX_STEPS_NOT_FINITE, state.max_steps):
            self._diverged_at = state.global_step
            control.should_training_stop = True
            control.should_evaluate = False

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Let the next point of the curve begin at 0: transformers subtracts NaN from NaN."""
        if "loss" in (logs or {}):
            self._trainer._tr_loss.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)

    def raise_if_diverged(self, *, total_steps: int) -> None:
        """Raise ``UserError`` if training ended because its steps were not finite.

        It is an error of the user, which is not retried: the next attempt would resume at the last
        checkpoint, repeat the same steps on the same rows, and end in the same way.
        """
        last = self._diverged_at
        if last is None:
            return
        first = last - self._num_in_a_row + 1
        error = UserError(
            "Diverged",
            f"training diverged at step {first} of {total_steps}: {self._cause}, and "
            f"{self._num_in_a_row} steps in a row changed no weight (learning rate "
            f"{self._trainer.args.learning_rate:g}). Checkpoints before that step are kept. It is "
            "not tried again: another attempt would repeat these steps. Create a job with a lower "
            "hyperparameters.learningRate, or precision Float32; initFrom can begin at a "
            "checkpoint. If the same job diverges elsewhere each time, check the GPU of the rank",
        )
        error.rank = self._rank  # type: ignore[attr-defined]
        raise error

    def _compare(self, args: TrainingArguments) -> tuple[int | None, bool]:
        """Return the first rank with a loss that is not finite, and whether the gradient is.

        All ranks must call it alike.
        """
        trainer, device = self._trainer, args.device
        losses, trainer.are_losses_finite = trainer.are_losses_finite, None
        rank = torch.full((), args.process_index, device=device)
        first = torch.where(losses, torch.full_like(rank, args.world_size), rank)
        votes = torch.stack([first, _is_finite(trainer.gradient_norm, device).to(first.dtype)])
        if args.world_size > 1 and dist.is_available() and dist.is_initialized():
            dist.all_reduce(votes, op=dist.ReduceOp.MIN)
        found, is_gradient_finite = votes.tolist()
        return (found if found < args.world_size else None), bool(is_gradient_finite)


def _is_finite(norm: Any, device: torch.device) -> torch.Tensor:
    """Return whether a norm is finite; DeepSpeed may have none, FSDP2 has a sharded one."""
    if isinstance(norm, DTensor):
        norm = norm.full_tensor()
    return torch.isfinite(torch.as_tensor(0.0 if norm is None else norm, device=device))
