"""Answers several requests to one model together, a few tokens at a time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from finetune_trainer.evaluate.inference.reading import can_select
from finetune_trainer.evaluate.inference.transformers_engine import GREEDY
from finetune_trainer.serve.engine.requests import Sampling
from finetune_trainer.serve.engine.text import AnswerText

if TYPE_CHECKING:
    from torch import Generator, Tensor
    from transformers import PreTrainedModel

STEPS_TOGETHER = 16
"""Tokens that a batch generates before another batch has its turn."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Piece:
    """A part of a streamed answer."""

    text: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Finished:
    """The end of an answer.

    Attributes:
        text: The whole answer.
        piece: What the pieces before it lack.
        reason: ``stop`` or ``length``.
        num_tokens: Generated tokens.
    """

    text: str
    piece: str
    reason: str
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Failed:
    """The answer does not come."""

    message: str


Event = Piece | Finished | Failed


@dataclass(kw_only=True, eq=False)
class Reply:
    """One request on its way.

    Attributes:
        name: Name of the model that answers.
        prompt: Tokens of the prompt.
        limit: Longest answer in tokens.
        stop_ids: Tokens that end it.
        text: Its text.
        sampling: How its tokens are chosen.
        is_stream: Whether pieces are emitted.
        emit: Called with each event, from the worker's thread.
        tokens: What was generated.
        is_cancelled: Whether nobody waits for it any more.
    """

    name: str
    prompt: Sequence[int]
    limit: int
    stop_ids: frozenset[int]
    text: AnswerText
    sampling: Sampling
    is_stream: bool
    emit: Callable[[Event], None]
    tokens: list[int] = field(default_factory=list)
    is_cancelled: bool = False
    is_ended: bool = False
    generator: Generator | None = None

    def add(self, token: int) -> None:
        """Take one more token, and emit what it adds."""
        self.tokens.append(token)
        if self.is_cancelled:
            self.is_ended = True
        elif token in self.stop_ids or self.text.has_stop(self.tokens):
            self._finish("stop")
        elif len(self.tokens) >= self.limit:
            self._finish("length")
        elif self.is_stream and (piece := self.text.next_piece(self.tokens)):
            self.emit(Piece(text=piece))

    def fail(self, message: str) -> None:
        """End without an answer."""
        if not self.is_ended:
            self.is_ended = True
            self.emit(Failed(message=message))

    def _finish(self, reason: str) -> None:
        self.is_ended = True
        piece = self.text.last_piece(self.tokens) if self.is_stream else ""
        self.emit(
            Finished(
                text=self.text.read(self.tokens),
                piece=piece,
                reason=reason,
                num_tokens=len(self.tokens),
            )
        )


class Batch:
    """Requests to one model that are answered together; those that have ended leave it.

    Args:
        replies: The requests.
        pad_id: Token that fills the shorter prompts.
    """

    def __init__(self, replies: Sequence[Reply], *, pad_id: int) -> None:
        import torch

        self.name = replies[0].name
        self.replies = list(replies)
        self._pad_id = pad_id
        self._cache: Any = None
        self._goes_on = True
        width = max(len(reply.prompt) for reply in replies)
        self._ids = torch.full((len(replies), width), pad_id)
        self._mask = torch.zeros((len(replies), width), dtype=torch.long)
        for row, reply in enumerate(replies):
            # Answers begin right after their prompts.
            begin = width - len(reply.prompt)
            self._ids[row, begin:] = torch.tensor(reply.prompt)
            self._mask[row, begin:] = 1

    @property
    def is_ended(self) -> bool:
        """Whether no request is left."""
        return not self.replies

    def advance(self, model: PreTrainedModel) -> None:
        """Generate the next tokens: a few, or all that are left where a cache cannot be continued.

        Args:
            model: The model, with the adapter of the requests.
        """
        import torch
        from transformers import StoppingCriteriaList

        before = self._ids.shape[1]
        num_left = max(reply.limit - len(reply.tokens) for reply in self.replies)
        steps = min(num_left, STEPS_TOGETHER) if self._goes_on else num_left
        stops = sorted(set().union(*(reply.stop_ids for reply in self.replies)))
        known = {} if self._cache is None else {"past_key_values": self._cache}
        with torch.inference_mode():
            output: Any = model.generate(
                input_ids=self._ids.to(model.device),
                attention_mask=self._mask.to(model.device),
                max_new_tokens=steps,
                pad_token_id=self._pad_id,
                eos_token_id=stops,
                logits_processor=_processors(self.replies),
                stopping_criteria=StoppingCriteriaList([_Recorder(self.replies)]),
                return_dict_in_generate=True,
                **GREEDY,
                **known,
            )
        self._ids = output.sequences.cpu()
        grown = self._ids.shape[1] - before
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(self._ids), grown)], dim=1)
        self._cache = getattr(output, "past_key_values", None)
        if not can_select(self._cache):
            # The next call reads the tokens anew.
            self._cache, self._goes_on = None, False
        self._leave()

    def _leave(self) -> None:
        import torch

        going = [row for row, reply in enumerate(self.replies) if not reply.is_ended]
        if len(going) == len(self.replies):
            return
        self.replies = [self.replies[row] for row in going]
        if going:
            if self._cache is not None:
                self._cache.batch_select_indices(torch.tensor(going))
            self._ids, self._mask = self._ids[going], self._mask[going]


def _processors(replies: Sequence[Reply]) -> Any:
    from transformers import LogitsProcessorList

    if all(reply.sampling.is_greedy for reply in replies):
        return LogitsProcessorList()
    return LogitsProcessorList([_Sampler(replies)])


class _Recorder:
    """Gives each new token to its request, and says which requests have ended."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = replies

    def __call__(self, ids: Tensor, _scores: Any, **_: Any) -> Tensor:
        import torch

        for reply, token in zip(self._replies, ids[:, -1].tolist(), strict=True):
            if not reply.is_ended:
                reply.add(token)
        ended = [reply.is_ended for reply in self._replies]
        return torch.tensor(ended, dtype=torch.bool, device=ids.device)


class _Sampler:
    """Draws the tokens of requests with a temperature; generation then takes the drawn ones.

    Each request has its own random numbers, so its answer does not depend on its neighbours' seeds.
    """

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = replies

    def __call__(self, _ids: Tensor, scores: Tensor) -> Tensor:
        for row, reply in enumerate(self._replies):
            if not reply.sampling.is_greedy:
                token = _draw(scores[row], reply)
                scores[row] = float("-inf")
                scores[row, token] = 0.0
        return scores


def _draw(scores: Tensor, reply: Reply) -> int:
    import torch

    sampling = reply.sampling
    if reply.generator is None:
        reply.generator = torch.Generator()
        if sampling.seed is None:
            reply.generator.seed()
        else:
            reply.generator.manual_seed(sampling.seed)
    chances = torch.softmax(scores.float().cpu() / sampling.temperature, dim=-1)
    if sampling.top_p < 1:
        ordered, places = chances.sort(descending=True, stable=True)
        ordered[ordered.cumsum(dim=-1) - ordered >= sampling.top_p] = 0
        return int(places[torch.multinomial(ordered, 1, generator=reply.generator)])
    return int(torch.multinomial(chances, 1, generator=reply.generator))
