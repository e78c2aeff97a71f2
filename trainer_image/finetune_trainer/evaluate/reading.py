"""Reads a prompt once, for its reference's likelihood and for the model's own answer.

A prompt is most of what a short answer costs. So prompt and reference go through the model
together, the cache is cut back to the prompt, and the answer goes on from there. Models whose cache
cannot be cut (sliding windows, states) read the prompt again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from finetune_trainer.evaluate import scoring
from finetune_trainer.evaluate.caches import Shared, accepted, cut_back
from finetune_trainer.evaluate.choosing import choose
from finetune_trainer.model.encoding import IGNORED, Encoded, Encoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel


def pair_prompts(prompts: Sequence[list[int]], examples: Sequence[Encoded]) -> dict[int, int]:
    """Return of each prompt the first example that begins with it and counts only after it.

    Args:
        prompts: Token ids of the prompts.
        examples: All examples.

    Returns:
        Indexes of examples by those of prompts; a prompt may have none.
    """
    numbers = {tuple(ids): number for number, ids in reversed(list(enumerate(prompts)))}
    pairs: dict[int, int] = {}
    for index, example in enumerate(examples):
        if not example.spans:
            continue
        start, end = example.spans[0]
        number = numbers.get(tuple(example.input_ids[:start])) if start < end else None
        if number is not None:
            pairs.setdefault(number, index)
    return pairs


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What a model made of one batch of prompts.

    Attributes:
        scored: Of each the summed negative log-likelihood (nats) and the counted tokens of its
            reference; empty without references.
        texts: Greedy answers; None where reasoning has no end.
        chosen: Number of the likeliest choice; empty without choices.
    """

    scored: list[tuple[float, int]]
    texts: list[str | None]
    chosen: list[int]


def score_and_answer(
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[list[int]],
    references: Sequence[Encoded],
    *,
    max_new_tokens: int | Sequence[int],
    shared: Shared | None = None,
    choices: Sequence[list[int]] = (),
) -> Answered:
    """Score references, answer their prompts, and choose among given answers.

    Args:
        model: The model.
        encoder: Its encoder, for what answers end with and what in them counts.
        prompts: Token ids of the prompts of one batch.
        references: For each the example that begins with it, as :func:`pair_prompts` finds it;
            none to score none.
        max_new_tokens: Longest answer in tokens, of all or of each.
        shared: What all of them begin with; at least one token of each follows.
        choices: Token ids of answers to choose the likeliest from.
    """
    width = max(map(len, prompts))
    num_shared = shared.num_tokens if shared is not None else 0
    ids, labels, mask = (
        part.to(model.device)
        for part in _lay_out(
            prompts, references, width=width, pad_id=encoder.pad_id, num_shared=num_shared
        )
    )
    scored, cache = (
        _read(model, ids, labels, mask, width=width, shared=shared)
        if references or choices or shared is not None
        else ([], None)
    )
    ids, mask = ids[:, :width], mask[:, :width]
    chosen = choose(model, ids, mask, choices, cache=cache) if choices else []
    texts = scoring.continue_greedily(
        model, encoder, ids, mask, max_new_tokens=max_new_tokens, cache=cache
    )
    return Answered(scored=scored, texts=texts, chosen=chosen)


def _read(
    model: PreTrainedModel,
    ids: Tensor,
    labels: Tensor,
    mask: Tensor,
    *,
    width: int,
    shared: Shared | None,
) -> tuple[list[tuple[float, int]], DynamicCache | None]:
    """Read prompts with what follows them; returns the scores and a cache of the prompts.

    The cache lacks the last token of each prompt, which an answer begins from.
    """
    import torch

    num_scored = ids.shape[1] - width
    # Nothing follows the last token, so it need not be read.
    end = ids.shape[1] - 1
    begin = shared.num_tokens if shared is not None else 0
    if begin >= end:
        return [], shared.repeated(len(ids)) if shared is not None else None
    past = {} if shared is None else {"past_key_values": shared.repeated(len(ids))}
    with torch.inference_mode():
        output = model(
            input_ids=ids[:, begin:end],
            attention_mask=mask[:, :end],
            use_cache=True,
            **past,
            **accepted(model, mask[:, :end], num_scored=max(1, num_scored), begin=begin),
        )
        scored = (
            scoring.sum_losses(output.logits[:, -num_scored:], labels[:, width:])
            if num_scored
            else []
        )
    return scored, cut_back(output.past_key_values, read=end, kept=width - 1)


def _lay_out(
    prompts: Sequence[list[int]],
    references: Sequence[Encoded],
    *,
    width: int,
    pad_id: int,
    num_shared: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, labels and mask: prompts end, and references begin, in one column.

    What prompts share stands in the first columns, and what fills the shorter ones behind it.
    """
    import torch

    pairs = list(zip(prompts, references, strict=True)) if references else []
    longest = max((len(example.input_ids) - len(prompt) for prompt, example in pairs), default=0)
    shape = (len(prompts), width + longest)
    ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt) + num_shared
        for begin, tokens in ((0, prompt[:num_shared]), (start, prompt[num_shared:])):
            ids[row, begin : begin + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[row, begin : begin + len(tokens)] = 1
    for row, (prompt, example) in enumerate(pairs):
        rest = len(example.input_ids) - len(prompt)
        ids[row, width : width + rest] = torch.tensor(example.input_ids[len(prompt) :])
        labels[row, width : width + rest] = torch.tensor(example.labels[len(prompt) :])
        mask[row, width : width + rest] = 1
    return ids, labels, mask
