"""Reads a prompt once, for its reference's likelihood and for the model's own answer.

A prompt is most of what a short answer costs. So prompt and reference go through the model
together, the cache is cut back to the prompt, and the answer goes on from there. Models whose cache
cannot be cut (sliding windows, states) read the prompt again. More rows than a model should read at
once are read in parts, some columns of all of them after the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from finetune_trainer.evaluate.inference import scoring
from finetune_trainer.evaluate.inference.caches import Shared, accepted, can_select, cut_back
from finetune_trainer.evaluate.inference.choosing import choose
from finetune_trainer.model.encoding import IGNORED, ChatTokenizer, TokenizedExample
from finetune_trainer.planning.answering import TOKENS_PER_BATCH

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel


@dataclass(frozen=True, kw_only=True, slots=True)
class Answered:
    """What a model made of one batch of prompts.

    Attributes:
        scored: Of each the summed negative log-likelihood (nats) and the counted tokens of its
            reference; empty without references.
        texts: Greedy answers; None where reasoning has no end.
        is_cut: Whether the limit of tokens cut each answer.
        chosen: Number of the likeliest choice; empty without choices.
    """

    scored: list[tuple[float, int]]
    texts: list[str | None]
    is_cut: list[bool]
    chosen: list[int]


def score_and_answer(
    model: PreTrainedModel,
    encoder: ChatTokenizer,
    prompts: Sequence[list[int]],
    references: Sequence[TokenizedExample | None],
    *,
    max_new_tokens: int | Sequence[int],
    shared: Shared | None = None,
    choices: Sequence[list[int]] = (),
    part_tokens: int | None = TOKENS_PER_BATCH,
) -> Answered:
    """Score references, answer their prompts, and choose among given answers.

    Args:
        model: The model.
        encoder: Its encoder, for what answers end with and what in them counts.
        prompts: Token ids of the prompts of one batch.
        references: For each the example that begins with it, as :func:`pair_prompts` finds it, or
            None, which counts no token; empty to score none.
        max_new_tokens: Longest answer in tokens, of all or of each.
        shared: What all of them begin with; at least one token of each follows.
        choices: Token ids of answers to choose the likeliest from.
        part_tokens: Tokens that go through the model at once. None where what it holds of them
            cannot be gone on from, as :func:`caches.can_go_on` says; nothing is shared then.
    """
    width = max(map(len, prompts))
    num_shared = shared.num_tokens if shared is not None else 0
    ids, labels, mask = (
        part.to(model.device)
        for part in _lay_out(
            prompts, references, width=width, pad_id=encoder.pad_id, num_shared=num_shared
        )
    )
    batch = _Batch(model=model, ids=ids, labels=labels, mask=mask, width=width)
    scored: list[tuple[float, int]] = []
    cache = None
    if part_tokens is not None:
        scored, cache = _read(batch, shared, columns=max(1, part_tokens // len(prompts)))
    elif references:
        scored, _ = batch.read(None, 0, batch.num_columns - 1)
    ids, mask = ids[:, :width], mask[:, :width]
    chosen = choose(model, ids, mask, choices, cache=cache) if choices else []
    texts, is_cut = scoring.continue_greedily(
        model, encoder, ids, mask, max_new_tokens=max_new_tokens, cache=cache
    )
    return Answered(scored=scored, texts=texts, is_cut=is_cut, chosen=chosen)


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Prompts and what follows them, batch by columns.

    Attributes:
        model: Who reads them.
        ids: Tokens.
        labels: What counts of them.
        mask: 1 where they are tokens.
        width: Columns of the prompts.
    """

    model: PreTrainedModel
    ids: Tensor
    labels: Tensor
    mask: Tensor
    width: int

    @property
    def num_columns(self) -> int:
        """Columns of prompts and references."""
        return self.ids.shape[1]

    def read(
        self, cache: DynamicCache | None, begin: int, end: int
    ) -> tuple[list[tuple[float, int]], DynamicCache | None]:
        """Read these columns behind a cache of those before; returns what they score, and a cache.

        A token is scored where the one before it is read.
        """
        import torch

        past = {} if cache is None else {"past_key_values": cache}
        mask = self.mask[:, :end]
        first = max(begin + 1, self.width)
        num_scored = max(0, end + 1 - first)
        with torch.inference_mode():
            output: Any = self.model(
                input_ids=self.ids[:, begin:end],
                attention_mask=mask,
                use_cache=True,
                **past,
                **accepted(self.model, mask, num_scored=max(1, num_scored), begin=begin),
            )
            scored = (
                scoring.sum_losses(output.logits[:, -num_scored:], self.labels[:, first : end + 1])
                if num_scored
                else []
            )
        return scored, getattr(output, "past_key_values", None)


def _read(
    batch: _Batch, shared: Shared | None, *, columns: int
) -> tuple[list[tuple[float, int]], DynamicCache | None]:
    """Read prompts with what follows them; returns the scores and a cache of the prompts.

    The cache lacks the last token of each prompt, which an answer begins from.

    Args:
        batch: The prompts and what follows them.
        shared: What all of them begin with.
        columns: How many go through the model at once.
    """
    # Nothing follows the last token, so it need not be read.
    kept, end = batch.width - 1, batch.num_columns - 1
    begin, known = (shared.num_tokens, shared.repeated(len(batch.ids))) if shared else (0, None)
    scored, cache = _read_in_parts(batch, known, begin, end, columns=columns)
    cut = cut_back(cache, read=end, kept=kept)
    if cut is not None or end == kept or not can_select(cache):
        return scored, cut
    # A window has forgotten what came before the references.
    del known, cache
    _, cache = _read_in_parts(batch, None, 0, kept, columns=columns)
    return scored, cut_back(cache, read=kept, kept=kept)


def _read_in_parts(
    batch: _Batch, cache: DynamicCache | None, begin: int, end: int, *, columns: int
) -> tuple[list[tuple[float, int]], DynamicCache | None]:
    """Read columns behind a cache, so many at once; returns what they score, and a cache."""
    sums: dict[int, tuple[float, int]] = {}
    for at in range(begin, end, columns):
        scored, cache = batch.read(cache, at, min(end, at + columns))
        for row, (total, count) in enumerate(scored):
            before, num_before = sums.get(row, (0.0, 0))
            sums[row] = (before + total, num_before + count)
    return list(sums.values()), cache


def _lay_out(
    prompts: Sequence[list[int]],
    references: Sequence[TokenizedExample | None],
    *,
    width: int,
    pad_id: int,
    num_shared: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return tokens, labels and mask: prompts end, and references begin, in one column.

    What prompts share stands in the first columns, and what fills the shorter ones behind it.
    """
    import torch

    pairs = [
        (row, len(prompt), example)
        for row, (prompt, example) in enumerate(zip(prompts, references, strict=bool(references)))
        if example is not None
    ]
    longest = max((len(example.input_ids) - size for _, size, example in pairs), default=0)
    shape = (len(prompts), width + longest)
    ids = torch.full(shape, pad_id)
    labels = torch.full(shape, IGNORED)
    mask = torch.zeros(shape, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        start = width - len(prompt) + num_shared
        for begin, tokens in ((0, prompt[:num_shared]), (start, prompt[num_shared:])):
            ids[row, begin : begin + len(tokens)] = torch.tensor(tokens, dtype=torch.long)
            mask[row, begin : begin + len(tokens)] = 1
    for row, size, example in pairs:
        rest = len(example.input_ids) - size
        ids[row, width : width + rest] = torch.tensor(example.input_ids[size:])
        labels[row, width : width + rest] = torch.tensor(example.labels[size:])
        mask[row, width : width + rest] = 1
    return ids, labels, mask
