"""A prompt that is read once gives the results of a prompt that is read twice."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_trainer.evaluate.inference.engine import Prompt
from finetune_trainer.evaluate.inference.reading import can_go_on
from finetune_trainer.evaluate.inference.transformers_engine import TransformersEngine
from finetune_trainer.evaluate.tokenized import pair_prompts
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from kit.models.architectures import MODELS, make_model
from kit.models.generating import generate_answers, score_and_answer, score_likelihood
from kit.models.tiny_tokenizer import make_tokenizer

pytestmark = pytest.mark.slow  # it needs torch

PROMPTS = [[5, 9, 33, 7, 41, 8], [12], [9, 9, 20], [7, 5, 3, 2, 1, 6, 8, 44, 10]]
ANSWERS = [[60, 2], [61, 62, 63, 2], [2], [64, 65, 2]]


def reference(prompt: list[int], answer: list[int], *, first: int = 0) -> TokenizedExample:
    start, end = len(prompt), len(prompt) + len(answer)
    return TokenizedExample(input_ids=[*prompt, *answer], spans=((start - first, end),), num_cut=0)


@pytest.mark.parametrize("part_tokens", [None, 1, 4, 12, 4096])
@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("kind", MODELS)
def test_scores_and_answers_are_those_of_two_passes(
    kind: str, adapted: bool, part_tokens: int | None
) -> None:
    model = make_model(kind, adapted=adapted)
    if not can_go_on(model):
        part_tokens = None
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    references = [reference(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    batch = range(len(PROMPTS))
    answered = score_and_answer(
        model, encoder, PROMPTS, references, max_new_tokens=6, part_tokens=part_tokens
    )
    scored, texts = answered.scored, answered.texts
    alone = score_likelihood(model, references, batch, pad_id=encoder.pad_id)
    assert [count for _, count in scored] == [len(answer) for answer in ANSWERS]
    for (total, count), (total_alone, count_alone) in zip(scored, alone.values(), strict=True):
        assert (total, count) == (pytest.approx(total_alone, rel=1e-4), count_alone)
    said = generate_answers(model, encoder, PROMPTS, batch, max_new_tokens=6)
    assert texts == list(said.values())
    free = score_and_answer(model, encoder, PROMPTS, [], max_new_tokens=6, part_tokens=part_tokens)
    assert (free.scored, free.texts) == ([], texts)


@pytest.mark.parametrize("kind", MODELS)
def test_each_answer_ends_at_its_own_limit(kind: str) -> None:
    model = make_model(kind)
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    limits = [9, 2, 5, 12]
    answered = score_and_answer(model, encoder, PROMPTS, [], max_new_tokens=limits)
    alone = [
        generate_answers(model, encoder, PROMPTS, range(len(PROMPTS)), max_new_tokens=limit)[place]
        for place, limit in enumerate(limits)
    ]
    assert answered.texts == alone


def test_answers_that_the_limit_cuts_are_marked() -> None:
    model, tokenizer = make_model("whole attention"), make_tokenizer()
    plain = ChatTokenizer(tokenizer, max_tokens=64).chat_format
    size = model.config.vocab_size
    every, none = tuple(range(size)), (size,)
    for stop_ids, is_cut in ((every, False), (none, True)):
        ending = replace(plain, stop_ids=stop_ids)
        encoder = ChatTokenizer(tokenizer, max_tokens=64, chat_format=ending)
        answered = score_and_answer(model, encoder, PROMPTS, [], max_new_tokens=1)
        assert answered.is_cut == [is_cut] * len(PROMPTS)


def test_a_prompt_is_read_once_where_the_cache_can_be_cut() -> None:
    model = make_model("whole attention")
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].shape[1]), with_kwargs=True
    )
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    score_and_answer(
        model, encoder, [PROMPTS[0]], [reference(PROMPTS[0], ANSWERS[1])], max_new_tokens=3
    )
    assert read[0] == len(PROMPTS[0]) + len(ANSWERS[1]) - 1
    assert set(read[1:]) == {1}


@pytest.mark.parametrize("kind", MODELS)
def test_no_more_tokens_go_through_the_model_at_once_than_it_should_read(kind: str) -> None:
    model = make_model(kind)
    read: list[int] = []
    model.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    references = [reference(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    goes_on = can_go_on(model)
    part_tokens = 8 if goes_on else None
    for rows in (references, []):
        read.clear()
        score_and_answer(model, encoder, PROMPTS, rows, max_new_tokens=3, part_tokens=part_tokens)
        assert (max(read) == 8) == goes_on
    in_one_piece = ("states beside attention", "positions turned by the length")
    assert goes_on == (kind not in in_one_piece)


@pytest.mark.parametrize("kind", MODELS)
def test_a_prompt_without_a_reference_is_answered_beside_those_that_have_one(kind: str) -> None:
    model = make_model(kind)
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    whole = [reference(p, a) for p, a in zip(PROMPTS, ANSWERS, strict=True)]
    part_tokens = 8 if can_go_on(model) else None
    some = [None, *whole[1:3], None]
    both, fewer = (
        score_and_answer(model, encoder, PROMPTS, rows, max_new_tokens=6, part_tokens=part_tokens)
        for rows in (whole, some)
    )
    assert fewer.texts == both.texts
    for row, each in enumerate(some):
        total, count = both.scored[row] if each else (0.0, 0)
        assert fewer.scored[row] == (pytest.approx(total, rel=1e-4), count)


def test_only_references_that_count_after_their_prompt_are_paired() -> None:
    examples = [
        reference([5], [60, 2]),  # no such prompt
        reference(PROMPTS[0], ANSWERS[0], first=2),  # its prompt counts in part
        reference(PROMPTS[0], ANSWERS[0]),
        reference(PROMPTS[0], ANSWERS[1]),  # a second reference of one prompt
        reference(PROMPTS[2], ANSWERS[2]),
        TokenizedExample(input_ids=PROMPTS[1], spans=(), num_cut=3),  # its answer is cut away
    ]
    assert pair_prompts(PROMPTS, examples) == {0: 2, 2: 4}


def test_an_answer_ends_with_its_first_stop_token_or_at_its_limit() -> None:
    model, stops = make_model("whole attention"), tuple(range(0, 512, 15))
    engine = TransformersEngine(model, pad_id=0)
    prompts = [Prompt(token_ids=[5, 9, first], max_new_tokens=30) for first in range(20, 40)]
    said = {
        at: each for part in engine.generate(prompts, stop_ids=stops) for at, each in part.items()
    }
    assert sorted(said) == list(range(len(prompts)))
    for answer in (each.token_ids for each in said.values()):
        assert not set(answer[:-1]) & set(stops)
        assert len(answer) == 30 or answer[-1] in stops
    assert len({len(each.token_ids) for each in said.values()}) > 2


def test_a_prompt_that_wants_no_answer_gets_only_its_choice() -> None:
    engine = TransformersEngine(make_model("whole attention"), pad_id=0)
    choices = [[60, 2], [61, 2], [62, 63, 2]]
    [both], [choice] = (
        list(
            engine.generate(
                [Prompt(token_ids=ids, max_new_tokens=limit, choices=choices) for ids in PROMPTS],
                stop_ids=[2],
            )
        )
        for limit in (4, 0)
    )
    assert [choice[at].token_ids for at in choice] == [[]] * len(PROMPTS)
    assert [choice[at].choice for at in choice] == [both[at].choice for at in both]
    assert all(both[at].token_ids for at in both)


def test_a_shared_beginning_is_read_once_for_all_calls() -> None:
    model = make_model("whole attention")
    read: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(
        lambda _, __, named: read.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    engine = TransformersEngine(model, pad_id=0)
    beginning = list(range(11, 31))
    examples = [reference([*beginning, *prompt], [60, 2]) for prompt in PROMPTS]
    prompts = [Prompt(token_ids=[*beginning, *ids], max_new_tokens=2) for ids in PROMPTS]
    list(engine.score(examples, num_shared=len(beginning)))
    list(engine.generate(prompts, stop_ids=[2], num_shared=len(beginning)))
    assert read.count((1, len(beginning))) == 1
