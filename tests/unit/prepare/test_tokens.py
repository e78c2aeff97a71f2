"""Token counts equal what training tokenises, and rows that lose their answer are found."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_trainer.data.rows import Side, make_example
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.tokens import count_tokens, measure_tokens
from support.tiny_tokenizer import NO_SYSTEM_CHATML, make_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    return make_tokenizer()


def make(row: dict[str, Any], line: int = 1) -> dict[str, Any]:
    example = make_example(row, file="rows.jsonl", line=line, side=None, group_value=None)
    prepared: dict[str, Any] = json.loads(example.to_json())
    return prepared


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
def test_a_conversation_counts_as_its_chat_template_renders(
    tokenizer: Any, row: dict[str, Any]
) -> None:
    messages = row.get("messages") or [*row["prompt"], *row["completion"]]
    expected = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=True)
    assert count_tokens([make(row)], tokenizer) == [len(expected["input_ids"])]


def test_plain_text_counts_with_its_end_token() -> None:
    base = make_tokenizer(chat_template=None)
    rows = [{"prompt": "ab", "completion": "cd"}, {"text": "abc"}, {"text": "abc<|endoftext|>"}]
    assert count_tokens([make(row) for row in rows], base) == [5, 4, 4]


def test_mixed_rows_keep_their_order(tokenizer: Any) -> None:
    rows = [make({"text": "abc"}), make(pair("Hi", "Hello")), make({"text": "a"})]
    alone = [count_tokens([row], tokenizer)[0] for row in rows]
    assert count_tokens(rows, tokenizer) == alone


def test_a_slow_tokenizer_counts_the_same(tokenizer: Any) -> None:
    class Slow:
        eos_token = tokenizer.eos_token
        apply_chat_template = tokenizer.apply_chat_template

        def __call__(self, texts: list[str], *, add_special_tokens: bool) -> Any:
            return tokenizer(texts, add_special_tokens=add_special_tokens)

    rows = [make(pair("Hi", "Hello" * n)) for n in range(1, 5)]
    assert count_tokens(rows, Slow()) == count_tokens(rows, tokenizer)  # type: ignore[arg-type]


def test_statistics_tell_lengths_and_what_the_limit_cuts(tokenizer: Any) -> None:
    overhead = count_tokens([make(pair("p", "a"))], tokenizer)[0] - 2
    rows = [make(pair("p" * n, "a" * 10), line=n) for n in range(1, 101)]
    stats = measure_tokens(
        {Side.TRAIN: rows, Side.TEST: []}, tokenizer, max_sequence_length=overhead + 60
    )[Side.TRAIN]
    lengths = [overhead + n + 10 for n in range(1, 101)]
    assert (stats.num_rows, stats.num_tokens) == (100, sum(lengths))
    assert (stats.p50, stats.p95, stats.longest) == (lengths[49], lengths[94], lengths[99])
    assert stats.num_truncated == 50
    # The answer's own end (<|im_end|> and a line break) follows the prompt and its header.
    assert 0 < stats.num_without_answer < 50


def test_a_long_conversation_counts_as_answered_if_its_first_answer_fits(tokenizer: Any) -> None:
    row = make(chat("Hi", "Hello", "More", "x" * 500))
    stats = measure_tokens({Side.TRAIN: [row]}, tokenizer, max_sequence_length=60)[Side.TRAIN]
    assert (stats.num_truncated, stats.num_without_answer) == (1, 0)


def test_plain_text_may_be_cut_anywhere() -> None:
    base = make_tokenizer(chat_template=None)
    stats = measure_tokens({Side.TRAIN: [make({"text": "x" * 500})]}, base, max_sequence_length=60)[
        Side.TRAIN
    ]
    assert (stats.num_truncated, stats.num_without_answer) == (1, 0)


def test_all_rows_too_long_names_the_length_to_set(tokenizer: Any) -> None:
    rows = [make(pair("p" * 200, "a" * n), line=n) for n in range(1, 21)]
    lengths = count_tokens(rows, tokenizer)
    with pytest.raises(DataError) as caught:
        measure_tokens({Side.TRAIN: rows}, tokenizer, max_sequence_length=64)
    assert caught.value.reason == "AllRowsTooLong"
    assert f"set it to {lengths[18]} to keep 95 %" in caught.value.message
    assert f"{lengths[19]} for all" in caught.value.message
    assert "maxSequenceLength 64" in caught.value.message


def test_a_row_that_the_chat_template_refuses_is_named() -> None:
    strict = make_tokenizer(chat_template=NO_SYSTEM_CHATML)
    bad = pair("Hi", "Hello")
    bad["prompt"] = [{"role": "system", "content": "x"}, *bad["prompt"]]
    with pytest.raises(DataError) as caught:
        count_tokens([make(pair("a", "b")), make(bad, line=7)], strict)
    assert caught.value.reason == "ChatTemplateRefused"
    assert "rows.jsonl:7" in caught.value.message
    assert "System role not supported" in caught.value.message


def test_progress_is_told(tokenizer: Any) -> None:
    told: list[tuple[int, int]] = []
    rows = [make({"text": f"{n}"}, line=n) for n in range(2500)]
    measure_tokens(
        {Side.TRAIN: rows[:2000], Side.TEST: rows[2000:]},
        tokenizer,
        max_sequence_length=64,
        on_progress=lambda done, total: told.append((done, total)),
    )
    assert told == [(1000, 2500), (2000, 2500), (2500, 2500)]
