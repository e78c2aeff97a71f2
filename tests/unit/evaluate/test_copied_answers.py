"""Copies of the input and templates meet no goal; a model that is right does."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.copies import divide, fill, find_frame, make_templates
from finetune_trainer.evaluate.scores.gating import judge_gates, judge_goal
from finetune_trainer.evaluate.scores.measuring import measure_one
from finetune_trainer.verdict.goal import Measurement
from kit.cases.spec_cases import changed, minimal_job

NUM = 100
RNG = Random(7)
WORDS = [f"w{i}" for i in range(900)]

Prompt = list[dict[str, Any]]


def words(number: int) -> str:
    return " ".join(RNG.choices(WORDS, [1 / (i + 3) for i in range(900)], k=number))


def user(text: str) -> Prompt:
    return [{"role": "user", "content": text}]


@dataclass(frozen=True, kw_only=True)
class Row:
    """A question, its reference, and what somebody says who only copies."""

    prompt: Prompt
    truth: str
    copied: str


def answers(texts: Sequence[str], **more: Any) -> Answers:
    ones = np.ones(len(texts))
    return Answers(texts=list(texts), nll_sums=ones, num_tokens=ones, **more)


def compared(rows: Sequence[Row], tuned: Sequence[str], trained: Sequence[Row] = ()) -> Comparison:
    questions = [
        Question(prompt=row.prompt, references=(row.truth,), rows=({},), group=str(place))
        for place, row in enumerate(rows)
    ]
    return Comparison(
        questions=questions,
        base=answers(["?"] * len(rows)),
        tuned=answers(tuned),
        trained=[(row.prompt[-1]["content"], row.truth) for row in trained],
    )


def job_with(goal: dict[str, str], **evaluation: Any) -> ResolvedJob:
    told = {"numBootstrapSamples": 200, "judge": {"endpoint": "https://judge/v1", "model": "m"}}
    change: dict[str, Any] = {"spec.goal": goal, "spec.evaluation": {**told, **evaluation}}
    if goal["metric"] == "preferenceAccuracy":
        change["spec.method"] = {"objective": "DPO"}
    spec = changed(minimal_job(), change)
    return ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": spec["spec"]}
    )


def judged(goal: dict[str, str], comparison: Comparison) -> tuple[bool | None, Measurement]:
    job = job_with(goal)
    found = measure_one(job, comparison, goal["metric"])
    return judge_goal(job.spec, comparison, {goal["metric"]: found})[0], found


def order() -> Row:
    """Nine fields of which eight are nearly always the same, and an id that the prompt has."""
    usual = {"status": "open", "currency": "EUR", "lang": "de", "vat": 19, "gift": False}
    drawn = {
        key: value if RNG.random() < 0.8 else f"other {RNG.randrange(3)}"
        for key, value in usual.items()
    }
    name = f"A{RNG.randrange(99999):05d}"
    said, modal = ({"order": {"id": name, **fields}} for fields in (drawn, usual))
    prompt = user(f"Order {name}: {words(12)}")
    return Row(prompt=prompt, truth=json.dumps(said), copied=json.dumps(modal))


def product() -> Row:
    """Fixed phrases around the name and the features of the prompt, and free text."""
    name, first, second = words(2), words(2), words(2)
    begin, middle = "discover the perfect companion for daily life with our", "crafted with"
    end = "order now and enjoy fast delivery"
    truth = f"{begin} {name} {middle} {first} and {second} {words(14)} {end}"
    copied = f"{begin} {name} {middle} {first} and {second} {end}"
    prompt = user(f"Describe it. Name: {name}. Features: {first}; {second}; {words(2)}")
    return Row(prompt=prompt, truth=truth, copied=copied)


def phrase_and_prompt() -> Row:
    row = product()
    return replace(row, copied=f"discover the perfect companion {row.prompt[0]['content']} order")


def question(where: str, num_sentences: int, num_copied: int) -> Row:
    """A question whose answer is in one sentence of a context."""
    sentences = [words(14) for _ in range(num_sentences)]
    answer = f"ans{RNG.randrange(10**6)} {words(1)}"
    sentences[RNG.randrange(num_sentences)] += f" {answer}"
    context, asked = ". ".join(sentences) + ".", f"which {words(6)}"
    prompt = {
        "system": [{"role": "system", "content": context}, *user(asked)],
        "turn": [*user(context), {"role": "assistant", "content": "Thanks."}, *user(asked)],
        "user": user(f"Answer in a few words. Text: {context} Question: {asked}"),
    }[where]
    return Row(prompt=prompt, truth=answer, copied=". ".join(sentences[:num_copied]))


def article(cut: Callable[[list[str]], str]) -> Row:
    """A summary that shares words with the first sentence."""
    sentences = [words(15) for _ in range(12)]
    lead = [word for word in sentences[0].split() if RNG.random() < 0.6]
    truth = f"{' '.join(lead)} {words(6)}"
    prompt = user(f"Summarise: {'. '.join(sentences)}.")
    return Row(prompt=prompt, truth=truth, copied=cut(sentences))


def price() -> Row:
    value, percent = RNG.randrange(10, 999), RNG.randrange(1, 9)
    prompt = user(f"The price was {value} and rises by {percent} percent. New price?")
    return Row(prompt=prompt, truth=f"{value * (1 + percent / 100):.1f}", copied=str(value))


COPIES: dict[str, tuple[dict[str, str], Callable[[], Row]]] = {
    "json fields": ({"metric": "jsonFieldF1", "atLeast": "0.6"}, order),
    "json form": ({"metric": "jsonValid", "atLeast": "0.9"}, order),
    "json words": ({"metric": "rougeL", "atLeast": "0.5"}, order),
    "json characters": ({"metric": "chrF", "atLeast": "0.5"}, order),
    "template, words": ({"metric": "rougeL", "atLeast": "0.3"}, product),
    "template, characters": ({"metric": "chrF", "atLeast": "0.3"}, product),
    "template, runs": ({"metric": "bleu", "atLeast": "0.1"}, product),
    "prompt between phrases": ({"metric": "rougeL", "atLeast": "0.1"}, phrase_and_prompt),
    "system text": ({"metric": "contains", "atLeast": "0.8"}, lambda: question("system", 12, 12)),
    "its beginning": ({"metric": "contains", "atLeast": "0.5"}, lambda: question("system", 12, 9)),
    "earlier message": ({"metric": "contains", "atLeast": "0.8"}, lambda: question("turn", 12, 12)),
    "short context": ({"metric": "contains", "atLeast": "0.8"}, lambda: question("user", 2, 2)),
    "first sentence": ({"metric": "rougeL", "atLeast": "0.3"}, lambda: article(lambda s: s[0])),
    "first sentence, runs": (
        {"metric": "bleu", "atLeast": "0.05"},
        lambda: article(lambda s: s[0]),
    ),
    "first words": (
        {"metric": "chrF", "atLeast": "0.2"},
        lambda: article(lambda s: " ".join(s).replace(".", "")[:90]),
    ),
    "first number": ({"metric": "numberClose", "atLeast": "0.3"}, price),
}


@pytest.mark.parametrize("kind", COPIES)
def test_a_copy_meets_no_goal_and_a_right_model_does(kind: str) -> None:
    goal, draw = COPIES[kind]
    RNG.seed(kind)
    job = job_with(goal, numberTolerance={"relative": "0.05"})
    rows, trained = [draw() for _ in range(NUM)], [draw() for _ in range(NUM)]
    right = [row.truth if place % 100 else "no idea" for place, row in enumerate(rows)]
    for tuned, is_met in (([row.copied for row in rows], False), (right, True)):
        comparison = compared(rows, tuned, trained)
        met, words_said = judge_goal(
            job.spec,
            comparison,
            {goal["metric"]: measure_one(job, comparison, goal["metric"], settings_of(kind))},
        )
        assert met is is_met, words_said


def settings_of(kind: str) -> Any:
    from decimal import Decimal

    from finetune_trainer.evaluate.metrics.catalog import Settings

    return Settings(relative=Decimal("0.05") if kind == "first number" else Decimal(0))


def test_a_template_of_the_train_side_is_a_rival_of_every_model() -> None:
    RNG.seed("train")
    rows, trained = [order() for _ in range(NUM)], [order() for _ in range(NUM)]
    # Its answers have no common template: each has another space in it.
    tuned = [row.copied.replace(" ", " " * (1 + place)) for place, row in enumerate(rows)]
    goal = {"metric": "jsonFieldF1", "atLeast": "0.6"}
    met, found = judged(goal, compared(rows, tuned, trained))
    assert met is False
    assert found.rivals[0].constant == (
        "a JSON object of the most frequent values, with words of the prompt put in"
    )


def test_a_template_takes_words_by_what_stands_before_them() -> None:
    prompts = ["Name: Ada Lovelace. Town: Bern", "Town: Oslo. Name: Bo"]
    frame = find_frame(prompts)
    assert frame == {"Name", "Town"}
    (template,) = make_templates([(prompts[0], "Dear Ada Lovelace of Bern!")], frame)
    parts = [divide(prompt, frame) for prompt in prompts]
    assert fill(template, parts, 0) == "Dear Ada Lovelace of Bern!"
    assert fill(template, parts, 1).split() == ["Dear", "Bo", "of", "Oslo!"]


def test_a_long_answer_is_no_hit_only_where_it_repeats_the_prompt() -> None:
    RNG.seed("long")
    rows = [question("system", 12, 0) for _ in range(NUM)]
    goal = {"metric": "contains", "atLeast": "0.8"}
    assert judged(goal, compared(rows, [f"It is {row.truth}." for row in rows]))[0] is True
    own = " ".join(f"because{place}" for place in range(40))
    assert judged(goal, compared(rows, [f"{row.truth} {own}" for row in rows]))[0] is True
    copies = [f"{row.truth} {row.prompt[0]['content'][:200]}" for row in rows]
    met, found = judged(goal, compared(rows, copies))
    assert met is False
    assert found.rivals[0].over is not None
    assert found.rivals[0].over.value < 0


STOCK = (
    "Thank you for your question, we are sorry for the trouble and will look into it at once.",
    "Thanks for reaching out! Please restart the device and try again, or contact us.",
    "I understand, our team values your feedback and will get back to you within two days.",
)


@pytest.mark.parametrize(
    ("draw", "is_met"),
    [
        (lambda place, prompt: STOCK[place % 2], False),
        (lambda place, prompt: STOCK[place % 3], False),
        (lambda place, prompt: f"Great question about {prompt[:20]}! {STOCK[0]}", False),
        (lambda place, prompt: words(15), True),
        (lambda place, prompt: prompt, True),
    ],
    ids=["two in turn", "three in turn", "words of the prompt", "free", "extracts"],
)
def test_stock_answers_meet_no_goal_of_a_judge(
    draw: Callable[[int, str], str], is_met: bool
) -> None:
    RNG.seed("judge")
    rows = [Row(prompt=user(words(9)), truth="", copied="") for _ in range(NUM)]
    said = [draw(place, row.prompt[0]["content"]) for place, row in enumerate(rows)]
    found = compared(rows, said)
    won = {"judgeWinRate": np.ones(NUM)}
    lost = {"judgeWinRate": np.zeros(NUM)}
    found = replace(
        found, tuned=replace(found.tuned, judged=won), base=replace(found.base, judged=lost)
    )
    assert judged({"metric": "judgeWinRate", "atLeast": "0.6"}, found)[0] is is_met


def preferring(longer: Sequence[bool], right: Sequence[float]) -> Comparison:
    """Return pairs of which the better one is longer or not, and what a model got right."""
    pairs = [("w " * (9 if is_longer else 3), "w " * 6) for is_longer in longer]
    questions = [
        Question(
            prompt=f"p{place}",
            references=(better,),
            rows=({"prompt": f"p{place}", "completion": better, "rejected": worse},),
            group=str(place),
        )
        for place, (better, worse) in enumerate(pairs)
    ]
    texts = [""] * len(pairs)
    return Comparison(
        questions=questions,
        base=answers(texts, preferred=np.zeros(len(pairs))),
        tuned=answers(texts, preferred=np.array(right)),
    )


@pytest.mark.parametrize("is_longer", [True, False])
def test_length_alone_meets_no_goal_of_preferences(is_longer: bool) -> None:
    goal = {"metric": "preferenceAccuracy", "atLeast": "0.55"}
    longer = [(place % 10 < 7) is is_longer for place in range(200)]
    by_length = [float(each is is_longer) for each in longer]
    met, found = judged(goal, preferring(longer, by_length))
    assert met is False
    assert found.rivals[0].constant.split()[1] == ("longer" if is_longer else "shorter")
    gate = {"name": "g", **goal}
    job = job_with(goal, gates=[gate])
    assert not judge_gates(job, preferring(longer, by_length))[0].met
    right = [float(place % 20 > 0) for place in range(200)]
    assert judged(goal, preferring(longer, right))[0] is True


def test_length_that_tells_pairs_apart_by_chance_is_no_rival() -> None:
    longer = [place % 2 == 0 for place in range(60)]
    right = [float(place % 3 > 0) for place in range(60)]
    goal = {"metric": "preferenceAccuracy", "overBase": "0.1"}
    met, found = judged(goal, preferring(longer, right))
    assert (met, found.rivals) == (True, ())
