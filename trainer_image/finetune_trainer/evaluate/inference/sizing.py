"""Decides where the questions are asked, and how many together, from what they need of memory."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.tokenized import TokenizedQuestions, batch_prompts, pair_references
from finetune_trainer.model.hardware import Hardware, claimed_gpus, require_gpus
from finetune_trainer.model.pair import ADAPTER_WEIGHTS
from finetune_trainer.planning.answering import (
    AnsweringMemory,
    Asked,
    estimate_answering,
    most_held,
)
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.fit import COMFORT
from finetune_trainer.planning.headers import read_header
from finetune_trainer.planning.placement import Placement, place_on_cpu, place_on_gpus
from finetune_trainer.planning.setup import FLOAT32, Setup


def count_row_bytes(model: Architecture, encoded: TokenizedQuestions, *, bfloat16: bool) -> int:
    """Return what the longest question takes beside the weights: cache, logits, temporaries."""
    rows = [
        (len(each.input_ids), sum(end - start for start, end in each.spans))
        for each in encoded.examples
    ] or [(1, 0)]
    longest, counted = max(rows)
    asked = Asked(
        rows=1,
        prompt_tokens=max(map(len, encoded.prompts), default=1),
        answer_tokens=encoded.answer_tokens,
        reference_tokens=max(_reference_sizes(encoded).values(), default=0),
        scored_rows=1,
        scored_tokens=longest,
        counted_tokens=counted,
        choice_tokens=max(map(len, encoded.choices), default=0),
    )
    need = _estimate(model, asked, bfloat16=bfloat16)
    return need.total - need.weights


def adapter_bytes(folder: Path | None) -> int:
    """Return what an adapter takes: it is loaded in float32. 0 where there is none.

    Args:
        folder: Local adapter, or a model that was tuned whole.
    """
    if folder is None or not (folder / ADAPTER_WEIGHTS).exists():
        return 0
    tensors = read_header(folder / ADAPTER_WEIGHTS).values()
    return FLOAT32 * sum(math.prod(tensor.shape) for tensor in tensors)


def choose_held(
    model: Architecture,
    several: Sequence[TokenizedQuestions],
    *,
    size: int,
    adapter: int = 0,
    bfloat16: bool,
    placement: Placement,
    hardware: Hardware,
) -> int:
    """Return how many tokens of conversations each worker holds while it answers them together.

    Args:
        model: The base model.
        several: The questions of each side.
        size: Bytes of the largest model's weights.
        adapter: Bytes of the adapter.
        bfloat16: Type of the weights; else float32.
        placement: Who answers.
        hardware: What this node offers.
    """
    group = max(1, placement.gpus_per_worker)

    @cache
    def describe(held: int) -> list[list[Asked]]:
        return [_describe_batches(encoded, held) for encoded in several]

    def need(held: int) -> int:
        needs = [
            replace(
                _estimate(model, asked, bfloat16=bfloat16), weights=size, adapter=adapter
            ).on_each(group)
            for batches in describe(held)
            for asked in batches
        ]
        return max(needs, default=0)

    return most_held(
        model,
        need,
        int(COMFORT * placement.memory_of_each(hardware.memory_bytes)),
        num_batches=lambda held: max(map(len, describe(held)), default=0),
        num_workers=placement.num_workers,
    )


def _describe_batches(encoded: TokenizedQuestions, held: int) -> list[Asked]:
    """Return the shape of each batch of prompts where so many tokens are held."""
    references = _reference_sizes(encoded)
    batches = batch_prompts(encoded, None, held_tokens=held)
    return [
        Asked(
            rows=len(batch),
            prompt_tokens=max(len(encoded.prompts[number]) for number in batch),
            answer_tokens=max(map(encoded.limit_of, batch)),
            reference_tokens=max(references.get(number, 0) for number in batch),
            scored_rows=1,
            scored_tokens=1,
            counted_tokens=0,
            choice_tokens=max(map(len, encoded.choices), default=0),
        )
        for batch in batches
    ]


def _reference_sizes(encoded: TokenizedQuestions) -> dict[int, int]:
    """Return the tokens that follow each prompt in the example that is scored with it."""
    return {
        prompt: len(encoded.examples[example].input_ids) - len(encoded.prompts[prompt])
        for prompt, example in pair_references(encoded).items()
    }


def _estimate(model: Architecture, asked: Asked, *, bfloat16: bool) -> AnsweringMemory:
    return estimate_answering(model, Setup(adapter="Full", bfloat16=bfloat16), asked)


def choose_placement(
    job: ResolvedJob, hardware: Hardware, *, size: int, num_questions: int, row_bytes: int = 0
) -> Placement:
    """Decide which processes hold the model, from what this pod was given.

    Args:
        job: The effective job.
        hardware: What this node offers.
        size: Bytes of the model's weights.
        num_questions: Questions to answer.
        row_bytes: What the longest of them takes beside the weights.

    Raises:
        UserError: GPUs were asked for and none is visible, or all do not hold the model.
    """
    asked = job.spec.evaluation_gpus
    if require_gpus(min(1, asked), hardware):
        return place_on_gpus(
            weight_bytes=size,
            num_gpus=min(asked, hardware.num_gpus),
            gpu_bytes=hardware.memory_bytes,
            num_questions=num_questions,
            row_bytes=row_bytes,
        )
    return place_on_cpu(
        weight_bytes=size,
        num_processes=min(asked, claimed_gpus(asked)),
        num_cores=hardware.num_cpus,
        memory_bytes=hardware.memory_bytes,
        num_questions=num_questions,
    )
