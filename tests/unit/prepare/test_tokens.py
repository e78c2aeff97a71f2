"""Token counts are those of training; rows that lose their answer or cannot be said are found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.data.rows import Side, make_example
from finetune_trainer.data.token_files import PackedTokens
from finetune_trainer.errors import DataError
from finetune_trainer.model.encoding import ChatTokenizer
from finetune_trainer.prepare.checks.long_rows import LongRow
from finetune_trainer.prepare.tokens import TokenStatistics, measure_tokens
from kit.models.tiny_tokenizer import CHATML, NO_SYSTEM_CHATML, make_tokenizer

# What ChatML writes around one question and its answer, up to the answer's end.
OVERHEAD = len("user\n") + len("\n") + len("assistant\n") + 4


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def make(row: dict[str, Any], line: int = 1) -> dict[str, Any]:
    example = make_example(row, file="rows.jsonl", line=line, side=None, group_value=None)
    prepared: dict[str, Any] = json.loads(example.to_json())
    return prepared


def measure(rows: list[dict[str, Any]], tokenizer: Any, limit: int = 10_000) -> TokenStatistics:
    encoder = ChatTokenizer(tokenizer, max_tokens=limit)
    return measure_tokens({Side.TRAIN: rows}, encoder, max_sequence_length=limit)[Side.TRAIN]


def pair(prompt: str, answer: str) -> dict[str, Any]:
    return {
        "prompt": [{"role": "user", "content": prompt}],
        "completion": [{"role": "assistant", "content": answer}],
    }


def chat(*texts: str) -> dict[str, Any]:
    roles = ("user", "assistant")
    return {"messages": [{"role": roles[i % 2], "content": t} for i, t in enumerate(texts)]}


@pytest.mark.parametrize(
    "row",
    [
        pair("Hi", "Hello"),
        chat("Hi", "Hello", "And \u00e4\U0001f600?", "Yes"),
    ],
)
def test_a_conversation_counts_as_its_chat_template_renders_it_up_to_its_end(
    tokenizer: Any, row: dict[str, Any]
) -> None:
    messages = row.get("messages") or [*row["prompt"], *row["completion"]]
    rendered = tokenizer.apply_chat_template(messages, tokenize=False)
    expected = tokenizer(rendered.rstrip("\n"), add_special_tokens=False)["input_ids"]
    assert measure([make(row)], tokenizer).num_tokens == len(expected)


def test_plain_text_counts_with_its_end_token() -> None:
    base = make_tokenizer(chat_template=None)
    rows = [{"prompt": "ab", "completion": "cd"}, {"text": "abc"}, {"text": "abc<|endoftext|>"}]
    assert measure([make(row) for row in rows], base).num_tokens == 5 + 4 + 4


def test_statistics_tell_lengths_and_what_the_limit_cuts(tokenizer: Any) -> None:
    rows = [make(pair("p" * n, "a" * 10), line=n) for n in range(1, 101)]
    stats = measure(rows, tokenizer, OVERHEAD + 60)
    lengths = [OVERHEAD + n + 10 for n in range(1, 101)]
    assert (stats.num_rows, stats.num_tokens) == (100, sum(lengths))
    assert (stats.p50, stats.p95, stats.longest) == (lengths[49], lengths[94], lengths[99])
    assert stats.num_truncated == 50
    # Of these the prompt and its header (all but the end of the answer) fill the limit.
    assert stats.num_without_answer == 100 - 60


def test_a_long_conversation_counts_as_answered_if_its_first_answer_fits(tokenizer: Any) -> None:
    stats = measure([make(chat("Hi", "Hello", "More", "x" * 500))], tokenizer, 60)
    assert (stats.num_truncated, stats.num_without_answer) == (1, 0)


def test_plain_text_may_be_cut_anywhere() -> None:
    base = make_tokenizer(chat_template=None)
    stats = measure([make({"text": "x" * 500})], base, 60)
    assert (stats.num_truncated, stats.num_without_answer) == (1, 0)


def test_all_rows_too_long_names_the_length_to_set(tokenizer: Any) -> None:
    rows = [make(pair("p" * 200, "a" * n), line=n) for n in range(1, 21)]
    with pytest.raises(DataError) as caught:
        measure(rows, tokenizer, 64)
    assert caught.value.reason == "AllRowsTooLong"
    assert f"set it to {OVERHEAD + 219} to keep 95 %" in caught.value.message
    assert f"{OVERHEAD + 220} for all" in caught.value.message
    assert "maxSequenceLength 64" in caught.value.message


def test_rows_that_the_chat_template_refuses_are_named_and_never_quoted() -> None:
    strict = make_tokenizer(chat_template=NO_SYSTEM_CHATML)
    bad = pair("Hi", "Hello")
    bad["prompt"] = [{"role": "system", "content": "secret"}, *bad["prompt"]]
    with pytest.raises(DataError) as caught:
        measure([make(pair("a", "b")), make(bad, line=7), make(bad, line=9)], strict)
    assert caught.value.reason == "ChatTemplateRefused"
    assert caught.value.message.startswith("rows.jsonl:7, rows.jsonl:9: ")
    assert "System role not supported" in caught.value.message
    assert "2 of 3 rows" in caught.value.message
    assert "secret" not in caught.value.message


def test_a_row_of_several_examples_counts_them_and_is_as_long_as_the_longest() -> None:
    dropping = make_tokenizer(
        chat_template=CHATML.replace(
            "message['content']",
            "('' if message['role'] == 'assistant' and not loop.last else message['content'])",
        )
    )
    stats = measure([make(chat("Hi", "Hello", "More", "Yes"))], dropping)
    assert (stats.num_rows, stats.num_examples) == (1, 2)
    assert stats.longest < stats.num_tokens < 2 * stats.longest


def test_progress_is_told(tokenizer: Any) -> None:
    told: list[tuple[int, int]] = []
    rows = [make({"text": f"{n}"}, line=n) for n in range(2500)]
    measure_tokens(
        {Side.TRAIN: rows[:2000], Side.TEST: rows[2000:]},
        ChatTokenizer(tokenizer, max_tokens=64),
        max_sequence_length=64,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]


LONG = pair("p" * 20, "a" * 60)


def measure_long(
    tokenizer: Any, policy: str, rows: list[dict[str, Any]]
) -> tuple[TokenStatistics, list[LongRow], int]:
    dropped: list[LongRow] = []
    num_kept = 0

    def keep(_: Side, examples: PackedTokens) -> None:
        nonlocal num_kept
        num_kept += len(examples)

    statistics = measure_tokens(
        {Side.TRAIN: rows},
        ChatTokenizer(tokenizer, max_tokens=OVERHEAD + 40),
        max_sequence_length=OVERHEAD + 40,
        on_too_long=policy,
        keep=keep,
        drop=dropped.append,
    )
    return statistics[Side.TRAIN], dropped, num_kept


def test_an_answer_that_would_be_cut_is_refused_with_place_and_the_length_that_fits(
    tokenizer: Any,
) -> None:
    rows = [make(pair("a", "b"), 1), *(make(LONG, line) for line in range(2, 9))]
    with pytest.raises(DataError) as caught:
        measure_long(tokenizer, "Refuse", rows)
    assert caught.value.reason == "RowsTooLong"
    length = OVERHEAD + 80
    for words in (
        f"rows.jsonl:2 ({length} tokens), rows.jsonl:3",
        "7 of 8 rows",
        f"maxSequenceLength {OVERHEAD + 40}",
        f"Set it to {length} to train on all rows whole ({length} is enough for 95 % of each side)",
        "dataset.onTooLong to Drop",
    ):
        assert words in caught.value.message
    assert "rows.jsonl:7" not in caught.value.message


def test_a_part_of_a_conversation_that_would_be_cut_is_refused_too(tokenizer: Any) -> None:
    row = chat("Hi", "Hello", "More", "x" * 60)
    with pytest.raises(DataError, match="1 of 2 rows"):
        measure_long(tokenizer, "Refuse", [make(pair("a", "b")), make(row, 2)])


def test_plain_text_is_cut_and_not_refused() -> None:
    base = make_tokenizer(chat_template=None)
    statistics, _, num_kept = measure_long(base, "Refuse", [make({"text": "x" * 500})])
    assert (statistics.num_truncated, num_kept) == (1, 1)


def test_rows_that_are_too_long_are_dropped_on_request_and_counted_nowhere(tokenizer: Any) -> None:
    rows = [make(pair("a", "b"), 1), make(LONG, 2), make(pair("c", "d"), 3)]
    statistics, dropped, num_kept = measure_long(tokenizer, "Drop", rows)
    assert [(row.file, row.line, row.position) for row in dropped] == [("rows.jsonl", 2, 1)]
    assert (statistics.num_rows, statistics.num_truncated, num_kept) == (2, 0, 2)
    assert statistics.longest == OVERHEAD + 2


def test_where_all_rows_are_too_long_none_is_dropped_in_silence(tokenizer: Any) -> None:
    with pytest.raises(DataError, match="all 3 training rows are cut") as caught:
        measure_long(tokenizer, "Drop", [make(LONG, line) for line in range(3)])
    assert caught.value.reason == "AllRowsTooLong"


def test_rows_that_are_too_long_are_trained_cut_on_request(tokenizer: Any) -> None:
    statistics, dropped, num_kept = measure_long(
        tokenizer, "Truncate", [make(pair("a", "b"), 1), make(LONG, 2)]
    )
    assert (statistics.num_rows, statistics.num_truncated, num_kept) == (2, 1, 2)
    assert dropped == []
