"""Puts the questions of an evaluation to a vLLM server: every ask by itself, many at a time.

The same is asked as of a model in this process, in the same tokens: greedy answers that end with
the same tokens, the likelihood of the same examples, the likeliest of the same choices. The server
makes the batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from functools import partial

from finetune_trainer.errors import UserError
from finetune_trainer.evaluate.inference.answering import Said
from finetune_trainer.evaluate.inference.engine.client import EngineClient
from finetune_trainer.evaluate.tokenized import TokenizedQuestions, count_common
from finetune_trainer.model.encoding import IGNORED, ChatTokenizer, TokenizedExample

NUM_AT_ONCE = 64
"""Calls under way, unless the job says."""

Ask = Callable[[], Said]


@dataclass(frozen=True, kw_only=True, slots=True)
class ServedVariant:
    """What one side is asked.

    Attributes:
        model: Name of its model on the server.
        encoder: Its encoder, for what answers end with and what in them counts.
        encoded: All its questions.
        before: What it has said in an earlier attempt.
    """

    model: str
    encoder: ChatTokenizer
    encoded: TokenizedQuestions
    before: Said

    def asks(self, client: EngineClient) -> list[Ask]:
        """Return what is left to ask."""
        puts = zip((self._score, self._answer, self._choose), self._left, strict=True)
        return [partial(put, client, index) for put, indices in puts for index in indices]

    @property
    def is_done(self) -> bool:
        """Whether nothing is left to ask."""
        return not any(self._left)

    @property
    def _left(self) -> tuple[list[int], list[int], list[int]]:
        """Examples to score, prompts to answer and to choose behind."""
        encoded, before = self.encoded, self.before
        prompts = range(len(encoded.prompts))
        return (
            [i for i in range(len(encoded.examples)) if i not in before.likelihoods],
            [i for i in prompts if i not in before.texts],
            [i for i in prompts if i not in before.chosen] if encoded.choices else [],
        )

    @property
    def least(self) -> int:
        """Tokens that the longest prompt with what follows it, or the longest example, has."""
        return self._count(0)

    @property
    def longest(self) -> int:
        """The same with the token that a server says behind one whose likelihood it is asked."""
        return self._count(1)

    def _count(self, num_more: int) -> int:
        encoded = self.encoded
        chosen = max((len(choice) + num_more for choice in encoded.choices), default=0)
        asked = [
            len(ids) + max(encoded.limit_of(index), chosen)
            for index, ids in enumerate(encoded.prompts)
        ]
        read = [len(example.input_ids) + num_more for example in encoded.examples]
        return max(asked + read, default=1)

    def _score(self, client: EngineClient, index: int) -> Said:
        return Said(
            likelihoods={index: score_example(client, self.model, self.encoded.examples[index])},
            texts={},
        )

    def _answer(self, client: EngineClient, index: int) -> Said:
        started = time.monotonic()
        prompt = self.encoded.prompts[index]
        stop_ids = self.encoder.chat_format.stop_ids
        tokens = client.answer(
            self.model, prompt, max_tokens=self.encoded.limit_of(index), stop_ids=stop_ids
        )
        seconds = time.monotonic() - started
        text = self.encoder.reader.read_generated(prompt, tokens)
        cut = [index] if set(stop_ids).isdisjoint(tokens) else []
        return Said(likelihoods={}, texts={index: text}, seconds={index: seconds}, cut=cut)

    def _choose(self, client: EngineClient, index: int) -> Said:
        prompt, choices = self.encoded.prompts[index], self.encoded.choices
        chosen = choose(client, self.model, prompt, choices)
        return Said(likelihoods={}, texts={}, chosen={index: chosen})


def measure_room(
    sides: Mapping[str, ServedVariant], context: int | None, *, others: int = 0
) -> int:
    """Return the tokens that a server must have room for.

    Args:
        sides: What is asked.
        context: Tokens that the model takes; None where nobody knows.
        others: Longest conversation of others with its answer.

    Raises:
        UserError: ``EngineUnsuitable``: what a side is asked is longer than that.
    """
    for name, side in sides.items():
        if problem := find_too_long(side, context):
            raise UserError("EngineUnsuitable", f"evaluation.engine VLLM: side {name}: {problem}")
    longest = max([others, *(side.longest for side in sides.values())])
    return longest if context is None else min(longest, context)


def find_too_long(side: ServedVariant, context: int | None) -> str:
    """Return why a side's questions do not fit into what the model takes; empty if they do."""
    if context is None or side.least <= context:
        return ""
    return (
        f"its longest question takes {side.least:,} tokens with its answer, more than the "
        f"{context:,} that the model takes; lower evaluation.maxNewTokens or "
        "hyperparameters.maxSequenceLength in a new job, or set evaluation.engine: Transformers"
    )


def score_example(client: EngineClient, model: str, example: TokenizedExample) -> tuple[float, int]:
    """Return the summed negative log-likelihood (nats) and the counted tokens of an example."""
    counted = [place for place, label in enumerate(example.labels) if place and label != IGNORED]
    if not counted:
        return 0.0, 0
    # Nothing follows the last token that counts.
    known = client.score(model, example.input_ids[: counted[-1] + 1])
    return -sum(known[place] for place in counted), len(counted)


def choose(
    client: EngineClient, model: str, prompt: Sequence[int], choices: Sequence[list[int]]
) -> int:
    """Return the number of the likeliest choice behind a prompt; of equal ones the first.

    As in this process, no choice is read whole whose first own token is already less likely than
    all of another; of tokens that the server does not tell, each is at most as likely as the last
    it does.
    """
    if len(choices) < 2:
        return 0
    size = count_common(choices)
    start = [*prompt, *choices[0][:size]]
    told = client.next_tokens(model, start)
    bounds = [told.get(choice[size], min(told.values())) for choice in choices]
    best, chosen = -float("inf"), 0
    for number in sorted(range(len(choices)), key=lambda number: (-bounds[number], number)):
        if bounds[number] < best:
            break
        total = sum(client.score(model, [*prompt, *choices[number]])[len(start) :])
        if (total, -number) > (best, -chosen):
            best, chosen = total, number
    return chosen


def ask_variants(
    sides: Mapping[str, ServedVariant],
    client: EngineClient,
    keep: Callable[[str, Said], object],
    *,
    num_at_once: int = NUM_AT_ONCE,
) -> None:
    """Ask one side after the other everything that is left.

    Args:
        sides: What is asked, in this order.
        client: Of the server, which is ready.
        keep: Called with what a side has said to one ask, by this thread.
        num_at_once: Calls under way.

    Raises:
        TrainerError: The server ended, does not answer or refuses.
    """
    for name, side in sides.items():
        asks = side.asks(client)
        with ThreadPoolExecutor(min(num_at_once, max(1, len(asks)))) as pool:
            for said in _as_completed(pool, asks):
                keep(name, _shared(said, min(num_at_once, len(asks))))


def _as_completed(pool: ThreadPoolExecutor, asks: Sequence[Ask]) -> Iterator[Said]:
    futures: list[Future[Said]] = [pool.submit(ask) for ask in asks]
    try:
        for future in as_completed(futures):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def _shared(said: Said, num_at_once: int) -> Said:
    """Count of an answer's time its share, as in a batch: so many were under way with it."""
    for index in said.seconds:
        said.seconds[index] /= num_at_once
    return said
