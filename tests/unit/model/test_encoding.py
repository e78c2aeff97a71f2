"""The loss mask: which tokens count, for any template."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.model.encoding import IGNORED, ChatTokenizer
from kit.models.tiny_tokenizer import make_tokenizer

CHAT = [
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "hello"},
    {"role": "user", "content": "bye"},
    {"role": "assistant", "content": "so long"},
]
UNLEARNED = [CHAT[0], {**CHAT[1], "weight": 0}, *CHAT[2:]]
PAIR = {"prompt": CHAT[:1], "completion": CHAT[1:2]}


def test_a_prompt_is_written_as_the_model_is_given_it() -> None:
    tokenizer = make_tokenizer()
    encoder = ChatTokenizer(tokenizer, max_tokens=100)
    text = encoder.write_prompt("Why?")
    assert text.endswith("Why?<|im_end|>\n<|im_start|>assistant\n")
    assert tokenizer.decode(encoder.encode_prompt([{"role": "user", "content": "Why?"}])) == text
    assert (
        ChatTokenizer(make_tokenizer(chat_template=None), max_tokens=9).write_prompt("Why?")
        == "Why?"
    )


def counted(row: dict[str, Any], loss: str = "Auto", max_tokens: int = 1000) -> list[str]:
    """Return the runs of text that count in the loss."""
    tokenizer = make_tokenizer()
    (example,) = ChatTokenizer(tokenizer, loss=loss, max_tokens=max_tokens).encode_row(row)
    assert len(example.input_ids) == len(example.labels)
    runs: list[list[int]] = []
    previous = IGNORED
    for label in example.labels:
        if label != IGNORED:
            if previous == IGNORED:
                runs.append([])
            runs[-1].append(label)
        previous = label
    return [tokenizer.decode(run) for run in runs]


@pytest.mark.parametrize(
    ("row", "loss", "expected"),
    [
        (PAIR, "Auto", ["hello<|im_end|>"]),
        (PAIR, "Completion", ["hello<|im_end|>"]),
        ({"messages": CHAT}, "Auto", ["hello<|im_end|>", "so long<|im_end|>"]),
        ({"messages": CHAT}, "Assistant", ["hello<|im_end|>", "so long<|im_end|>"]),
        ({"messages": CHAT}, "Completion", ["so long<|im_end|>"]),
        ({"messages": UNLEARNED}, "Auto", ["so long<|im_end|>"]),
        ({"messages": UNLEARNED}, "Assistant", ["so long<|im_end|>"]),
        ({"messages": UNLEARNED}, "Completion", ["so long<|im_end|>"]),
        ({"prompt": UNLEARNED[:1], "completion": UNLEARNED[1:]}, "Auto", ["so long<|im_end|>"]),
        ({"text": "plain"}, "Auto", ["plain<|im_end|>"]),
        ({"prompt": "q: ", "completion": "a"}, "Auto", ["a<|im_end|>"]),
    ],
)
def test_counting_tokens(row: dict[str, Any], loss: str, expected: list[str]) -> None:
    assert counted(row, loss) == expected


@pytest.mark.parametrize(
    ("row", "num_bytes"),
    [
        ({"messages": CHAT}, len("hello") + len("so long")),
        ({"prompt": "q: ", "completion": "naïve 北"}, len("naïve 北".encode())),
        ({"text": "plain"}, len("plain")),
    ],
)
def test_bytes_are_those_of_the_text_that_counts(row: dict[str, Any], num_bytes: int) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=1000)
    assert sum(map(encoder.count_bytes, encoder.encode_row(row))) == num_bytes


def test_all_counts_everything_up_to_the_last_turn() -> None:
    (text,) = counted({"messages": CHAT}, "All")
    assert text.startswith("<|im_start|>user")
    assert "so long<|im_end|>" in text


def test_an_answer_of_weight_0_is_context_and_counts_only_where_all_does() -> None:
    tokenizer = make_tokenizer()
    for loss in ("Auto", "All"):
        encoder = ChatTokenizer(tokenizer, loss=loss, max_tokens=1000)
        plain, weighed = (encoder.encode_row({"messages": chat})[0] for chat in (CHAT, UNLEARNED))
        assert plain.input_ids == weighed.input_ids
        assert (plain.labels == weighed.labels) is (loss == "All")


def test_long_examples_are_cut_and_counted() -> None:
    encoder = ChatTokenizer(make_tokenizer(), loss="All", max_tokens=10)
    (example,) = encoder.encode_row({"text": "x" * 30})
    assert len(example.input_ids) == 10
    assert example.num_cut == 21
