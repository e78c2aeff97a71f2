"""Puts the held-out questions to base and tuned model."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from finetune_trainer.errors import InternalError
from finetune_trainer.evaluate.inference.scoring import score_likelihood
from finetune_trainer.evaluate.metrics.answers import Answers, Floats
from finetune_trainer.evaluate.tokenized import (
    TokenizedQuestions,
    batch_prompts,
    make_batches,
    pair_references,
)
from finetune_trainer.failures import is_out_of_memory
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.planning.answering import TOKENS_PER_BATCH

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.evaluate.inference.caches import Shared


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """What one model said to some of the examples and prompts, by their index.

    Attributes:
        likelihoods: Summed negative log-likelihood (nats) and counted tokens of examples.
        texts: Answers to prompts; None where reasoning has no end.
        seconds: Time that each of them took, its share of its batch's.
        chosen: Number of the likeliest choice behind prompts.
        cut: Prompts whose answer the limit of tokens cut.
    """

    likelihoods: dict[int, tuple[float, int]]
    texts: dict[int, str | None]
    seconds: dict[int, float] = field(default_factory=dict)
    chosen: dict[int, int] = field(default_factory=dict)
    cut: list[int] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON has them; no digit of a number is lost."""
        return asdict(self)

    @classmethod
    def from_json(cls, wire: Mapping[str, Any]) -> Said:
        """Read what :meth:`to_json` gave, after its way through a file."""
        return cls(
            likelihoods={int(i): (nll, tokens) for i, (nll, tokens) in wire["likelihoods"].items()},
            texts={int(i): text for i, text in wire["texts"].items()},
            seconds={int(i): seconds for i, seconds in wire.get("seconds", {}).items()},
            chosen={int(i): number for i, number in wire.get("chosen", {}).items()},
            cut=list(wire.get("cut", ())),
        )


Batch = Sequence[int]
"""Indices of the rows that go through a model together."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Share:
    """Batches of examples to score and of prompts to answer."""

    rows: Sequence[Batch]
    asks: Sequence[Batch]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to ask."""
        return not self.rows and not self.asks


class Asker:
    """Puts one worker's share of the questions to a model.

    The batches are those of all questions; a worker takes every n-th. So neither the batches nor
    the scores depend on the number of workers that hold as much.

    Args:
        encoder: The models' encoder.
        encoded: All questions.
        batch_size: Answers at once; None fills a token budget.
        held_tokens: That budget: tokens of the conversations that are answered together.
        rank: This worker.
        num_workers: How many share the questions.
    """

    def __init__(
        self,
        encoder: ChatTokenizer,
        encoded: TokenizedQuestions,
        *,
        batch_size: int | None,
        held_tokens: int = TOKENS_PER_BATCH,
        rank: int = 0,
        num_workers: int = 1,
    ) -> None:
        self._encoder = encoder
        self._encoded = encoded
        self._has_budget = batch_size is None
        self._pairs = pair_references(encoded)
        alone = sorted(set(range(len(encoded.examples))) - set(self._pairs.values()))
        rows = make_batches([len(encoded.examples[index].input_ids) for index in alone])
        asks = batch_prompts(encoded, batch_size, held_tokens=held_tokens)
        self._rank, self._num_workers = rank, num_workers
        self._rows, self._asks = [[alone[row] for row in batch] for batch in rows], asks

    def share(self, before: Said) -> Share:
        """Return what is left for this worker to ask one model.

        Args:
            before: What all workers of an earlier attempt were told; a batch of which anything is
                missing is asked again whole.
        """
        rows = [batch for batch in self._rows if not before.likelihoods.keys() >= set(batch)]
        asks = [batch for batch in self._asks if not self._has_answered(before, batch)]
        # Where one kind of batch ends, the other goes on, or the first workers get more of both.
        first = (self._rank - len(rows)) % self._num_workers
        return Share(
            rows=rows[self._rank :: self._num_workers], asks=asks[first :: self._num_workers]
        )

    def _has_answered(self, before: Said, batch: Batch) -> bool:
        paired = {self._pairs[index] for index in batch if index in self._pairs}
        has_chosen = not self._encoded.choices or before.chosen.keys() >= set(batch)
        has_said = before.texts.keys() >= set(batch) and before.likelihoods.keys() >= paired
        return has_said and has_chosen

    def ask(self, model: PreTrainedModel, share: Share, keep: Callable[[Said], object]) -> None:
        """Score the likelihood of a share's examples and generate its answers.

        Args:
            model: The model.
            share: What to ask it.
            keep: Called with what the model said to each batch.

        Raises:
            OutOfMemory: Not even one row fits.
        """
        from finetune_trainer.evaluate.inference import caches

        if share.is_empty:
            return
        shared = None
        if self._encoded.num_shared:
            first = (self._encoded.prompts or [self._encoded.examples[0].input_ids])[0]
            shared = caches.read_shared(model, first[: self._encoded.num_shared])
        score = partial(self._score, model, shared)
        part_tokens = TOKENS_PER_BATCH if caches.can_go_on(model) else None
        answer = partial(self._answer, model, shared, part_tokens)
        asks = share.asks
        if part_tokens is None and self._has_budget:
            # What is read in one piece goes through the model at once.
            asks = [part for batch in asks for part in self._split(batch)]
        for batches, put in ((share.rows, score), (asks, answer)):
            for batch in batches:
                for said in ask_in_parts(put, batch):
                    keep(said)

    def _split(self, batch: Batch) -> list[Batch]:
        """Return parts of a batch that go through a model in one piece."""
        parts = make_batches([self._encoded.num_tokens_of(prompt) for prompt in batch])
        return [[batch[place] for place in part] for part in parts]

    def _score(self, model: PreTrainedModel, shared: Shared | None, batch: Batch) -> Said:
        rows, pad_id = self._encoded.examples, self._encoder.pad_id
        scored = score_likelihood(model, rows, batch, pad_id=pad_id, shared=shared)
        return Said(likelihoods=scored, texts={})

    def _answer(
        self,
        model: PreTrainedModel,
        shared: Shared | None,
        part_tokens: int | None,
        batch: Batch,
    ) -> Said:
        """Answer prompts; of those whose reference continues them, score it in the same pass."""
        from finetune_trainer.evaluate.inference import reading

        encoded = self._encoded
        started = time.monotonic()
        paired = [self._pairs.get(index) for index in batch]
        has_any = any(index is not None for index in paired)
        answered = reading.score_and_answer(
            model,
            self._encoder,
            [encoded.prompts[index] for index in batch],
            [None if index is None else encoded.examples[index] for index in paired]
            if has_any
            else [],
            max_new_tokens=[encoded.limit_of(index) for index in batch],
            shared=shared,
            choices=encoded.choices,
            part_tokens=part_tokens,
        )
        scored = zip(paired, answered.scored, strict=has_any)
        seconds = (time.monotonic() - started) / len(batch)
        return Said(
            likelihoods={index: pair for index, pair in scored if index is not None},
            texts=dict(zip(batch, answered.texts, strict=True)),
            seconds=dict.fromkeys(batch, seconds),
            chosen=dict(zip(batch, answered.chosen, strict=True)) if encoded.choices else {},
            cut=[index for index, cut in zip(batch, answered.is_cut, strict=True) if cut],
        )


def ask_in_parts(ask: Callable[[Batch], Said], batch: Batch) -> Iterator[Said]:
    """Put a batch to a model, in halves where the whole does not fit its memory.

    Raises:
        Exception: Whatever asking raises, also for lack of memory with one row alone.
    """
    try:
        said = ask(batch)
    except Exception as error:
        if not is_out_of_memory(error) or len(batch) < 2:
            raise
        said = None
    if said is not None:
        yield said
        return
    # Outside of the handler: the exception would keep the tensors of the failed try alive.
    release_memory()
    middle = (len(batch) + 1) // 2
    yield from ask_in_parts(ask, batch[:middle])
    yield from ask_in_parts(ask, batch[middle:])


def release_memory() -> None:
    """Give back what a failed try has left."""
    import gc

    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def gather_answers(
    encoded: TokenizedQuestions, num_questions: int, parts: Sequence[Said]
) -> Answers:
    """Put together what one model said to the workers.

    Args:
        encoded: All questions.
        num_questions: How many they are, with those that are only scored.
        parts: What the model said to each worker.

    Raises:
        InternalError: An example or prompt has no answer.
    """
    likelihoods = {i: pair for part in parts for i, pair in part.likelihoods.items()}
    texts = {i: text for part in parts for i, text in part.texts.items()}
    seconds = {i: spent for part in parts for i, spent in part.seconds.items()}
    num_examples, num_prompts = len(encoded.examples), len(encoded.prompts)
    if len(likelihoods) != num_examples or len(texts) != num_prompts:
        raise InternalError(
            "AnswersMissing",
            f"the workers scored {len(likelihoods)} of {num_examples} examples and answered "
            f"{len(texts)} of {num_prompts} prompts",
        )
    sums = np.array([likelihoods[i][0] for i in range(num_examples)])
    counts = np.array([likelihoods[i][1] for i in range(num_examples)])
    size = len(encoded.owners)
    preferred = None
    if num_examples > size:
        wins = count_wins((sums[:size], counts[:size]), (sums[size:], counts[size:]))
        pairs = _sum_by(encoded.owners, np.ones(size), num_questions)
        preferred = _sum_by(encoded.owners, wins, num_questions) / pairs
    num_bytes = None
    if encoded.num_bytes:
        num_bytes = _sum_by(encoded.owners, np.array(encoded.num_bytes), num_questions)
    return Answers(
        texts=[texts[i] or "" for i in range(num_prompts)],
        unended=frozenset(i for i in range(num_prompts) if texts[i] is None),
        cut=frozenset(i for part in parts for i in part.cut),
        nll_sums=_sum_by(encoded.owners, sums[:size], num_questions),
        num_tokens=_sum_by(encoded.owners, counts[:size], num_questions),
        preferred=preferred,
        num_bytes=num_bytes,
        seconds=np.array([seconds.get(i, np.nan) for i in range(num_prompts)]),
    )


def count_wins(chosen: tuple[Floats, Floats], rejected: tuple[Floats, Floats]) -> Floats:
    """Return 1 for every pair whose better answer is the likelier one, half for a draw, else 0.

    Likelihoods are per token: summed over an answer, the shorter one would nearly always win.

    Args:
        chosen: Negative log-likelihoods of the better answers, and their tokens.
        rejected: The same of the worse ones.
    """
    better, worse = (sums / np.maximum(1.0, counts) for sums, counts in (chosen, rejected))
    wins: Floats = (better < worse) + 0.5 * (better == worse)
    return wins


def _sum_by(owners: NDArray[np.int64], values: Floats, size: int) -> Floats:
    # A question may stand for several rows, one per reference.
    return np.bincount(owners, weights=values, minlength=size).astype(np.float64)
