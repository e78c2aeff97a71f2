"""Answers several requests to one model together, a few tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_trainer.evaluate.inference.reading import can_select
from finetune_trainer.evaluate.inference.transformers_engine import GREEDY
from finetune_trainer.serve.engine.model import Served
from finetune_trainer.serve.engine.requests import Ask, RequestError
from finetune_trainer.serve.engine.text import AnswerText

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PreTrainedModel

STEPS_TOGETHER = 16
"""Tokens that a batch generates before another batch has its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """A generated token with what the model thought of it and of others.

    Attributes:
        token: The token.
        logprob: Its log-probability, before temperature.
        likeliest: The likeliest tokens with theirs, the likeliest first.
    """

    token: int
    logprob: float
    likeliest: Sequence[tuple[int, float]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of an answer.

    Attributes:
        text: The whole answer.
        piece: What the pieces of a stream lack.
        reason: ``stop`` or ``length``.
        num_tokens: Generated tokens.
        places: The tokens with their log-probabilities; None if nobody asked.
    """

    text: str
    piece: str
    reason: str
    num_tokens: int
    places: Sequence[Place] | None = None


@dataclass(kw_only=True, eq=False)
class Reply:
    """One request on its way.

    Attributes:
        served: The model that answers.
        ask: What the client asks.
        prompt: Tokens of the prompt.
        limit: Longest answer in tokens.
        text: Text of the answer.
        emit: Called with each piece of a stream, from the worker's thread.
        future: Its end, or ``RequestError``. A client that has gone cancels it.
        tokens: What was generated.
    """

    served: Served
    ask: Ask
    prompt: Sequence[int]
    limit: int
    text: AnswerText
    emit: Callable[[str], None]
    future: Future[Finished] = field(default_factory=Future)
    tokens: list[int] = field(default_factory=list)
    _places: list[Place] = field(default_factory=list)
    _scores: Tensor | None = None
    """Log-probabilities of all next tokens, while log-probabilities are asked."""
    _generator: Generator | None = None

    def choose(self, scores: Tensor) -> None:
        """Note the scores of the next token, and leave only the drawn one if it is drawn."""
        if self.ask.num_logprobs is not None:
            self._scores = scores.float().log_softmax(dim=-1)
        if self.ask.temperature > 0:
            token = self._draw(scores)
            scores[:] = float("-inf")
            scores[token] = 0.0

    def add(self, token: int) -> None:
        """Take one more token, and emit what it adds."""
        self.tokens.append(token)
        if self._scores is not None:
            best = self._scores.topk(self.ask.num_logprobs or 0)
            likeliest = list(zip(best.indices.tolist(), best.values.tolist(), strict=True))
            told = float(self._scores[token])
            self._places.append(Place(token=token, logprob=told, likeliest=likeliest))
        is_stop = token in self.served.encoder.chat_format.stop_ids
        if is_stop or self.text.has_stop(self.tokens):
            self._finish("stop")
        elif len(self.tokens) >= self.limit:
            self._finish("length")
        elif self.ask.stream and (piece := self.text.next_piece(self.tokens)):
            self.emit(piece)

    def fail(self, message: str) -> None:
        """End without an answer."""
        with suppress(InvalidStateError):  # it has ended
            self.future.set_exception(RequestError(message, status=500))

    def _draw(self, scores: Tensor) -> int:
        """Draw a token with this request's own random numbers, whatever its neighbours draw."""
        import torch

        ask = self.ask
        if self._generator is None:
            self._generator = torch.Generator()
            seed = self._generator.seed() if ask.seed is None else ask.seed
            self._generator.manual_seed(seed)
        chances = torch.softmax(scores.float().cpu() / ask.temperature, dim=-1)
        chances[chances < ask.min_p * chances.max()] = 0
        if ask.top_k <= 0 and ask.top_p == 1:
            return int(torch.multinomial(chances, 1, generator=self._generator))
        ordered, places = chances.sort(descending=True, stable=True)
        if ask.top_k > 0:  # vLLM writes -1 or 0 for all tokens
            ordered[ask.top_k :] = 0
        ordered /= ordered.sum()
        ordered[ordered.cumsum(dim=-1) - ordered >= ask.top_p] = 0
        return int(places[torch.multinomial(ordered, 1, generator=self._generator)])

    def _finish(self, reason: str) -> None:
        finished = Finished(
            piece=self.text.last_piece(self.tokens) if self.ask.stream else "",
            text=self.text.read(self.tokens),
            reason=reason,
            num_tokens=len(self.tokens),
            places=None if self.ask.num_logprobs is None else self._places,
        )
        with suppress(InvalidStateError):  # nobody waits for it
            self.future.set_result(finished)


class Batch:
    """Requests to one model that are answered together; those that have ended leave it."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        import torch

        self.served = replies[0].served
        self.replies = list(replies)
        self._cache: Any = None
        self._goes_on = True
        # Answers begin right after their prompts.
        width = max(len(reply.prompt) for reply in replies)
        padding = [[self.served.encoder.pad_id] * (width - len(each.prompt)) for each in replies]
        rows = list(zip(padding, replies, strict=True))
        self._ids = torch.tensor([[*pads, *reply.prompt] for pads, reply in rows])
        self._mask = torch.tensor([[0] * len(pads) + [1] * len(r.prompt) for pads, r in rows])

    def advance(self, model: PreTrainedModel) -> None:
        """Generate the next tokens: a few, or all that are left where a cache cannot be continued.

        Args:
            model: The model, with the adapter of the requests.
        """
        import torch
        from transformers import LogitsProcessorList, StoppingCriteriaList

        before = self._ids.shape[1]
        num_left = max(reply.limit - len(reply.tokens) for reply in self.replies)
        with torch.inference_mode():
            output: Any = model.generate(
                input_ids=self._ids.to(model.device),
                attention_mask=self._mask.to(model.device),
                max_new_tokens=min(num_left, STEPS_TOGETHER) if self._goes_on else num_left,
                pad_token_id=self.served.encoder.pad_id,
                eos_token_id=sorted(self.served.encoder.chat_format.stop_ids),
                logits_processor=LogitsProcessorList([self._choose]),
                stopping_criteria=StoppingCriteriaList([self._add]),
                return_dict_in_generate=True,
                past_key_values=self._cache,
                **GREEDY,
            )
        self._ids = output.sequences.cpu()
        grown = self._mask.new_ones(len(self._ids), self._ids.shape[1] - before)
        self._mask = torch.cat([self._mask, grown], dim=1)
        self._cache = getattr(output, "past_key_values", None)
        if not can_select(self._cache):
            # The next call reads the tokens anew.
            self._cache, self._goes_on = None, False
        going = [row for row, reply in enumerate(self.replies) if not reply.future.done()]
        if going and len(going) < len(self.replies):
            if self._cache is not None:
                self._cache.batch_select_indices(torch.tensor(going))
            self._ids, self._mask = self._ids[going], self._mask[going]
        self.replies = [self.replies[row] for row in going]

    def _choose(self, _ids: Tensor, scores: Tensor) -> Tensor:
        for reply, row in zip(self.replies, scores, strict=True):
            reply.choose(row)
        return scores

    def _add(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        """Give each new token to its request, and return which requests have ended."""
        import torch

        for reply, token in zip(self.replies, ids[:, -1].tolist(), strict=True):
            if not reply.future.done():
                reply.add(token)
        return torch.tensor([reply.future.done() for reply in self.replies], device=ids.device)
