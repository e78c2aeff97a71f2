"""Decides how many examples a step takes over all ranks, and how ranks split them. Pure.

8 examples below 1,000 training rows, 16 below 10,000, else 32; independent of the world size.
Source: "LoRA Without Regret", Schulman et al. 2025.
"""

from __future__ import annotations

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import UserError


def share_batch(job: ResolvedJob, num_rows: int) -> tuple[int, int]:
    """Return the examples of one optimiser step, and of one rank's share of it."""
    hyper = job.spec.hyperparameters
    global_batch = decide_global_batch(
        hyper.global_batch_size, num_rows, job.world_size, hyper.micro_batch_size
    )
    return global_batch, global_batch // job.world_size


def decide_global_batch(
    asked: int | str, num_rows: int, world_size: int, micro: int | str = "auto"
) -> int:
    """Return examples per optimiser step, a multiple of the world size.

    ``asked`` is ``hyperparameters.globalBatchSize``. A default batch also divides by ``micro``.

    Raises:
        UserError: The asked size does not divide over the ranks.
    """
    if isinstance(asked, int):
        if asked % world_size:
            below, above = asked // world_size * world_size, -(-asked // world_size) * world_size
            near = f"{below} or {above}" if below else str(above)
            raise UserError(
                "InvalidGlobalBatchSize",
                f"hyperparameters.globalBatchSize {asked} does not divide over {world_size} ranks "
                f"(nodes x gpusPerNode); use {near}",
            )
        return asked
    size = 8 if num_rows < 1_000 else 16 if num_rows < 10_000 else 32
    unit = world_size * (micro if isinstance(micro, int) else 1)
    return -(-size // unit) * unit


def check_micro_batch(asked: int | str, per_rank: int) -> int | None:
    """Return the asked examples per rank and forward pass, or None for ``auto``.

    Raises:
        UserError: The asked size does not divide the rank's share.
    """
    if not isinstance(asked, int):
        return None
    divisors = [n for n in range(1, per_rank + 1) if per_rank % n == 0]
    if asked not in divisors:
        raise UserError(
            "InvalidMicroBatchSize",
            f"hyperparameters.microBatchSize {asked} does not divide the {per_rank} examples a "
            f"rank takes per step; use one of {', '.join(map(str, divisors))}",
        )
    return asked


def check_verdict_batch(job: ResolvedJob, micro: int) -> None:
    """Refuse batches of one answer for KTO, which compares the answers of a batch."""
    if job.spec.method.objective == "KTO" and micro < 2:
        raise UserError(
            "MicroBatchTooSmall",
            "method.objective KTO compares the answers of a micro batch, and only one would fit; "
            "set hyperparameters.microBatchSize to 2 or more (a divisor of globalBatchSize over "
            "the ranks), or lower maxSequenceLength",
        )
