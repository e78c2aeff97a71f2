"""What prompts begin with is read once, and answers are chosen as if all of them were read."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_trainer.evaluate.inference.reading import read_shared
from finetune_trainer.evaluate.tokenized import count_common
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from kit.models.architectures import MODELS, make_model
from kit.models.generating import generate_answers, score_and_answer, score_likelihood
from kit.models.tiny_tokenizer import make_tokenizer

pytestmark = pytest.mark.slow  # it needs torch

BEGINNING = [11, 12, 13, 14, 15, 16, 17]
PROMPTS = [[*BEGINNING, *own] for own in ([5, 9, 33, 7, 41, 8], [12], [9, 9, 20])]
ANSWERS = [[60, 2], [61, 62, 63, 2], [2]]
CHOICES = {
    "different beginnings": [[60, 2], [61, 62, 63, 2], [70, 2], [71, 71, 2]],
    "one token each": [[60], [61], [70]],
    "the same beginning, of several lengths": [[60, 61, 2], [60, 61, 62, 2], [60, 61, 63, 64, 2]],
    "many alike": [[80, first, second, 2] for first in range(60, 72) for second in (40, 41)],
    "one alone": [[60, 2]],
}


def encoded(prompt: list[int], answer: list[int]) -> TokenizedExample:
    start, end = len(prompt), len(prompt) + len(answer)
    return TokenizedExample(input_ids=[*prompt, *answer], spans=((start, end),), num_cut=0)


def likeliest(model: Any, encoder: ChatTokenizer, choices: list[list[int]]) -> list[int]:
    """Return the likeliest choice of each prompt, found by reading every one of them whole."""
    chosen = []
    for prompt in PROMPTS:
        rows = [encoded(prompt, choice) for choice in choices]
        scored = score_likelihood(model, rows, range(len(rows)), pad_id=encoder.pad_id)
        chosen.append(min(range(len(rows)), key=lambda number: scored[number][0]))
    return chosen


@pytest.mark.parametrize("kind", MODELS)
def test_choices_are_those_of_reading_all_of_them(kind: str) -> None:
    model, encoder = make_model(kind), ChatTokenizer(make_tokenizer(), max_tokens=64)
    shared = read_shared(model, BEGINNING)
    assert (shared is None) == (kind not in ("whole attention", "learned positions"))
    for what, choices in CHOICES.items():
        expected = likeliest(model, encoder, choices)
        for beginning in (None, shared):
            answered = score_and_answer(
                model,
                encoder,
                PROMPTS,
                [],
                max_new_tokens=3,
                shared=beginning,
                choices=choices,
            )
            assert answered.chosen == expected, what


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("kind", ["whole attention", "learned positions"])
def test_scores_and_answers_are_those_of_whole_prompts(kind: str, adapted: bool) -> None:
    model, encoder = (
        make_model(kind, adapted=adapted),
        ChatTokenizer(make_tokenizer(), max_tokens=64),
    )
    shared = read_shared(model, BEGINNING)
    references = [encoded(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    batch = range(len(PROMPTS))
    alone = score_likelihood(model, references, batch, pad_id=encoder.pad_id)
    said = generate_answers(model, encoder, PROMPTS, batch, max_new_tokens=6)
    both = score_and_answer(
        model, encoder, PROMPTS, references, max_new_tokens=6, shared=shared, choices=[[60, 2]]
    )
    assert both.texts == list(said.values())
    assert both.chosen == [0, 0, 0]
    behind = score_likelihood(model, references, batch, pad_id=encoder.pad_id, shared=shared)
    for scored in (both.scored, list(behind.values())):
        for (total, count), (total_alone, count_alone) in zip(scored, alone.values(), strict=True):
            assert (total, count) == (pytest.approx(total_alone, rel=1e-4), count_alone)
    # What was read is still as it was.
    again = score_and_answer(model, encoder, PROMPTS, [], max_new_tokens=6, shared=shared)
    assert again.texts == both.texts


def test_the_beginning_is_read_once_and_choices_that_cannot_win_are_not() -> None:
    model, encoder = make_model("whole attention"), ChatTokenizer(make_tokenizer(), max_tokens=64)
    model.lm_head.weight.data *= 1000  # a model that has learned something is less even
    read: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, __, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    shared = read_shared(model, BEGINNING)
    choices = [[first, 2] for first in range(40, 240)]
    score_and_answer(model, encoder, PROMPTS, [], max_new_tokens=1, shared=shared, choices=choices)
    assert read[:2] == [(1, len(BEGINNING)), (3, 5)]
    assert sum(rows for rows, _ in read[2:]) < 300  # of 600


@pytest.mark.parametrize(
    ("several", "size"),
    [([[1, 2, 3], [1, 2, 4, 5]], 2), ([[1], [2]], 0), ([[1, 2]], 2), ([], 0), ([[1, 2], [1]], 1)],
)
def test_what_texts_begin_with(several: list[list[int]], size: int) -> None:
    assert count_common(several) == size


ENDING_PROMPTS = [[*BEGINNING, *own] for own in ([5, 9, 33], [12], [9, 9], [31, 8, 7, 44], [71])]


@pytest.mark.parametrize("kind", MODELS)
def test_rows_that_have_ended_leave_the_batch_and_the_others_say_the_same(kind: str) -> None:
    tokenizer = make_tokenizer()
    # Many tokens end an answer, so that those of a model that has learned nothing end early.
    stops = replace(
        ChatTokenizer(tokenizer, max_tokens=64).chat_format, stop_ids=tuple(range(0, 512, 15))
    )
    model, encoder = make_model(kind), ChatTokenizer(tokenizer, max_tokens=64, chat_format=stops)
    batch = range(len(ENDING_PROMPTS))
    free = generate_answers(model, encoder, ENDING_PROMPTS, batch, max_new_tokens=40)
    references = [encoded(prompt, [60, 2]) for prompt in ENDING_PROMPTS]
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, named: read.append(len(named["input_ids"])), with_kwargs=True
    )
    both = score_and_answer(model, encoder, ENDING_PROMPTS, references, max_new_tokens=40)
    assert both.texts == list(free.values())
    assert read == sorted(read, reverse=True)
    if kind == "whole attention":
        assert sorted(set(read)) == [1, 4, 5]
    # Where nothing was scored, the cache of a window is gone on from as well.
    chosen = score_and_answer(
        model, encoder, ENDING_PROMPTS, [], max_new_tokens=40, choices=[[60, 2], [61, 2]]
    )
    assert chosen.texts == both.texts
