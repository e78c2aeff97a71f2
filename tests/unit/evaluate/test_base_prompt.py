"""The prompt that the base model gets: what it is made of, where it stands, and what fits."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from finetune_trainer.evaluate.questions import Question, gather_questions
from finetune_trainer.evaluate.sources.prompt_baseline.fitting import (
    PROMPT_TOKENS,
    Prompted,
    TokenBudget,
    measure_room,
    prompt_questions,
)
from finetune_trainer.evaluate.sources.prompt_baseline.material import (
    MAX_EXAMPLES,
    Material,
    gather_material,
)
from finetune_trainer.evaluate.tokenized import encode_questions
from finetune_trainer.model.chat_format import decide_format
from finetune_trainer.model.encoding import ChatTokenizer
from kit.models import awkward_templates
from kit.models.tiny_tokenizer import CHATML, NO_SYSTEM_CHATML, make_tokenizer

LABELS = ("red", "green", "blue")


def chat(question: str, answer: str, *, system: str = "", **more: Any) -> dict[str, Any]:
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {
        "messages": [*([{"role": "system", "content": system}] if system else []), *turns]
    } | more


def plain(question: str, answer: str) -> dict[str, Any]:
    return {"prompt": f"{question}\nA:", "completion": f" {answer}"}


def colours(number: int, make: Any = chat, labels: tuple[str, ...] = LABELS) -> list[Any]:
    return [make(f"Thing {n}?", labels[n % len(labels)]) for n in range(number)]


def answer_of(row: dict[str, Any]) -> str:
    return str(row["completion"] if "completion" in row else row["messages"][-1]["content"])


def make_encoder(template: str | None = CHATML, *, loss: str = "Auto") -> ChatTokenizer:
    tokenizer = make_tokenizer(chat_template=template)
    return ChatTokenizer(tokenizer, decide_format(tokenizer), loss=loss, max_tokens=sys.maxsize)


def gather(rows: list[dict[str, Any]], **settings: Any) -> Material:
    return gather_material(
        rows, **{"are_labels": True, "seed": 1, "read_answer": answer_of, **settings}
    )


def put(
    train: list[dict[str, Any]],
    test: list[dict[str, Any]],
    *,
    encoder: ChatTokenizer | None = None,
    context: int | None = None,
    are_labels: bool = True,
    is_json: bool = False,
) -> tuple[Prompted | None, str, list[Question], ChatTokenizer]:
    encoder = encoder or make_encoder()
    questions = gather_questions(test, max_questions=99, seed=0, read_answer=encoder.read_answer)
    material = gather(train, are_labels=are_labels, read_answer=encoder.read_answer)
    prompted, reason = prompt_questions(
        questions,
        material,
        encoder,
        room=measure_room(encode_questions(encoder, questions, "auto"), context),
        is_json=is_json,
    )
    return prompted, reason, questions, encoder


def text_of(encoder: ChatTokenizer, ids: list[int]) -> str:
    return str(encoder._tokenizer.decode(ids))


def test_labels_are_those_of_the_train_side_as_it_writes_them() -> None:
    rows = [chat("a", "Red."), chat("b", "red"), chat("c", "red"), chat("d", "blue")]
    rows += [{"text": "no question"}, {**plain("e", "green"), "label": False}]
    rows += [chat("f", "a text that is much too long to be any label")]
    found = gather(rows)
    assert (found.labels, found.num_labels) == (("red", "blue"), 2)
    assert gather(rows, are_labels=False).labels == ()


@pytest.mark.parametrize(("num_labels", "expected"), [(3, 8), (12, 12), (40, 16)])
def test_examples_show_as_many_labels_as_they_can(num_labels: int, expected: int) -> None:
    labels = tuple(f"label {n}" for n in range(num_labels))
    examples = gather(colours(400, labels=labels)).examples
    assert len(examples) == expected
    shown = {example.turns[-1]["content"] for example in examples if example.turns}
    assert len(shown) == min(expected, num_labels)


def test_examples_are_drawn_by_the_seed_and_from_all_rows() -> None:
    rows = [chat(f"Question {n}?", f"a text of its own, number {n}") for n in range(500)]
    drawn = [gather(rows, are_labels=False, seed=seed).examples for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == MAX_EXAMPLES
    numbers = [rows.index(chat(*(t["content"] for t in e.turns or ()))) for e in drawn[0]]
    assert max(numbers) > 250


@pytest.mark.parametrize(
    "row",
    [
        chat("q", "red", tools=[{"type": "function", "function": {"name": "f"}}]),
        {"messages": [{"role": "assistant", "content": "hello"}, *chat("q", "red")["messages"]]},
        {"messages": [{"role": "user", "content": "q"}, *chat("q", "red")["messages"]]},
        {
            "messages": [
                {"role": "user", "content": "q"},
                {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]},
            ]
        },
    ],
)
def test_rows_that_cannot_stand_before_a_question_are_not_shown(row: dict[str, Any]) -> None:
    assert gather([row], read_answer=lambda _: "red").examples == ()


def test_a_question_comes_behind_instruction_labels_and_examples() -> None:
    prompted, reason, questions, encoder = put(colours(30), colours(6))
    assert prompted is not None, reason
    text = text_of(encoder, prompted.encoded.prompts[0])
    assert text.startswith(
        "<|im_start|>user\nAnswer with one of these labels, and with nothing else, as in the "
        "examples:\n- blue\n- green\n- red\n\nThing "
    )
    assert text.endswith(
        "<|im_end|>\n<|im_start|>user\nThing 0?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert text.count("<|im_start|>assistant\n") == 8 + 1
    assert prompted.told == ()
    # The same tokens count as without a prompt, and the beginning is the same for all.
    alone = encode_questions(encoder, questions, "auto")
    spans = [example.spans for example in prompted.encoded.examples]
    assert [[end - start for start, end in each] for each in spans] == [
        [end - start for start, end in example.spans] for example in alone.examples
    ]
    shared = prompted.encoded.prompts[0][: prompted.encoded.num_shared]
    assert text_of(encoder, shared).endswith("<|im_start|>user\nThing ")
    assert prompted.labels == ("blue", "green", "red")
    assert [text_of(encoder, ids) for ids in prompted.encoded.choices] == [
        f"{label}<|im_end|>" for label in prompted.labels
    ]


def test_a_rows_own_system_message_stays_first_and_turns_stay_learned() -> None:
    test = [chat("Thing 0?", "red", system="Be kind.")]
    test[0]["messages"] += chat("And 1?", "green")["messages"]
    prompted, reason, questions, encoder = put(colours(30), test)
    assert prompted is not None, reason
    text = text_of(encoder, prompted.encoded.prompts[0])
    assert text.startswith("<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nAnswer with")
    assert len(prompted.encoded.examples[0].spans) == 2  # as without a prompt
    assert questions[0].rows[0]["messages"][1]["content"] == "Thing 0?"  # left as it was


@pytest.mark.parametrize(
    "template",
    [
        NO_SYSTEM_CHATML,
        awkward_templates.SYSTEM_INTO_LAST_USER,
        awkward_templates.DROPS_REASONING,
        awkward_templates.OPENS_REASONING,
        awkward_templates.PARTS_ONLY,
        awkward_templates.CHANNELS,
        awkward_templates.NO_END,
        awkward_templates.TRIMS,
    ],
)
def test_every_kind_of_template_takes_it(template: str) -> None:
    prompted, reason, _, encoder = put(colours(30), colours(6), encoder=make_encoder(template))
    assert prompted is not None, reason
    assert len(prompted.prompt.examples) == 8
    assert prompted.encoded.num_shared > 100
    assert len(prompted.encoded.choices) == 3
    for ids, label in zip(prompted.encoded.choices, prompted.labels, strict=True):
        assert encoder.decode_answer(ids) == label


def test_a_template_that_takes_one_question_gets_the_instruction_alone() -> None:
    template = (
        "{% if messages | length > 2 %}{{ raise_exception('one question only') }}{% endif %}"
        + CHATML
    )
    prompted, reason, _, _ = put(colours(30), colours(6), encoder=make_encoder(template))
    assert prompted is not None, reason
    assert prompted.prompt.examples == ()
    assert "shows 0 of 8 examples" in prompted.told[0]


def test_plain_text_is_parted_and_its_answers_end_where_the_next_part_would_begin() -> None:
    encoder = make_encoder(None)
    prompted, reason, _, _ = put(colours(30, plain), colours(6, plain), encoder=encoder)
    assert prompted is not None, reason
    text = text_of(encoder, prompted.encoded.prompts[0])
    assert text.startswith("Answer with one of these labels")
    assert text.endswith("\n\nThing 0?\nA:")
    assert [text_of(encoder, ids) for ids in prompted.encoded.choices] == [
        " blue\n\n",
        " green\n\n",
        " red\n\n",
    ]
    assert prompted.prompt.cut(" red\n\nThing 9?\nA: blue") == "red"
    assert prompted.prompt.shown()[0]["content"].endswith("\n\n(the question)")


def test_answers_that_hold_what_parts_the_examples_leave_the_base_as_it_is() -> None:
    rows = [{"prompt": f"p{n}", "completion": f"a\n\n###\n\nb {n}"} for n in range(9)]
    prompted, reason, _, _ = put(rows, rows, encoder=make_encoder(None), are_labels=False)
    assert prompted is None
    assert "could stand between examples" in reason


def test_fewer_examples_then_none_are_shown_where_more_do_not_fit() -> None:
    long = [chat(f"Thing {n}? {'x' * 150}", LABELS[n % 3]) for n in range(30)]
    prompted, _, _, encoder = put(long, colours(3))
    assert prompted is not None
    assert 0 < len(prompted.prompt.examples) < 8
    assert f"shows {len(prompted.prompt.examples)} of 8 examples" in prompted.told[0]
    alone = len(encoder.encode_prompt([{"role": "user", "content": "Thing 0?"}]))
    assert len(prompted.encoded.prompts[0]) - alone <= PROMPT_TOKENS
    # The instruction takes 106 tokens, an example 200, and all of it must fit the model as well.
    for context, expected in ((500, 1), (250, 0)):
        prompted, _, _, _ = put(long, colours(3), context=context)
        assert prompted is not None
        assert len(prompted.prompt.examples) == expected
    prompted, reason, _, _ = put(long, colours(3), context=60)
    assert prompted is None
    assert reason == "not even an instruction fits beside the longest question"


def test_too_many_labels_are_cut_and_told() -> None:
    labels = tuple(f"{n:03} label with a long name" for n in range(250))
    test = colours(750, labels=labels)
    prompted, reason, _, _ = put(test, test[:3])
    assert prompted is not None, reason
    assert 10 < len(prompted.prompt.labels) < 30
    assert "Answer with one label, such as these" in prompted.prompt.instruction
    assert f"names the {len(prompted.prompt.labels)} most frequent of 250" in prompted.told[0]
    assert "likelihood is that of the 200 most frequent of 250" in prompted.told[1]
    assert len(prompted.labels) == 200


def test_tools_belong_to_one_conversation() -> None:
    encoder = make_encoder(awkward_templates.WITH_TOOLS)
    tools = [{"type": "function", "function": {"name": "look_up", "parameters": {}}}]
    test = [chat(f"Thing {n}?", LABELS[n % 3], tools=tools) for n in range(6)]
    prompted, reason, _, _ = put(colours(30), test, encoder=encoder)
    assert prompted is not None, reason
    assert prompted.prompt.examples == ()
    assert prompted.told == ("no examples are shown: tools belong to one conversation",)


def test_pairs_are_asked_for_both_answers_behind_the_prompt() -> None:
    def pair(question: str, answer: str) -> dict[str, Any]:
        row = chat(question, answer)["messages"]
        worse = [{"role": "assistant", "content": f"not {answer}"}]
        return {"prompt": row[:1], "completion": row[1:], "rejected": worse}

    def text(number: int) -> str:
        return f"a long enough answer that is no label, number {number}"

    rows = [pair(f"Thing {n}?", text(n)) for n in range(20)]
    encoder = make_encoder(loss="Completion")
    prompted, reason, _, _ = put(rows[:10], rows[10:], encoder=encoder, are_labels=False)
    assert prompted is not None, reason
    assert len(prompted.encoded.examples) == 2 * len(prompted.encoded.owners) == 20
    assert prompted.encoded.choices == []
    assert "with the same content, form, length and style" in prompted.prompt.instruction


def test_json_is_asked_for_by_name_and_text_without_questions_not_at_all() -> None:
    rows = [chat(f"Thing {n}?", f'{{"number": {n}}}') for n in range(20)]
    prompted, _, _, _ = put(rows[:10], rows[10:], are_labels=False, is_json=True)
    assert prompted is not None
    assert prompted.prompt.instruction.startswith("Answer with JSON and nothing else")
    prompted, reason, _, _ = put(rows, [{"text": "a"}, {"text": "b"}], are_labels=False)
    assert prompted is None
    assert reason == "plain text has no questions, so there is nothing to prompt"


def test_a_model_that_states_no_length_leaves_the_prompt_its_own_bound() -> None:
    assert TokenBudget(context=None, longest=5000, answer_tokens=8).prompt_tokens == PROMPT_TOKENS
