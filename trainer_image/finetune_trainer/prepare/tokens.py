"""Count tokens as training will see them, and find what the length limit costs.

Rows are rendered with the model's chat template and tokenised without further special tokens (the
template writes them; a second BOS would shift every count); plain strings get the tokenizer's own
special tokens and the end token, as TRL adds it.
"""

from __future__ import annotations

import os
from array import array
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from jinja2 import TemplateError

from finetune_trainer.data.rows import Side, without_weights
from finetune_trainer.errors import DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

BATCH_ROWS = 1000
MAX_THREADS = 4

Row = dict[str, Any]
"""A row as the prepared data set holds it, with its ``metadata``."""

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


class Rows(Protocol):
    """Rows that can be counted at once and read one after the other."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Row]: ...


@dataclass(frozen=True, kw_only=True, slots=True)
class TokenStatistics:
    """Lengths of one side, in tokens before truncation.

    Attributes:
        num_rows: Rows counted.
        num_tokens: Sum over the rows.
        p50: Median length (nearest rank).
        p95: 95th percentile (nearest rank).
        longest: Longest row.
        num_truncated: Rows longer than the limit.
        num_without_answer: Rows of which nothing of the answer is within the limit.
    """

    num_rows: int
    num_tokens: int
    p50: int
    p95: int
    longest: int
    num_truncated: int
    num_without_answer: int


def measure_tokens(
    sides: Mapping[Side, Rows],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_sequence_length: int,
    on_progress: Callable[[int, int], None] | None = None,
) -> dict[Side, TokenStatistics]:
    """Measure every side that has rows.

    Args:
        sides: The rows; a few thousand of them are held at a time.
        tokenizer: The job's tokenizer.
        max_sequence_length: Length limit in tokens.
        on_progress: Told rows done and rows in all, now and then.

    Raises:
        DataError: ``ChatTemplateRefused``: the chat template rejects a row; names it.
            ``AllRowsTooLong``: no training row keeps any of its answer; says what limit would do.
    """
    total = sum(len(rows) for rows in sides.values())
    done = 0
    statistics = {}

    def measure(batch: Sequence[Row]) -> tuple[list[int], int]:
        counts = count_tokens(batch, tokenizer)
        return counts, _count_without_answer(batch, counts, tokenizer, max_sequence_length)

    # Encoding releases the interpreter's lock, rendering does not: a few threads keep a few cores
    # busy. A slow tokenizer is Python and promises nothing about threads.
    num_threads = min(MAX_THREADS, os.cpu_count() or 1) if _is_fast(tokenizer) else 1
    pool = ThreadPoolExecutor(num_threads)
    try:
        for side, rows in sides.items():
            if not len(rows):
                continue
            lengths = array("q")
            num_without_answer = 0
            for counts, num_lost in _map_few(pool, measure, _batches(rows), 2 * num_threads):
                lengths.extend(counts)
                num_without_answer += num_lost
                done += len(counts)
                if on_progress is not None:
                    on_progress(done, total)
            statistics[side] = _summarise(lengths, max_sequence_length, num_without_answer)
    finally:
        pool.shutdown(cancel_futures=True)
    _refuse_all_too_long(statistics.get(Side.TRAIN), max_sequence_length)
    return statistics


def _batches(rows: Rows) -> Iterator[list[Row]]:
    stream = iter(rows)
    while batch := list(islice(stream, BATCH_ROWS)):
        yield batch


def _map_few(
    pool: Executor, work: Callable[[_Item], _Result], items: Iterable[_Item], num_ahead: int
) -> Iterator[_Result]:
    """Map in order with at most ``num_ahead`` items taken; a pool's own map takes all at once."""
    waiting: deque[Future[_Result]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) == num_ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def count_tokens(rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> list[int]:
    """Return the length of each row in tokens, untruncated.

    Raises:
        DataError: ``ChatTemplateRefused``.
    """
    return _count(rows, tokenizer, prompts_only=False)


def _count(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, prompts_only: bool
) -> list[int]:
    # Rows of both kinds may be mixed when sources differ in format; the order must be kept.
    lengths = [0] * len(rows)
    chats = [i for i, row in enumerate(rows) if _is_chat(row)]
    plain = [i for i, row in enumerate(rows) if not _is_chat(row)]
    if chats:
        texts = _render([rows[i] for i in chats], tokenizer, prompts_only=prompts_only)
        for i, length in zip(chats, _encode(texts, tokenizer, special=False), strict=True):
            lengths[i] = length
    if plain:
        end = "" if prompts_only else str(tokenizer.eos_token or "")
        texts = []
        for i in plain:
            text = _plain_text(rows[i], prompts_only=prompts_only)
            texts.append(text if text.endswith(end) else text + end)
        for i, length in zip(plain, _encode(texts, tokenizer, special=True), strict=True):
            lengths[i] = length
    return lengths


def _is_chat(row: Mapping[str, Any]) -> bool:
    return "messages" in row or isinstance(row.get("prompt"), list)


def _plain_text(row: Mapping[str, Any], *, prompts_only: bool) -> str:
    if "text" in row:
        return "" if prompts_only else str(row["text"])
    return str(row["prompt"]) if prompts_only else str(row["prompt"]) + str(row["completion"])


def _messages(row: Mapping[str, Any], *, prompts_only: bool) -> list[dict[str, Any]]:
    if "messages" not in row:
        prompt: list[dict[str, Any]] = row["prompt"]
        return prompt if prompts_only else without_weights([*prompt, *row["completion"]])
    messages: list[dict[str, Any]] = row["messages"]
    if not prompts_only:
        return without_weights(messages)
    first_answer = next(
        i for i, m in enumerate(messages) if m["role"] == "assistant" and "weight" not in m
    )
    return without_weights(messages[:first_answer])


def _render(
    rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase, *, prompts_only: bool
) -> list[str]:
    def render(batch: Sequence[Row]) -> list[str]:
        texts: list[str] = tokenizer.apply_chat_template(
            [_messages(row, prompts_only=prompts_only) for row in batch],
            tokenize=False,
            add_generation_prompt=prompts_only,
        )
        return texts

    try:
        return render(rows)
    except TemplateError:
        for row in rows:  # one of them is to blame: find it
            try:
                render([row])
            except TemplateError as error:
                raise DataError(
                    "ChatTemplateRefused",
                    f"{row['metadata']['source']}:{row['metadata']['line']}: the model's chat "
                    f"template refuses this conversation: {error}; change the row, or remove "
                    "`system` if the model knows no system role",
                ) from error
        raise


def _encode(
    texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, *, special: bool
) -> list[int]:
    if not _is_fast(tokenizer):
        ids = tokenizer(list(texts), add_special_tokens=special)["input_ids"]
        return [len(row) for row in ids]
    # The wrapper would build id lists, masks and offsets for each row only to be counted.
    backend = tokenizer.backend_tokenizer
    if backend.truncation is not None or backend.padding is not None:
        backend.no_truncation()
        backend.no_padding()
    encodings = backend.encode_batch_fast(list(texts), add_special_tokens=special)
    return [len(encoding) for encoding in encodings]


def _is_fast(tokenizer: PreTrainedTokenizerBase) -> bool:
    return bool(getattr(tokenizer, "is_fast", False))


def _count_without_answer(
    rows: Sequence[Row],
    lengths: Sequence[int],
    tokenizer: PreTrainedTokenizerBase,
    max_sequence_length: int,
) -> int:
    long = [
        row
        for row, length in zip(rows, lengths, strict=True)
        if length > max_sequence_length and "text" not in row
    ]
    if not long:
        return 0
    prompts = _count(long, tokenizer, prompts_only=True)
    return sum(1 for length in prompts if length >= max_sequence_length)


def _summarise(
    lengths: array[int], max_sequence_length: int, num_without_answer: int
) -> TokenStatistics:
    import numpy as np

    ordered = np.sort(np.frombuffer(lengths, dtype=np.int64))

    def percentile(percent: int) -> int:
        return int(ordered[max(0, -(-len(ordered) * percent // 100) - 1)])

    return TokenStatistics(
        num_rows=len(ordered),
        num_tokens=int(ordered.sum()),
        p50=percentile(50),
        p95=percentile(95),
        longest=int(ordered[-1]),
        num_truncated=int((ordered > max_sequence_length).sum()),
        num_without_answer=num_without_answer,
    )


def _refuse_all_too_long(train: TokenStatistics | None, max_sequence_length: int) -> None:
    if train is None or train.num_without_answer < train.num_rows:
        return
    raise DataError(
        "AllRowsTooLong",
        f"all {train.num_rows} training rows are cut at hyperparameters.maxSequenceLength "
        f"{max_sequence_length} before their answer begins, so there is nothing to learn; set it "
        f"to {train.p95} to keep 95 % of the rows whole, or to {train.longest} for all (median "
        f"{train.p50})",
    )
