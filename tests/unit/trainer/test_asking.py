"""What the end of an evaluation's workers is called, and how their answers come together."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from finetune_trainer.errors import InternalError
from finetune_trainer.evaluate.comparison import gather_answers
from finetune_trainer.evaluate.inference.answers import Asker, Said
from finetune_trainer.evaluate.inference.reading import can_go_on
from finetune_trainer.evaluate.inference.transformers_engine import TransformersEngine
from finetune_trainer.evaluate.inference.workers import failure_of
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.scores.unended import describe_unended
from finetune_trainer.evaluate.tokenized import (
    TokenizedQuestions,
    encode_questions,
    read_encoded,
    write_encoded,
)
from finetune_trainer.model.chat_format import decide_format, read_format
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from finetune_trainer.planning.answering import HELD_TOKENS, TOKENS_PER_BATCH
from kit.models.architectures import MODELS, make_model
from kit.models.awkward_templates import DROPS_REASONING, HEADER_NEVER, OPENS_REASONING
from kit.models.generating import score_likelihood
from kit.models.tiny_tokenizer import CHATML, make_tokenizer

pytestmark = pytest.mark.slow  # it needs torch

# Examples 0 and 1 stand for question 0; question 2 has no prompt and is only scored.
ENCODED = TokenizedQuestions(
    examples=[TokenizedExample(input_ids=[7, n], spans=((1, 2),), num_cut=0) for n in range(5)],
    owners=np.array([0, 0, 1, 2, 3]),
    prompts=[[7, 7], [7], [8]],
    answer_tokens=9,
)


@pytest.mark.parametrize(
    ("codes", "oom_killed", "reason", "exit_code"),
    [
        ([-9], False, "WorkerKilled", 75),
        ([0, -9], True, "HostOutOfMemory", 77),
        ([0, -11], False, "WorkersFailed", 70),
    ],
)
def test_workers_that_left_no_reason_are_told_by_their_codes(
    codes: list[int], oom_killed: bool, reason: str, exit_code: int, tmp_path: Path
) -> None:
    failure = failure_of(tmp_path, codes, oom_killed=oom_killed)
    assert (failure.reason, failure.exit_code) == (reason, exit_code)


def test_a_worker_that_left_a_reason_is_named(tmp_path: Path) -> None:
    record = {"exit_code": 77, "reason": "OutOfMemory", "message": "out of memory", "rank": 3}
    (tmp_path / "failure-3.json").write_text(json.dumps(record))
    failure = failure_of(tmp_path, [0, 77], oom_killed=False)
    assert (failure.reason, failure.exit_code, failure.rank) == ("OutOfMemory", 77, 3)  # type: ignore[attr-defined]


def test_questions_survive_their_way_to_the_workers(tmp_path: Path) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    write_encoded(tmp_path, encoder, replace(ENCODED, limits=[9, 3, 4]))
    read = read_encoded(tmp_path)
    assert [read.limit_of(number) for number in range(3)] == [9, 3, 4]
    assert read.examples == ENCODED.examples
    assert (read.prompts, read.answer_tokens) == (ENCODED.prompts, 9)
    assert read_format(tmp_path) == encoder.chat_format


def test_answers_come_together_in_the_order_of_the_questions() -> None:
    first = Said(likelihoods={0: (0.1, 1), 3: (0.4, 4), 1: (0.2, 2)}, texts={1: "b!"})
    second = Said(likelihoods={4: (1 / 3, 5), 2: (0.3, 3)}, texts={2: "c!", 0: "a!"})
    parts = [Said.from_json(json.loads(json.dumps(part.to_json()))) for part in (second, first)]
    answers = gather_answers(ENCODED, 4, parts)
    assert answers.texts == ["a!", "b!", "c!"]
    assert answers.nll_sums.tolist() == [0.1 + 0.2, 0.3, 0.4, 1 / 3]
    assert answers.num_tokens.tolist() == [3, 3, 4, 5]


@pytest.mark.parametrize("lost", ["example", "prompt"])
def test_a_missing_answer_is_never_scored_as_none(lost: str) -> None:
    rows = dict.fromkeys(range(5), (0.0, 1))
    texts: dict[int, str | None] = dict.fromkeys(range(3), "")
    del (rows if lost == "example" else texts)[2]
    with pytest.raises(InternalError, match=r"4 of 5 examples|2 of 3 prompts") as failed:
        gather_answers(ENCODED, 4, [Said(likelihoods=rows, texts=texts)])
    assert failed.value.reason == "AnswersMissing"


@pytest.mark.parametrize(("limit", "told"), [(4, "1 of 2 references"), (9, ""), ("auto", "")])
def test_references_that_no_answer_can_reach_are_told(limit: int | str, told: str) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    rows = [{"prompt": "q1", "completion": "ok"}, {"prompt": "q2", "completion": "at length"}]
    questions = gather_questions(rows, max_questions=9, seed=0)
    words = encode_questions(encoder, questions, limit).cut_words
    assert words.startswith(told)
    assert bool(words) == bool(told)
    if told:
        assert "4 tokens (the longest has 9)" in words


LEARNED = len("\n</think>\n\nok") + 1


@pytest.mark.parametrize(
    ("template", "limit", "left", "tokens"),
    [
        (OPENS_REASONING, "auto", None, LEARNED + 8 + 1024),
        (OPENS_REASONING, "auto", LEARNED + 8 + 1023, LEARNED + 8 + 1023),
        (OPENS_REASONING, "auto", LEARNED + 8, LEARNED + 8),
        (OPENS_REASONING, "auto", -100, LEARNED + 8),  # whoever asks says that nothing fits
        (OPENS_REASONING, "auto", 9999, LEARNED + 8 + 1024),
        (OPENS_REASONING, 40, 30, 40),
        (DROPS_REASONING, "auto", None, len("ok") + 1 + 8),  # its prompt ends reasoning at once
        (CHATML, "auto", 5, len("ok") + 1 + 8),
        (HEADER_NEVER, "auto", None, 1 + len("assistant\nok") + 1 + 8),
    ],
)
def test_an_answer_has_room_for_reasoning_where_that_may_come_first(
    template: str, limit: int | str, left: int | None, tokens: int
) -> None:
    tokenizer = make_tokenizer(chat_template=template)
    encoder = ChatTokenizer(tokenizer, decide_format(tokenizer), max_tokens=512)
    answer = {"role": "assistant", "content": "ok"}
    turns = [[{"role": "user", "content": text}, answer] for text in ("q", "a long question")]
    questions = gather_questions([{"messages": each} for each in turns], max_questions=9, seed=0)
    longest = max(len(encoder.encode_prompt(each[:1])) for each in turns)
    context = None if left is None else longest + left
    encoded = encode_questions(encoder, questions, limit, context=context)
    assert (encoded.answer_tokens, encoded.limits) == (tokens, [])


def test_no_answer_is_told_apart_from_an_empty_one() -> None:
    likelihoods = dict.fromkeys(range(5), (0.0, 1))
    said = Said(likelihoods=likelihoods, texts={0: "a", 1: None, 2: ""})
    answers = gather_answers(ENCODED, 4, [Said.from_json(json.loads(json.dumps(said.to_json())))])
    assert list(answers.texts) == ["a", "", ""]
    assert answers.unended == {1}
    sides = {"base": answers, "tuned": answers, "published": answers}
    words = describe_unended(sides, {"base": 1040, "tuned": 1040, "published": 1052})
    assert "within 1,040 tokens" in words
    assert (
        "1 of 3 of the base model, 1 of 3 of the tuned model, "
        "1 of 3 of the published version (within 1,052):"
    ) in words
    assert describe_unended({"base": replace(answers, unended=frozenset())}, {"base": 9}) == ""


def test_references_are_compared_as_answers_are() -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    decomposed = unicodedata.normalize("NFD", "Tích cực")
    assert encoder.read_answer({"prompt": "q", "completion": f" {decomposed}\n"}) == "Tích cực"


def engine_of(model: Any, encoder: ChatTokenizer) -> TransformersEngine:
    return TransformersEngine(model, pad_id=encoder.pad_id)


BEGINNING = "Which of our tariffs is this about? "


def encode(prompts: list[str], encoder: ChatTokenizer) -> TokenizedQuestions:
    rows = [{"prompt": prompt, "completion": "basic"} for prompt in prompts]
    return encode_questions(encoder, gather_questions(rows, max_questions=99, seed=0), "auto")


@pytest.mark.parametrize(
    ("prompts", "begins"),
    [
        ([f"{BEGINNING}{n}?" for n in "abc"], BEGINNING),
        ([BEGINNING, f"{BEGINNING}b?"], BEGINNING[:-1]),  # a token of each must follow
        (["Tariff a?", "Tariff b?"], ""),  # too short to be worth it
        (["a?", f"{BEGINNING}b?"], ""),
    ],
)
def test_what_all_questions_begin_with_is_read_once(prompts: list[str], begins: str) -> None:
    tokenizer = make_tokenizer()
    encoded = encode(prompts, ChatTokenizer(tokenizer, max_tokens=128))
    for ids in (*encoded.prompts, *(example.input_ids for example in encoded.examples)):
        assert tokenizer.decode(ids[: encoded.num_shared]) == begins


def test_rows_of_any_text_share_nothing_that_counts() -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=128)
    rows = [{"text": f"{BEGINNING}{n}"} for n in "abc"]
    questions = gather_questions(rows, max_questions=9, seed=0)
    assert encode_questions(encoder, questions, "auto").num_shared == 0


def test_a_reference_that_is_longer_than_an_answer_may_be_is_scored_alone() -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    answers = ["ok", "at length", "no", "at greater length"]
    rows = [{"prompt": f"q{n}", "completion": text} for n, text in enumerate(answers)]
    questions = gather_questions(rows, max_questions=9, seed=0)
    encoded = encode_questions(encoder, questions, 4)
    sizes = [len(example.input_ids) for example in encoded.examples]
    longer = {n for n, size in enumerate(sizes) if size > max(map(len, encoded.prompts)) + 4}
    assert len(longer) == 2
    asker = Asker(encoder, encoded, batch_size=None)
    share = asker.share(Said(likelihoods={}, texts={}))
    assert {index for batch in share.rows for index in batch} == longer
    assert sorted(index for batch in share.asks for index in batch) == [0, 1, 2, 3]
    parts: list[Said] = []
    asker.ask(engine_of(make_model("whole attention"), encoder), share, parts.append)
    answers = gather_answers(encoded, 4, parts)
    scored = score_likelihood(
        make_model("whole attention"), encoded.examples, range(4), pad_id=encoder.pad_id
    )
    assert answers.num_tokens.tolist() == [count for _, count in scored.values()]
    assert answers.nll_sums.tolist() == pytest.approx([nll for nll, _ in scored.values()], rel=1e-4)


@pytest.mark.parametrize("kind", MODELS)
def test_no_model_is_given_more_at_once_than_it_should_read(kind: str) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=128)
    encoded = encode([f"{n}: " + "why " * 15 for n in range(99)], encoder)
    model, read = make_model(kind), list[int]()
    model.register_forward_pre_hook(
        lambda _, __, named: read.append(named["input_ids"].numel()), with_kwargs=True
    )
    asker = Asker(encoder, encoded, batch_size=None, held_tokens=HELD_TOKENS[0])
    share = asker.share(Said(likelihoods={}, texts={}))
    assert list(map(len, share.asks)) == [99]
    parts: list[Said] = []
    asker.ask(engine_of(model, encoder), share, parts.append)
    assert 2000 < max(read) <= TOKENS_PER_BATCH
    assert len(parts) == (1 if can_go_on(model) else 2)
    assert len(gather_answers(encoded, 99, parts).texts) == 99


@pytest.mark.parametrize("held_tokens", HELD_TOKENS)
def test_a_batch_holds_no_more_than_it_may_also_of_what_is_read_once(held_tokens: int) -> None:
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=2048)
    encoded = encode([f"{BEGINNING * 20}{n}?" for n in range(40)], encoder)
    assert encoded.num_shared > 500
    nothing = Said(likelihoods={}, texts={})

    asker = Asker(encoder, encoded, batch_size=None, held_tokens=held_tokens)
    rows = max(map(len, asker.share(nothing).asks))
    longest = max(map(len, encoded.prompts)) + encoded.answer_tokens
    assert rows * longest <= held_tokens < (rows + 1) * longest
