"""Which validation rows are measured during training, and how exact their loss is. Pure.

Every validation of a run measures the same rows, so the losses of two steps differ by the steps
and not by the rows. The rows follow from job and data alone. So an attempt that resumes with less
memory, and another trial of a sweep, draw from the same order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

from finetune_trainer.data.asking import order_rows

Objective = Literal["SFT", "DPO", "ORPO", "KTO"]

MAX_VALIDATION_SHARE = 0.1
"""Of the operations of training, what all validations of a run may cost."""
MIN_MEASURED_ROWS = 100
"""So many rows are measured whatever they cost: with fewer, chance chooses the step."""
MIN_BATCHES = 10
"""Into so many batches a sample is divided: the standard error is estimated from their means."""


def decide_measured_rows(
    num_rows: int, *, mean_tokens: float, trained_tokens: float, num_validations: int, cost: float
) -> int:
    """Return how many of the validation rows each validation measures.

    Args:
        num_rows: Rows of the validation side.
        mean_tokens: Their mean length.
        trained_tokens: Tokens of all steps of the run.
        num_validations: Validations of the run.
        cost: Operations of measuring a token over those of training on it.
    """
    of_each = num_validations * max(1.0, mean_tokens) * cost
    affordable = int(MAX_VALIDATION_SHARE * trained_tokens / of_each)
    return min(num_rows, max(MIN_MEASURED_ROWS, affordable))


def compare_with_training(objective: Objective, *, is_full: bool) -> float:
    """Return the operations of measuring a token over those of training on it.

    A forward pass is 1. The backward pass is 1 through frozen weights and 2 where all weights
    learn. DPO and KTO also ask the reference model; half of KTO's tokens are only read.
    Recomputed activations are left out: whether they are needed can change between attempts.
    """
    forward = 2 if objective in ("DPO", "KTO") else 1
    backward = (2 if is_full else 1) / (2 if objective == "KTO" else 1)
    return forward / (forward + backward)


def draw_measured_rows(num_rows: int, num_measured: int, *, seed: int) -> list[int]:
    """Return the indices of the measured rows: the first of one random order of all rows.

    A smaller sample of the same side is so a part of a larger one.
    """
    if num_measured >= num_rows:
        return list(range(num_rows))
    return order_rows(num_rows, seed=seed)[:num_measured]


def limit_batch(micro_batch_size: int, *, num_measured: int, num_rows: int, num_ranks: int) -> int:
    """Return the rows of one forward pass of a validation.

    A sample is divided into at least :data:`MIN_BATCHES` batches where it has as many rows.
    """
    if num_measured >= num_rows:
        return micro_batch_size
    return max(1, min(micro_batch_size, num_measured // (MIN_BATCHES * num_ranks)))


def estimate_standard_error(sums: Sequence[float]) -> float | None:
    """Return the standard error of a weighted mean of batch losses; None from a single batch.

    It is that of a ratio whose batches are drawn at random (Cochran 1977, "Sampling Techniques",
    equation 6.13). It is about rows that were not measured, and so holds for the whole side too.

    Args:
        sums: Over the batches of weight w and loss l: of w l, w, w w, w w l, w w l l, and 1.
    """
    weighted, weights, squares, losses, squared_losses, num_batches = sums
    if num_batches < 2 or not weights:
        return None
    mean = weighted / weights
    scatter = squared_losses - 2 * mean * losses + mean**2 * squares
    if not math.isfinite(scatter):
        return None
    # Rounding can leave less than nothing of equal losses.
    return math.sqrt(max(0.0, scatter) * num_batches / (num_batches - 1)) / weights
