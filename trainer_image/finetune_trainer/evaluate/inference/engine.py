"""What every inference engine can do: generate answers and score given text, in tokens.

An engine holds one model. ``TransformersEngine(model, pad_id=...)`` computes in this process.
``VllmEngine(EngineClient(url, max_tokens=...), name)`` asks a server by its URL. Both decode
greedily, end an answer only at the given stop tokens, and measure likelihood as the sum of
log-probabilities in nats.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import NamedTuple, Protocol, TypeAlias

from finetune_trainer.model.encoding import TokenizedExample


class Likelihood(NamedTuple):
    """Summed negative log-likelihood (nats) of the tokens of an example that count."""

    nll: float
    num_tokens: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Prompt:
    """A tokenized prompt and what is wanted behind it.

    Attributes:
        token_ids: The prompt.
        max_new_tokens: Tokens of the longest answer; 0 generates none.
        choices: Token ids of answers of which the likeliest is chosen; empty for no choice. None is
            the beginning of another. The transformers engine takes one set of choices a call.
        reference: Example that begins with the prompt and is scored in the same pass; None for
            none.
    """

    token_ids: Sequence[int]
    max_new_tokens: int
    choices: Sequence[list[int]] = ()
    reference: TokenizedExample | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class Generation:
    """The answer to one prompt.

    Attributes:
        token_ids: The greedy answer. It ends with its first stop token, or at its limit.
        choice: Index of the likeliest choice, the first of equal ones; None where none was wanted.
        reference: Likelihood of the reference; None where none was given.
        seconds: Wall time, divided by the number of prompts that were computed together.
    """

    token_ids: list[int]
    choice: int | None = None
    reference: Likelihood | None = None
    seconds: float


class Engine(Protocol):
    """One model that answers and scores.

    Both methods yield results as they are ready, by the index in the given sequence: each index
    once, in any order. Results that one mapping holds were computed together. A caller may stop
    early by closing the iterator.

    Equal calls give equal results in a process of equal libraries, types and device. The last bits
    depend on what is computed together: one call of the transformers engine is one batch, which it
    divides only where memory is short; a vLLM server makes its own batches, so give it everything.

    Raises:
        OutOfMemory: Not even one row fits.
        UserError: The engine cannot do what it is asked.
        RetryableError: The engine ended, or does not answer.
    """

    def generate(
        self, prompts: Sequence[Prompt], *, stop_ids: Sequence[int], num_shared: int = 0
    ) -> Iterator[dict[int, Generation]]:
        """Answer prompts greedily.

        Args:
            prompts: The prompts.
            stop_ids: Tokens that end an answer; nothing else does.
            num_shared: Tokens at the beginning that all prompts share, which may be read once. At
                least one token of each prompt follows.
        """

    def score(
        self, examples: Sequence[TokenizedExample], *, num_shared: int = 0
    ) -> Iterator[dict[int, Likelihood]]:
        """Measure the likelihood of the tokens that count in each example.

        Args:
            examples: The examples.
            num_shared: Tokens at the beginning that all examples share. Neither they nor the token
                after them count.
        """


EngineOpener: TypeAlias = Callable[[str], AbstractContextManager[Engine]]
"""Opens the engine of a model: ``base``, ``tuned`` or ``published``, one at a time. Opening raises
``UserError("PublishedUnusable")`` where the published version cannot be asked beside the others, or
another ``TrainerError`` where a model does not load or does not fit."""
