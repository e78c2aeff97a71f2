"""Decides the processes of an evaluation and the share of each. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from finetune_trainer.errors import UserError

GIB = 1024**3
WEIGHTS_SHARE = 0.8
"""Share of memory that weights may take; the rest is for keys and values, logits, the runtime."""
PROCESS_BYTES = GIB
"""Bytes of a process on the CPU without a model: libraries, tokenizer, questions."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Number of worker processes, and GPUs that each model is spread over; 0 is the CPU."""

    num_workers: int
    gpus_per_worker: int

    def memory_of_each(self, memory_bytes: int) -> int:
        """Return the memory of each device, or the share of each process on the CPU."""
        return memory_bytes if self.gpus_per_worker else memory_bytes // self.num_workers

    def describe(self) -> str:
        """Say where the models are, in words that follow ``on``."""
        workers = f"{self.num_workers} process{'es' if self.num_workers > 1 else ''}"
        if self.gpus_per_worker == 0:
            return f"{workers}, CPU"
        if self.gpus_per_worker == 1:
            return f"{workers}, one GPU each"
        return f"{workers}, the model spread over {self.gpus_per_worker} GPUs each"


def place_on_gpus(
    *, weight_bytes: int, num_gpus: int, gpu_bytes: int, num_questions: int, row_bytes: int = 0
) -> Placement:
    """Put the model on as few GPUs as hold it, and a copy on each such group.

    Args:
        weight_bytes: Of the model's weights.
        num_gpus: Number of equal GPUs.
        gpu_bytes: Memory of one of them.
        num_questions: Questions to answer: more workers than these would be idle.
        row_bytes: Of one conversation beside the weights, on the GPU with the logits.

    Raises:
        UserError: ``ModelTooLarge``: all GPUs together do not hold it.
    """
    usable = gpu_bytes * WEIGHTS_SHARE
    for group in range(1, num_gpus + 1):
        has_room = weight_bytes / group + row_bytes <= gpu_bytes
        if weight_bytes <= usable * group and has_room:
            workers = min(num_gpus // group, max(1, num_questions))
            return Placement(num_workers=workers, gpus_per_worker=group)
    raise UserError(
        "ModelTooLarge",
        f"the base model's weights take {weight_bytes / GIB:.1f} GiB, and the evaluation's "
        f"{num_gpus} GPU(s) of {gpu_bytes / GIB:.1f} GiB hold at most "
        f"{usable * num_gpus / GIB:.1f} GiB beside what answering needs "
        f"({row_bytes / GIB:.1f} GiB for the longest row alone); raise resources.gpusPerNode (and "
        "evaluation.gpus, if it is set), or use method.adapter.type "
        "QLoRA, which keeps the base in 4 bits",
    )


def place_on_cpu(
    *, weight_bytes: int, num_processes: int, num_cores: int, memory_bytes: int, num_questions: int
) -> Placement:
    """Run as many processes as requested, and as cores, memory and questions allow."""
    fitting = int(memory_bytes * WEIGHTS_SHARE // (weight_bytes + PROCESS_BYTES))
    workers = min(num_processes, num_cores, fitting, num_questions)
    return Placement(num_workers=max(1, workers), gpus_per_worker=0)
