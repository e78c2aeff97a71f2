"""What a vLLM server is asked is what a model in this process is asked, in the same tokens."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from finetune_trainer.errors import RetryableError, TrainerError, UserError
from finetune_trainer.evaluate.inference.answers import Asker, Said, combine
from finetune_trainer.evaluate.inference.vllm_engine import (
    NUM_TRIES,
    EngineClient,
    VllmEngine,
    choose,
    score_example,
)
from finetune_trainer.evaluate.inference.vllm_server import (
    EngineServer,
    find_too_long,
    measure_room,
)
from finetune_trainer.evaluate.tokenized import TokenizedQuestions
from finetune_trainer.model.chat_format import decide_format
from finetune_trainer.model.encoding import ChatTokenizer, TokenizedExample
from kit.models.awkward_templates import OPENS_REASONING
from kit.models.tiny_tokenizer import make_tokenizer
from kit.servers.engine_server import EngineStub, engine_stub, made_up_next

STOPS = (3, 17)
NOTHING = Said(likelihoods={}, texts={})


def client_of(stub: EngineStub, folder: Path) -> EngineClient:
    server = EngineServer(folder, stub.port)
    return EngineClient(
        server.url(""),
        max_tokens=stub.max_tokens,
        has_ended=lambda: server.has_ended,
        wait=lambda _seconds: None,
    )


def made_up_score(model: str, tokens: list[int], begin: int) -> float:
    return sum(
        made_up_next(model, tokens[:at])[tokens[at]] for at in range(max(1, begin), len(tokens))
    )


def test_an_answer_ends_with_its_stop_tokens_or_at_its_length_and_nowhere_else(tmp_path):
    with engine_stub() as stub:
        client = client_of(stub, tmp_path)
        answers = [
            client.answer("tuned", [start, 5], max_tokens=30, stop_ids=STOPS) for start in range(20)
        ]
    assert {len(answer) for answer in answers} >= {30}
    for answer in answers:
        assert not set(answer[:-1]) & set(STOPS)
        assert len(answer) == 30 or answer[-1] in STOPS
    assert all(
        (call["temperature"], call["ignore_eos"], call["stop_token_ids"]) == (0.0, True, [3, 17])
        for call in stub.calls
    )


@pytest.mark.parametrize("room", [6, 7])
@pytest.mark.parametrize("spans", [((2, 6),), ((0, 6),), ((1, 2), (4, 5)), ((5, 6),), ()], ids=str)
def test_of_an_example_what_counts_is_summed_also_where_it_fills_the_context(spans, room, tmp_path):
    tokens = [4, 8, 15, 16, 23, 30]
    example = TokenizedExample(input_ids=tokens, spans=spans, num_cut=0)
    counted = [at for start, end in spans for at in range(start, end) if at]
    with engine_stub(max_tokens=room) as stub:
        nll, count = score_example(client_of(stub, tmp_path), "base", example)
    assert count == len(counted)
    known = [made_up_next("base", tokens[:at])[tokens[at]] for at in counted]
    assert nll == pytest.approx(-sum(known))


@pytest.mark.parametrize("common", [0, 1, 3])
@pytest.mark.parametrize("number", [1, 2, 5, 30])
def test_the_likeliest_choice_is_that_of_reading_all_of_them(common, number, tmp_path):
    draw = random.Random(number * 10 + common)
    start = [draw.randrange(40) for _ in range(common)]
    firsts = draw.sample(range(40), number)
    choices = [[*start, first, *(draw.randrange(40) for _ in range(3))] for first in firsts]
    with engine_stub() as stub:
        client = client_of(stub, tmp_path)
        for prompt in ([7], [1, 2, 3], [30, 30], [12, 9]):
            chosen = choose(client, "base", prompt, choices)
            totals = [made_up_score("base", [*prompt, *each], len(prompt)) for each in choices]
            assert chosen == int(np.argmax(totals))


def test_choices_that_cannot_win_any_more_are_not_read(tmp_path):
    def read(name: str, tokens: Sequence[int]) -> list[list[float]]:
        end = [0.0 if token == 3 else -50.0 for token in range(40)]
        return [
            made_up_next(name, tokens[:at]) if at < 3 else end for at in range(1, 1 + len(tokens))
        ]

    choices = [[first, 3] for first in range(4, 34)]
    with engine_stub(read=read) as stub:
        chosen = choose(client_of(stub, tmp_path), "base", [7, 1], choices)
    known = made_up_next("base", [7, 1])
    assert chosen == max(range(30), key=lambda number: known[choices[number][0]])
    assert len(stub.calls) == 2


def asker_of(*, num_prompts: int = 6, example: int = 4) -> Asker:
    prompts = [[index, index + 1] for index in range(num_prompts)]
    examples = [[*ids, 9, 3, *[5] * (example - 4)] for ids in prompts]
    encoded = TokenizedQuestions(
        examples=[TokenizedExample(input_ids=ids, spans=((2, 4),), num_cut=0) for ids in examples],
        owners=np.arange(num_prompts),
        prompts=prompts,
        answer_tokens=4,
        choices=[[5, 3], [6, 3], [7, 8, 3]],
    )
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    return Asker(encoder, encoded, batch_size=None)


def ask(
    stub: EngineStub, folder: Path, asker: Asker, before: Said = NOTHING, **settings: int
) -> Said:
    told: list[dict[str, Said]] = []
    engine = VllmEngine(client_of(stub, folder), "base", **settings)
    asker.ask(engine, asker.share_of_all(before), lambda said: told.append({"base": said}))
    return combine(told)["base"]


@pytest.mark.slow
def test_everything_is_asked_once_and_so_many_at_a_time(tmp_path):
    with engine_stub() as stub:
        said = ask(stub, tmp_path, asker_of(), num_at_once=3)
    assert [sorted(part) for part in (said.likelihoods, said.texts, said.chosen)] == [
        list(range(6))
    ] * 3
    assert set(said.seconds) == set(range(6))
    assert 1 < stub.most_at_once <= 3


def test_a_thought_that_the_server_cut_is_no_answer(tmp_path):
    """Each prompt has its own limit, and one opens a thought that it does not end."""
    tokenizer = make_tokenizer(chat_template=OPENS_REASONING)
    encoder = ChatTokenizer(tokenizer, decide_format(tokenizer), max_tokens=64)
    opened = encoder.encode_prompt([{"role": "user", "content": "hi"}])
    ended = [*opened, *tokenizer("</think>")["input_ids"]]
    encoded = TokenizedQuestions(
        examples=[],
        owners=np.arange(0),
        prompts=[opened, ended],
        answer_tokens=7,
        limits=[7, 3],
    )
    asker = Asker(encoder, encoded, batch_size=None)
    assert encoded.longest(num_more=1) == max(len(opened) + 7, len(ended) + 3)

    def read(_name: str, tokens: Sequence[int]) -> list[list[float]]:
        return [[float(token == 40) for token in range(60)] for _ in tokens]

    with engine_stub(read=read) as stub:
        said = ask(stub, tmp_path, asker)
    assert said.texts == {0: None, 1: tokenizer.decode([40] * 3)}


def test_what_was_answered_before_is_not_asked_again(tmp_path):
    with engine_stub() as stub:
        whole = ask(stub, tmp_path, asker_of())
        before = Said(
            likelihoods={i: whole.likelihoods[i] for i in (0, 1, 2, 3, 4)},
            texts={i: whole.texts[i] for i in (1, 2, 3)},
            chosen={i: whole.chosen[i] for i in range(6)},
        )
        stub.calls.clear()
        rest = ask(stub, tmp_path, asker_of(), before)
    assert (set(rest.likelihoods), set(rest.texts), set(rest.chosen)) == ({5}, {0, 4, 5}, set())
    assert len(stub.calls) == 4
    assert {i: rest.texts[i] for i in rest.texts} == {i: whole.texts[i] for i in (0, 4, 5)}
    done = Said(likelihoods=whole.likelihoods, texts=whole.texts, chosen=whole.chosen)
    assert asker_of().share_of_all(done).is_empty
    assert not asker_of().share_of_all(before).is_empty


def test_an_answer_is_composed_as_references_are(tmp_path):
    tokenizer = make_tokenizer()
    encoder = ChatTokenizer(tokenizer, max_tokens=64)
    decomposed = unicodedata.normalize("NFD", "Tích cực")
    answer = [*tokenizer(decomposed)["input_ids"], tokenizer.eos_token_id]

    def read(_name: str, tokens: Sequence[int]) -> list[list[float]]:
        return [[0.0 if token == answer[at] else -9.0 for token in range(300)] for at in
                range(len(tokens))]  # fmt: skip

    encoded = TokenizedQuestions(
        examples=[], owners=np.arange(0), prompts=[[0]], answer_tokens=len(answer)
    )
    asker = Asker(encoder, encoded, batch_size=None)
    with engine_stub(read=read) as stub:
        said = ask(stub, tmp_path, asker)
    assert said.texts == {0: encoder.read_answer({"prompt": "q", "completion": decomposed})}


def test_the_longest_question_with_its_answer_fits():
    encoded = asker_of().encoded
    assert (encoded.longest(), encoded.longest(num_more=1)) == (2 + 4, 2 + 4)
    nothing = TokenizedQuestions(examples=[], owners=np.arange(0), prompts=[], answer_tokens=4)
    encoder = ChatTokenizer(make_tokenizer(), max_tokens=64)
    assert nothing.longest(num_more=1) >= 1
    assert Asker(encoder, nothing, batch_size=None).share_of_all(NOTHING).is_empty


@pytest.mark.parametrize(
    ("example", "context", "others", "room"),
    [
        (9, None, 0, 10),
        (9, 4096, 0, 10),
        (9, 10, 0, 10),
        (9, 9, 0, 9),
        (4, 6, 0, 6),
        (9, 4096, 2048, 2048),
        (9, 9, 9, 9),
    ],
)
def test_a_server_is_never_asked_for_more_than_the_model_takes(example, context, others, room):
    encoded = asker_of(example=example).encoded
    assert measure_room({"base": encoded}, context, others=others) == room


@pytest.mark.parametrize(("example", "context"), [(9, 8), (4, 5)])
def test_what_does_not_fit_is_refused_once_and_not_tried_again(example, context):
    encoded = asker_of(example=example).encoded
    words = f"side base.*{encoded.longest()} tokens.* {context} that"
    with pytest.raises(UserError, match=words) as end:
        measure_room({"base": encoded}, context)
    assert end.value.reason == "EngineUnsuitable"
    assert "evaluation.maxNewTokens" in end.value.message
    assert find_too_long(encoded, None) == ""


@pytest.mark.parametrize("status", [0, 500, 503, 429])
def test_calls_are_put_again_where_a_connection_breaks_or_the_server_is_busy(status, tmp_path):
    with engine_stub() as stub:
        whole = ask(stub, tmp_path, asker_of())
    seen: Counter[str] = Counter()

    def reply(number: int) -> int | None:
        call = str(stub.calls[number])
        seen[call] += 1
        return status if seen[call] < NUM_TRIES else None

    with engine_stub(reply=reply) as stub:
        said = ask(stub, tmp_path, asker_of())
    assert (said.texts, said.likelihoods) == (whole.texts, whole.likelihoods)


@pytest.mark.parametrize(
    ("settings", "error", "words"),
    [
        ({"reply": lambda _: 0}, RetryableError, f"does not answer .*{NUM_TRIES} times"),
        ({"reply": lambda _: 500}, RetryableError, r"does not answer \(status 500"),
        ({"reply": lambda _: 400}, UserError, r"refuses a question \(status 400\).*vllmImage"),
        ({"hidden": "token_ids"}, UserError, "tells no token_ids.*0.32"),
    ],
    ids=["breaks", "fails", "refuses", "too old"],
)
def test_a_server_that_cannot_be_asked_fails_with_what_to_do(settings, error, words, tmp_path):
    with engine_stub(**settings) as stub, pytest.raises(error, match=words):
        ask(stub, tmp_path, asker_of())


def test_a_server_that_ends_is_not_waited_for_and_the_answers_before_are_told(tmp_path):
    told: list[Said] = []

    def reply(number: int) -> int | None:
        if number < 5:
            return None
        (tmp_path / "ended").touch()
        return 0

    asker = asker_of()
    with engine_stub(reply=reply) as stub:
        engine = VllmEngine(client_of(stub, tmp_path), "base", num_at_once=1)
        with pytest.raises(TrainerError, match="ended while") as end:
            asker.ask(engine, asker.share_of_all(NOTHING), told.append)
    assert (end.value.reason, end.value.failure_class) == ("EngineFailed", "Retryable")
    assert len(told) == 5
    assert len(stub.calls) == 6
