"""Validation loss: exact, equal on all ranks, without an effect on training."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from transformers import Trainer, TrainerControl
from trl import SFTTrainer

from finetune_trainer.train.ranks.callbacks.divergence import WatchedSteps
from finetune_trainer.train.ranks.sharding import ShardedTrainer
from finetune_trainer.train.recipe.selection import VALIDATION_ERROR, VALIDATION_LOSS
from finetune_trainer.train.recipe.validation import estimate_standard_error


class ExactValidation(Trainer):  # type: ignore[misc]
    """Replaces transformers' evaluation loop of a TRL trainer.

    That loop averages batch means and counts some rows twice over several ranks. It also draws from
    training's random numbers, so validation would change the training.
    """

    control: TrainerControl
    aux_loss_enabled: bool

    def evaluate(self, *_: Any, **__: Any) -> dict[str, float]:
        """Measure the mean loss of the rows and its standard error; log and return both."""
        model = self.model_wrapped
        total = torch.zeros(6, dtype=torch.float64)
        model.eval()
        with untouched_random_numbers(self.args.device), self._answers_alone(), torch.no_grad():
            for rows, is_ours in self._rounds():
                batch = self._prepare_inputs(
                    self.data_collator([self.eval_dataset[i] for i in rows])
                )
                weight = self.weigh(batch)
                with self.compute_loss_context_manager():
                    loss = float(self.compute_loss(model, batch))
                if is_ours:
                    total += _sums_of(loss, weight)
                self.callback_handler.on_prediction_step(self.args, self.state, self.control)
        if dist.is_available() and dist.is_initialized():
            total = total.to(self.args.device)
            dist.all_reduce(total)
        metrics = {VALIDATION_LOSS: float(total[0] / total[1])}
        error = estimate_standard_error(total.tolist())
        if error is not None:
            metrics[VALIDATION_ERROR] = error
        self.log(metrics)
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        return metrics

    def weigh(self, batch: dict[str, torch.Tensor]) -> int:
        """Return how many terms the mean loss of a batch is made of."""
        return int((batch["labels"][..., 1:] != -100).sum())

    @contextmanager
    def _answers_alone(self) -> Iterator[None]:
        """Leave the balance among a mixture's experts, which TRL trains on, out of the loss."""
        balances = getattr(self, "aux_loss_enabled", False)
        self.aux_loss_enabled = False
        try:
            yield
        finally:
            self.aux_loss_enabled = balances

    def _rounds(self) -> Iterator[tuple[list[int], bool]]:
        # All ranks make as many forward passes, as sharded weights need; a rank that has run out of
        # rows makes one whose result does not count.
        size, rank = self.args.per_device_eval_batch_size, self.args.process_index
        count = len(self.eval_dataset)
        for start in range(0, count, size * self.args.world_size):
            first = start + rank * size
            rows = list(range(first, min(first + size, count)))
            yield rows or [0], bool(rows)


def _sums_of(loss: float, weight: int) -> torch.Tensor:
    """Return a batch's part in the sums that the mean and its standard error are made of."""
    product, square = loss * weight, weight * weight
    return torch.tensor(
        [product, weight, square, square * loss, product * product, 1], dtype=torch.float64
    )


@contextmanager
def untouched_random_numbers(device: torch.device) -> Iterator[None]:
    """Leave torch's random numbers as they are found, on the CPU and on ``device``."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


class LoraPlus(Trainer):  # type: ignore[misc]
    """Lets a trainer teach the B matrices of an adapter faster than the A matrices, on request."""

    optimizer: torch.optim.Optimizer | None
    _lora_plus_ratio: float | None = None

    def set_lora_plus_ratio(self, ratio: str | None) -> None:
        """Set the learning rate of B over that of A; None: they learn alike."""
        self._lora_plus_ratio = float(ratio) if ratio else None

    def create_optimizer(self, model: Any = None) -> torch.optim.Optimizer:
        """Build the optimiser once."""
        if self.optimizer is None and self._lora_plus_ratio is not None:
            from peft.optimizers import create_loraplus_optimizer

            kind, settings = self.get_optimizer_cls_and_kwargs(self.args, self.model)
            rate = settings.pop("lr")
            self.optimizer = create_loraplus_optimizer(
                self.model if model is None else model,
                kind,
                lr=rate,
                loraplus_lr_ratio=self._lora_plus_ratio,
                loraplus_weight_decay=self.args.weight_decay,
                # Whole modules beside the adapter learn as the A matrices do.
                loraplus_lr_embedding=rate,
                **settings,
            )
            # DeepSpeed flattens each group, and PEFT leaves some without a parameter.
            groups = self.optimizer.param_groups
            self.optimizer.param_groups = [group for group in groups if group["params"]]
        optimizer: torch.optim.Optimizer = super().create_optimizer(model)
        return optimizer


class SupervisedTrainer(ExactValidation, ShardedTrainer, LoraPlus, WatchedSteps, SFTTrainer):  # type: ignore[misc]
    """TRL's SFTTrainer with exact validation, LoRA+ and watched steps."""
