"""Asks a model: likelihood of the references, and greedy answers. Batched, deterministic."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from finetune_trainer.model.encoding import IGNORED, ChatTokenizer, TokenizedExample

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel

    from finetune_trainer.evaluate.inference.caches import Shared

STEPS_TOGETHER = 8
"""Tokens after which it is seen which answers have ended."""
LEAST_PART_ENDED = 8
"""They leave the batch once one in so many has: what goes on is copied for it."""


def score_likelihood(
    model: PreTrainedModel,
    examples: Sequence[TokenizedExample],
    batch: Sequence[int],
    *,
    pad_id: int,
    shared: Shared | None = None,
) -> dict[int, tuple[float, int]]:
    """Return summed negative log-likelihood (nats) and counted tokens of examples, by index.

    Args:
        model: The model.
        examples: All examples.
        batch: Which of them go through the model, together.
        pad_id: Fills the shorter rows of the batch.
        shared: What all of them begin with; nothing of it counts, nor does the token after it.
    """
    import torch

    width = max(len(examples[i].input_ids) for i in batch)
    ids = torch.full((len(batch), width), pad_id)
    labels = torch.full((len(batch), width), IGNORED)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for row, index in enumerate(batch):
        example = examples[index]
        size = len(example.input_ids)
        ids[row, :size] = torch.tensor(example.input_ids)
        labels[row, :size] = torch.tensor(example.labels)
        mask[row, :size] = 1
    ids, labels, mask = (t.to(model.device) for t in (ids, labels, mask))
    known: dict[str, Any] = {"use_cache": False}
    if shared is not None:
        ids, labels = ids[:, shared.num_tokens :], labels[:, shared.num_tokens :]
        known = {"past_key_values": shared.repeated(len(batch)), "use_cache": True}
    with torch.inference_mode():
        logits_BTV = model(input_ids=ids, attention_mask=mask, **known).logits
        scored = sum_losses(logits_BTV[:, :-1], labels[:, 1:])
    return dict(zip(batch, scored, strict=True))


def sum_losses(logits: Tensor, targets: Tensor) -> list[tuple[float, int]]:
    """Return of each row the summed negative log-likelihood (nats) and the tokens that count.

    Args:
        logits: Batch by positions by vocabulary, each for the token that comes next.
        targets: That token, batch by positions; ``IGNORED`` where it does not count.
    """
    import torch
    from torch.nn import functional

    # Of a model that is spread over GPUs they may come from the last one.
    logits_BTV = logits.to(targets.device)
    chosen = targets != IGNORED
    # Only positions that count are turned into float32: the vocabulary is wide.
    losses = functional.cross_entropy(logits_BTV[chosen].float(), targets[chosen], reduction="none")
    sums = torch.zeros(len(targets), dtype=torch.float64)
    sums.index_add_(0, chosen.nonzero()[:, 0].cpu(), losses.double().cpu())
    return list(zip(sums.tolist(), chosen.sum(dim=1).tolist(), strict=True))


def generate_answers(
    model: PreTrainedModel,
    encoder: ChatTokenizer,
    prompts: Sequence[list[int]],
    batch: Sequence[int],
    *,
    max_new_tokens: int,
) -> dict[int, str | None]:
    """Return greedy answers to prompts, by index; None where reasoning has no end.

    Rows are left-padded, so that every answer begins right after its prompt.

    Args:
        model: The model.
        encoder: Its encoder, for what answers end with and what in them counts.
        prompts: Token ids of all prompts.
        batch: Which of them go through the model, together.
        max_new_tokens: Longest answer in tokens.
    """
    import torch

    width = max(len(prompts[i]) for i in batch)
    ids = torch.full((len(batch), width), encoder.pad_id)
    mask = torch.zeros((len(batch), width), dtype=torch.long)
    for row, index in enumerate(batch):
        size = len(prompts[index])
        ids[row, width - size :] = torch.tensor(prompts[index])
        mask[row, width - size :] = 1
    texts, _ = continue_greedily(
        model,
        encoder,
        ids.to(model.device),
        mask.to(model.device),
        max_new_tokens=max_new_tokens,
    )
    return dict(zip(batch, texts, strict=True))


def continue_greedily(
    model: PreTrainedModel,
    encoder: ChatTokenizer,
    ids: Tensor,
    mask: Tensor,
    *,
    max_new_tokens: int | Sequence[int],
    cache: DynamicCache | None = None,
) -> tuple[list[str | None], list[bool]]:
    """Return the greedy answers to left-padded prompts, and which of them the limit cut.

    An answer is None where reasoning has no end. Rows whose answer has ended leave the
    batch, where the cache allows it.

    Args:
        model: The model.
        encoder: Its encoder.
        ids: Tokens of the prompts, batch by width.
        mask: 1 where they are tokens, 0 where they fill.
        max_new_tokens: Longest answer in tokens, of all or of each.
        cache: What the model holds of the prompts' beginnings, at least one token short of all; its
            rows can be taken out, and are.
    """
    import torch

    width = ids.shape[1]
    stops = frozenset(encoder.chat_format.stop_ids)
    prompts = [row[known == 1].tolist() for row, known in zip(ids, mask, strict=True)]
    limits = [max_new_tokens] * len(ids) if isinstance(max_new_tokens, int) else max_new_tokens
    answers: list[list[int]] = [[] for _ in ids]
    rows = going = list(range(len(ids)))
    while going:
        before = ids.shape[1]
        num_left = max(limits[row] for row in going) - (before - width)
        # Without a cache whose rows can be taken out, all go on to the longest answer's end.
        steps = num_left if cache is None else min(num_left, STEPS_TOGETHER)
        ids, cache = _continue(model, ids, mask, cache, steps=steps, encoder=encoder)
        mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - before)], dim=1)
        said = dict(zip(rows, ids[:, before:].tolist(), strict=True))
        for row in going:
            answers[row] += said[row]
        going = [
            row for row in going if stops.isdisjoint(said[row]) and len(answers[row]) < limits[row]
        ]
        if cache is not None and going and len(rows) - len(going) >= len(rows) / LEAST_PART_ENDED:
            kept = [rows.index(row) for row in going]
            # In its place, layer by layer: memory is planned for one copy of the cache.
            cache.batch_select_indices(torch.tensor(kept))
            ids, mask, rows = ids[kept], mask[kept], going
    answers = [answer[:limit] for answer, limit in zip(answers, limits, strict=True)]
    texts = [
        encoder.reader.read_generated(prompt, answer)
        for prompt, answer in zip(prompts, answers, strict=True)
    ]
    return texts, [stops.isdisjoint(answer) for answer in answers]


def _continue(
    model: PreTrainedModel,
    ids: Tensor,
    mask: Tensor,
    cache: DynamicCache | None,
    *,
    steps: int,
    encoder: ChatTokenizer,
) -> tuple[Tensor, DynamicCache | None]:
    """Return the tokens with up to so many more, and a cache of them if there was one."""
    import torch

    known = {} if cache is None else {"past_key_values": cache}
    with torch.inference_mode():
        output: Any = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            pad_token_id=encoder.pad_id,
            eos_token_id=list(encoder.chat_format.stop_ids),
            return_dict_in_generate=True,
            **known,
        )
    return output.sequences, None if cache is None else output.past_key_values
