"""The needs of a run's evaluation, settled before it trains. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.asking import most_asked
from finetune_trainer.errors import UserError
from finetune_trainer.model.hardware import Hardware
from finetune_trainer.planning.answering import (
    AnsweringMemory,
    Asked,
    estimate_answering,
    largest_questions,
    most_held,
    one_row,
)
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.fit import COMFORT, DOUBT, GIB
from finetune_trainer.planning.placement import Placement, place_on_cpu, place_on_gpus
from finetune_trainer.train.recipe.planned import setup_of
from finetune_trainer.train.recipe.recipe import DataShape, Recipe

PARTS = {
    "weights": "the weights",
    "adapter": "the adapter",
    "cache": "the cache of the conversations that are answered together",
    "logits": "the logits of the references that are scored together",
    "activations": "a block's temporaries",
    "overhead": "the process",
}


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationPlan:
    """How the held-out questions are asked.

    Attributes:
        asked: The largest batches.
        held_tokens: Tokens of the conversations that a worker answers together.
        memory: Of one worker that holds the whole model, at most.
        placement: The workers.
        available: Bytes of one device, or of the node without GPUs.
    """

    asked: Asked
    held_tokens: int
    memory: AnsweringMemory
    placement: Placement
    available: int

    def to_json(self) -> dict[str, Any]:
        """Return it for ``finetune plan``."""
        group = max(1, self.placement.gpus_per_worker)
        return {
            "workers": self.placement.num_workers,
            "gpusPerWorker": self.placement.gpus_per_worker,
            "memory": {
                **self.memory.to_json(),
                "onEach": self.memory.on_each(group),
                "available": self.available,
            },
            "decidedBy": PARTS[self.memory.largest_part],
        }


def plan_evaluation(
    job: ResolvedJob,
    data: DataShape,
    model: Architecture,
    recipe: Recipe,
    hardware: Hardware,
    *,
    num_chosen: int | None = None,
    may_reason: bool = False,
) -> EvaluationPlan:
    """Settle the workers that ask the held-out questions, and their memory.

    Args:
        job: The effective job.
        data: The training side; held-out rows are taken to be no longer.
        model: The base model.
        recipe: How it is trained.
        hardware: Of a node.
        num_chosen: Questions that ``prepare`` chose, where the job leaves it open.
        may_reason: Reasoning may come before the answers.

    Raises:
        UserError: ``ModelTooLarge``: not even the longest row alone fits.
    """
    setup = setup_of(job, model, recipe)
    ask = partial(
        largest_questions,
        longest=max(1, data.longest_tokens // data.num_sequences),
        max_new_tokens=job.spec.evaluation.max_new_tokens,
        batch_size=job.spec.evaluation.batch_size,
        may_reason=may_reason,
    )
    # A published version is taken to be as large as this one: which it will be is not known yet.
    is_compared = any(g.over_published is not None for g in job.spec.evaluation.gates)
    count = partial(estimate_answering, model, setup, num_adapters=1 + is_compared)
    least = count(one_row(ask()))
    num_questions = most_asked(job.spec.evaluation, num_chosen)
    place = _place_on_gpus if recipe.use_gpu else _place_on_cpu
    placement = place(least, hardware, job.spec.evaluation_gpus, num_questions)
    group = max(1, placement.gpus_per_worker)
    held = most_held(
        model,
        lambda held: count(ask(held_tokens=held)).on_each(group),
        int(COMFORT * placement.memory_of_each(hardware.memory_bytes)),
        num_batches=lambda held: -(-num_questions // ask(held_tokens=held).rows),
        num_workers=placement.num_workers,
    )
    asked = ask(held_tokens=held)
    return EvaluationPlan(
        asked=asked,
        held_tokens=held,
        memory=count(asked),
        placement=placement,
        available=hardware.memory_bytes,
    )


def _place_on_gpus(
    least: AnsweringMemory, hardware: Hardware, wanted: int, num_questions: int
) -> Placement:
    return place_on_gpus(
        weight_bytes=least.weights,
        row_bytes=least.total - least.weights,
        num_gpus=min(wanted, hardware.num_gpus),
        gpu_bytes=hardware.memory_bytes,
        num_questions=num_questions,
    )


def _place_on_cpu(
    least: AnsweringMemory, hardware: Hardware, wanted: int, num_questions: int
) -> Placement:
    if least.total > DOUBT * hardware.memory_bytes:
        raise UserError(
            "ModelTooLarge",
            f"the evaluation needs about {least.total / GIB:.1f} GiB for its longest row alone, "
            f"most of it {PARTS[least.largest_part]}, and has {hardware.memory_bytes / GIB:.1f} "
            "GiB; lower hyperparameters.maxSequenceLength or evaluation.maxNewTokens, take a "
            "smaller model, or a node with more memory",
        )
    return place_on_cpu(
        weight_bytes=least.weights,
        num_processes=wanted,
        num_cores=hardware.num_cpus,
        memory_bytes=hardware.memory_bytes,
        num_questions=num_questions,
    )
