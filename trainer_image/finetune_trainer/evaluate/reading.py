"""Reads a prompt once, for its reference's likelihood and for the model's own answer.

A prompt is most of what a short answer costs. So prompt and reference go through the model
together, the cache is cut back to the prompt, and the answer goes on from there. Models whose cache
cannot be cut (sliding windows, states) read the prompt again.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.evaluate import scoring
from finetune_trainer.model.encoding import IGNORED, Encoded, Encoder

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import Cache, PreTrainedModel


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


def score_and_answer(
    model: PreTrainedModel,
    encoder: Encoder,
    prompts: Sequence[list[int]],
    references: Sequence[Encoded],
    *,
    max_new_tokens: int,
) -> tuple[list[tuple[float, int]], list[str]]:
    """Score references and answer their prompts.

    Args:
        model: The model.
        encoder: Its encoder, for what answers end with and what in them counts.
        prompts: Token ids of the prompts of one batch.
        references: For each the example that begins with it, as :func:`pair_prompts` finds it.
        max_new_tokens: Longest answer in tokens.

    Returns:
        For each prompt the summed negative log-likelihood (nats) and the counted tokens of its
        reference, and the greedy answer.
    """
    import torch

    width = max(map(len, prompts))
    ids, labels, mask = _lay_out(prompts, references, width=width, pad_id=encoder.pad_id)
    ids, labels, mask = (t.to(model.device) for t in (ids, labels, mask))
    num_scored = ids.shape[1] - width
    with torch.inference_mode():
        # Nothing follows the last token, so it need not be read.
        output = model(
            input_ids=ids[:, :-1],
            attention_mask=mask[:, :-1],
            use_cache=True,
            **_accepted(model, mask[:, :-1], num_scored=num_scored),
        )
        scored = scoring.sum_losses(output.logits[:, -num_scored:], labels[:, width:])
    cache = _cut_back(output.past_key_values, read=ids.shape[1] - 1, kept=width - 1)
    del output
    texts = scoring.continue_greedily(
        model,
        encoder,
        ids[:, :width],
        mask[:, :width],
        max_new_tokens=max_new_tokens,
        cache=cache,
    )
    return scored, texts


def _lay_out(
    prompts: Sequence[list[int]], references: Sequence[Encoded], *, width: int, pad_id: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, labels and mask: prompts end, and references begin, in one column."""
    import torch

    longest = max(
        len(example.input_ids) - len(prompt)
        for prompt, example in zip(prompts, references, strict=True)
    )
    shape = (len(prompts), width + longest)
    ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, (prompt, example) in enumerate(zip(prompts, references, strict=True)):
        start, size = width - len(prompt), len(example.input_ids)
        ids[row, start : start + size] = torch.tensor(example.input_ids)
        labels[row, start : start + size] = torch.tensor(example.labels)
        mask[row, start : start + size] = 1
    return ids, labels, mask


def _accepted(model: PreTrainedModel, mask: Tensor, *, num_scored: int) -> dict[str, Any]:
    """Return what of positions and wanted logits this kind of model is told."""
    # An adapter's wrapper takes anything; what is inside decides.
    inner = getattr(model, "get_base_model", lambda: model)()
    names = inspect.signature(inner.forward).parameters
    told: dict[str, Any] = {}
    if "position_ids" in names:
        told["position_ids"] = (mask.cumsum(dim=-1) - 1).clamp(min=0)
    if "logits_to_keep" in names:
        told["logits_to_keep"] = num_scored
    return told


def _cut_back(cache: object, *, read: int, kept: int) -> Cache | None:
    """Return a cache cut back to its first tokens; None if it cannot be."""
    from transformers.cache_utils import DynamicCache, DynamicLayer

    if kept == 0 or not isinstance(cache, DynamicCache):
        return None
    if any(type(layer) is not DynamicLayer for layer in cache.layers):
        return None
    cache.crop(kept - read)
    return cache if cache.get_seq_length() == kept else None
