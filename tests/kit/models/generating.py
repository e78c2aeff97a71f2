"""Puts prompts and examples to a model through the transformers engine, one batch at a time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from finetune_trainer.evaluate.inference.engine import Likelihood, Prompt
from finetune_trainer.evaluate.inference.reading import Shared, score_batch
from finetune_trainer.evaluate.inference.transformers_engine import generate_batch
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from finetune_trainer.planning.answering import TOKENS_PER_BATCH


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """The results of one batch, in the order of its prompts; those not wanted are empty."""

    scored: list[Likelihood]
    texts: list[str | None]
    is_cut: list[bool]
    chosen: list[int]


def score_and_answer(
    model: Any,
    encoder: ChatTokenizer,
    prompts: Sequence[list[int]],
    references: Sequence[TokenizedExample | None],
    *,
    max_new_tokens: int | Sequence[int],
    shared: Shared | None = None,
    choices: Sequence[list[int]] = (),
    part_tokens: int | None = TOKENS_PER_BATCH,
) -> Answered:
    """Answer prompts, score their references, and choose; as ``generate_batch`` does."""
    limits = [max_new_tokens] * len(prompts) if isinstance(max_new_tokens, int) else max_new_tokens
    rows = references or [None] * len(prompts)
    said = generate_batch(
        model,
        [
            Prompt(token_ids=ids, max_new_tokens=limit, choices=choices, reference=row)
            for ids, limit, row in zip(prompts, limits, rows, strict=True)
        ],
        stop_ids=encoder.chat_format.stop_ids,
        pad_id=encoder.pad_id,
        shared=shared,
        part_tokens=part_tokens,
    )
    stops = set(encoder.chat_format.stop_ids)
    return Answered(
        scored=[each.reference or Likelihood(0.0, 0) for each in said] if references else [],
        texts=[
            encoder.reader.read_generated(prompt, each.token_ids)
            for prompt, each in zip(prompts, said, strict=True)
        ],
        is_cut=[stops.isdisjoint(each.token_ids) for each in said],
        chosen=[each.choice for each in said if each.choice is not None],
    )


def generate_answers(
    model: Any,
    encoder: ChatTokenizer,
    prompts: Sequence[list[int]],
    batch: Sequence[int],
    *,
    max_new_tokens: int,
) -> dict[int, str | None]:
    """Return the answers of transformers' ``generate``, which reads each prompt by itself."""
    said = score_and_answer(
        model,
        encoder,
        [prompts[index] for index in batch],
        [],
        max_new_tokens=max_new_tokens,
        part_tokens=None,
    )
    return dict(zip(batch, said.texts, strict=True))


def score_likelihood(
    model: Any,
    examples: Sequence[TokenizedExample],
    batch: Sequence[int],
    *,
    pad_id: int,
    shared: Shared | None = None,
) -> dict[int, Likelihood]:
    """Return the likelihood of some of the examples, by index."""
    rows = [examples[index] for index in batch]
    return dict(zip(batch, score_batch(model, rows, pad_id=pad_id, shared=shared), strict=True))
