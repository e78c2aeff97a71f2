"""Computes answers and likelihoods in this process, with transformers.

A prompt is most of the cost of a short answer. So prompt and reference go through the model
together, the cache is cut back to the prompt, and the answer continues from there. Models whose
cache cannot be cut (sliding windows, recurrent states) read the prompt again. A batch with more
tokens than a model should read at once is read in parts: some columns of all rows at a time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

from finetune_trainer.evaluate.inference.engine import Generation, Likelihood, Prompt
from finetune_trainer.evaluate.inference.reading import (
    Shared,
    accepted,
    can_go_on,
    can_select,
    choose,
    compute_in_halves,
    cut_back,
    read_shared,
    score_batch,
    sum_losses,
)
from finetune_trainer.evaluate.tokenized import make_batches
from finetune_trainer.model.encoding import IGNORED, TokenizedExample
from finetune_trainer.planning.answering import TOKENS_PER_BATCH

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import DynamicCache, PreTrainedModel

STEPS_TOGETHER = 8
"""Tokens that are generated between two looks at which answers have ended."""
GREEDY: Mapping[str, Any] = {
    "do_sample": False,
    "num_beams": 1,
    "temperature": None,
    "top_p": None,
    "top_k": None,
}
"""Arguments of ``generate`` for greedy answers, whatever the model's own settings say. Evaluation
and serving share them: ``Verified`` compares their answers."""
LEAST_PART_ENDED = 8
"""Answers that have ended leave the batch once they are this part of it: 1 of 8. Each removal
copies the cache of the others."""


class TransformersEngine:
    """A model in this process, as an :class:`engine.Engine`; each call is one batch.

    A batch that does not fit in memory is computed in halves.

    Args:
        model: The model.
        pad_id: Token that fills the shorter rows.
        divides: Whether a batch is divided further where the model must read it in one piece and
            it has more than ``TOKENS_PER_BATCH`` tokens.
    """

    def __init__(self, model: PreTrainedModel, *, pad_id: int, divides: bool = True) -> None:
        self._model = model
        self._pad_id = pad_id
        self._divides = divides
        self._beginning: tuple[int, ...] = ()
        self._shared: Shared | None = None

    def generate(
        self, prompts: Sequence[Prompt], *, stop_ids: Sequence[int], num_shared: int = 0
    ) -> Iterator[dict[int, Generation]]:
        """Answer one batch of prompts, as :meth:`engine.Engine.generate` says."""
        if not prompts:
            return
        shared = self._share(prompts[0].token_ids[:num_shared])
        part_tokens = TOKENS_PER_BATCH if self._goes_on else None

        def compute(batch: Sequence[int]) -> dict[int, Generation]:
            answered = generate_batch(
                self._model,
                [prompts[index] for index in batch],
                stop_ids=stop_ids,
                pad_id=self._pad_id,
                shared=shared,
                part_tokens=part_tokens,
            )
            return dict(zip(batch, answered, strict=True))

        parts: list[Sequence[int]] = [range(len(prompts))]
        if part_tokens is None and self._divides:
            # The model reads in one piece, so a batch may have no more tokens than it should read.
            parts = [*make_batches([len(p.token_ids) + p.max_new_tokens for p in prompts])]
        for part in parts:
            yield from compute_in_halves(compute, part)

    def score(
        self, examples: Sequence[TokenizedExample], *, num_shared: int = 0
    ) -> Iterator[dict[int, Likelihood]]:
        """Score one batch of examples, as :meth:`engine.Engine.score` says."""
        if not examples:
            return
        shared = self._share(examples[0].input_ids[:num_shared])

        def compute(batch: Sequence[int]) -> dict[int, Likelihood]:
            rows = [examples[index] for index in batch]
            scored = score_batch(self._model, rows, pad_id=self._pad_id, shared=shared)
            return dict(zip(batch, scored, strict=True))

        yield from compute_in_halves(compute, range(len(examples)))

    @cached_property
    def _goes_on(self) -> bool:
        return can_go_on(self._model)

    def _share(self, tokens: Sequence[int]) -> Shared | None:
        """Return the cache of a shared beginning, which is read once and kept for later calls."""
        beginning = tuple(tokens)
        if beginning != self._beginning:
            # The cache of the last beginning goes before the next one comes.
            self._shared, self._beginning = None, beginning
            self._shared = read_shared(self._model, tokens) if beginning else None
        return self._shared


def generate_batch(
    model: PreTrainedModel,
    prompts: Sequence[Prompt],
    *,
    stop_ids: Sequence[int],
    pad_id: int,
    shared: Shared | None = None,
    part_tokens: int | None = TOKENS_PER_BATCH,
) -> list[Generation]:
    """Answer prompts, choose among their choices, and score their references, in one batch.

    Args:
        model: The model.
        prompts: The prompts.
        stop_ids: Tokens that end an answer.
        pad_id: Fills the shorter rows.
        shared: What all of them begin with; at least one token of each follows.
        part_tokens: Tokens that go through the model at once. None reads each text in one piece,
            without a cache, which some models need (:func:`reading.can_go_on`); nothing is shared
            then.
    """
    started = time.monotonic()
    batch = _Batch.lay_out(model, prompts, pad_id=pad_id, shared=shared)
    scored: list[Likelihood] = []
    cache = None
    if part_tokens is not None:
        scored, cache = _read(batch, shared, columns=max(1, part_tokens // len(prompts)))
    elif any(prompt.reference for prompt in prompts):
        scored, _ = batch.read(None, 0, batch.num_columns - 1)
    ids, mask = batch.ids[:, : batch.width], batch.mask[:, : batch.width]
    choices = prompts[0].choices
    chosen = choose(model, ids, mask, choices, cache=cache) if choices else [None] * len(prompts)
    answers = _Answers(
        model=model,
        stop_ids=frozenset(stop_ids),
        pad_id=pad_id,
        limits=[prompt.max_new_tokens for prompt in prompts],
    )
    answers.generate(ids, mask, cache)
    seconds = (time.monotonic() - started) / len(prompts)
    return [
        Generation(
            token_ids=token_ids,
            choice=chosen[row],
            reference=scored[row] if prompts[row].reference else None,
            seconds=seconds,
        )
        for row, token_ids in enumerate(answers.trim())
    ]


@dataclass(frozen=True, kw_only=True, slots=True)
class _Batch:
    """Prompts with their references, rows by columns.

    Prompts end, and references begin, in one column. What prompts share stands in the first
    columns, and the padding of the shorter ones behind it.

    Attributes:
        model: The model.
        ids: Tokens.
        labels: The same where they count; else ``IGNORED``.
        mask: 1 where there are tokens.
        width: Columns of the prompts.
    """

    model: PreTrainedModel
    ids: Tensor
    labels: Tensor
    mask: Tensor
    width: int

    @classmethod
    def lay_out(
        cls,
        model: PreTrainedModel,
        prompts: Sequence[Prompt],
        *,
        pad_id: int,
        shared: Shared | None,
    ) -> _Batch:
        """Put prompts and references into one batch, on the model's device."""
        import torch

        num_shared = shared.num_tokens if shared is not None else 0
        width = max(len(prompt.token_ids) for prompt in prompts)
        tails = [
            prompt.reference.input_ids[len(prompt.token_ids) :] if prompt.reference else []
            for prompt in prompts
        ]
        shape = (len(prompts), width + max(map(len, tails)))
        ids = torch.full(shape, pad_id)
        labels = torch.full(shape, IGNORED)
        mask = torch.zeros(shape, dtype=torch.long)
        for row, (prompt, tail) in enumerate(zip(prompts, tails, strict=True)):
            own = list(prompt.token_ids)
            start = width - len(own) + num_shared
            parts = ((0, own[:num_shared]), (start, own[num_shared:]), (width, tail))
            for begin, tokens in parts:
                end = begin + len(tokens)
                ids[row, begin:end] = torch.tensor(tokens, dtype=torch.long)
                mask[row, begin:end] = 1
            if prompt.reference:
                counted = prompt.reference.labels[len(own) :]
                labels[row, width : width + len(tail)] = torch.tensor(counted, dtype=torch.long)
        ids, labels, mask = (part.to(model.device) for part in (ids, labels, mask))
        return cls(model=model, ids=ids, labels=labels, mask=mask, width=width)

    @property
    def num_columns(self) -> int:
        """Columns of prompts and references."""
        return self.ids.shape[1]

    def read(
        self, cache: DynamicCache | None, begin: int, end: int
    ) -> tuple[list[Likelihood], DynamicCache | None]:
        """Read columns behind a cache of those before; returns their likelihoods and the cache.

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
                sum_losses(output.logits[:, -num_scored:], self.labels[:, first : end + 1])
                if num_scored
                else []
            )
        return scored, getattr(output, "past_key_values", None)


def _read(
    batch: _Batch, shared: Shared | None, *, columns: int
) -> tuple[list[Likelihood], DynamicCache | None]:
    """Read prompts with their references; returns the likelihoods and a cache of the prompts.

    The cache lacks the last token of each prompt, from which an answer begins.

    Args:
        batch: The prompts with their references.
        shared: What all of them begin with.
        columns: Columns that go through the model at once.
    """
    # Nothing follows the last token, so it need not be read.
    kept, end = batch.width - 1, batch.num_columns - 1
    begin, known = (shared.num_tokens, shared.repeated(len(batch.ids))) if shared else (0, None)
    scored, cache = _read_in_parts(batch, known, begin, end, columns=columns)
    cut = cut_back(cache, read=end, kept=kept)
    if cut is not None or end == kept or not can_select(cache):
        return scored, cut
    # A sliding window has lost the tokens before the references.
    del known, cache
    _, cache = _read_in_parts(batch, None, 0, kept, columns=columns)
    return scored, cut_back(cache, read=kept, kept=kept)


def _read_in_parts(
    batch: _Batch, cache: DynamicCache | None, begin: int, end: int, *, columns: int
) -> tuple[list[Likelihood], DynamicCache | None]:
    """Read columns behind a cache, ``columns`` at a time; returns likelihoods and the cache."""
    sums: dict[int, Likelihood] = {}
    for at in range(begin, end, columns):
        scored, cache = batch.read(cache, at, min(end, at + columns))
        for row, (total, count) in enumerate(scored):
            before, num_before = sums.get(row, (0.0, 0))
            sums[row] = Likelihood(before + total, num_before + count)
    return list(sums.values()), cache


@dataclass(frozen=True, kw_only=True, slots=True)
class _Answers:
    """The greedy answers to one batch, as far as they are generated.

    Attributes:
        model: The model.
        stop_ids: Tokens that end an answer.
        pad_id: Fills the rows whose answer has ended.
        limits: Tokens of the longest answer, for each row.
        tokens: What was generated, for each row.
    """

    model: PreTrainedModel
    stop_ids: frozenset[int]
    pad_id: int
    limits: Sequence[int]
    tokens: list[list[int]] = field(default_factory=list)

    def generate(self, ids: Tensor, mask: Tensor, cache: DynamicCache | None) -> None:
        """Generate all answers; rows that have ended leave the batch, where the cache allows it.

        Args:
            ids: Tokens of the prompts, left-padded, rows by columns.
            mask: 1 where there are tokens, 0 where there is padding.
            cache: Cache of the prompts without at least their last token. Rows are removed from it.
        """
        import torch

        self.tokens.extend([] for _ in ids)
        rows = list(range(len(ids)))
        going = self._going(rows)
        while going:
            before = ids.shape[1]
            num_left = max(self.limits[row] - len(self.tokens[row]) for row in going)
            # Without a cache whose rows can be removed, all go on to the end of the longest answer.
            steps = num_left if cache is None else min(num_left, STEPS_TOGETHER)
            ids, cache = self._continue(ids, mask, cache, steps=steps)
            mask = torch.cat([mask, mask.new_ones(len(ids), ids.shape[1] - before)], dim=1)
            said = dict(zip(rows, ids[:, before:].tolist(), strict=True))
            for row in going:
                self.tokens[row] += said[row]
            going = self._going(going)
            num_ended = len(rows) - len(going)
            if cache is not None and going and num_ended >= len(rows) / LEAST_PART_ENDED:
                kept = [rows.index(row) for row in going]
                # In place, layer by layer: memory is planned for one copy of the cache.
                cache.batch_select_indices(torch.tensor(kept))
                ids, mask, rows = ids[kept], mask[kept], going

    def trim(self) -> list[list[int]]:
        """Return the answers up to their first stop token, or to their limit."""
        trimmed = [said[:limit] for said, limit in zip(self.tokens, self.limits, strict=True)]
        for said in trimmed:
            end = next((at for at, token in enumerate(said) if token in self.stop_ids), len(said))
            del said[end + 1 :]
        return trimmed

    def _going(self, rows: Sequence[int]) -> list[int]:
        """Return which of these rows have no end yet."""
        said, limits = self.tokens, self.limits
        is_short = [row for row in rows if len(said[row]) < limits[row]]
        return [row for row in is_short if self.stop_ids.isdisjoint(said[row])]

    def _continue(
        self, ids: Tensor, mask: Tensor, cache: DynamicCache | None, *, steps: int
    ) -> tuple[Tensor, DynamicCache | None]:
        """Return the tokens with at most ``steps`` more, and their cache if there was one."""
        import torch

        known = {} if cache is None else {"past_key_values": cache}
        with torch.inference_mode():
            output: Any = self.model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=steps,
                pad_token_id=self.pad_id,
                eos_token_id=sorted(self.stop_ids),
                return_dict_in_generate=True,
                **GREEDY,
                **known,
            )
        return output.sequences, None if cache is None else output.past_key_values
