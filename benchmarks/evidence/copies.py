"""Whether copies of the prompt, templates and constants meet goals, and whether a model does.

Data are shaped like real ones: orders as JSON, product copy, questions about a text, articles,
prices, mail. Goals have a usual height.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
from benchmarks.evidence.coverage import SEED

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.gating import judge_goal
from finetune_trainer.evaluate.scores.measuring import measure_one

NUM_PROMPTS, NUM_TRAIN = 200, 1000
SETTINGS = Settings(relative=Decimal("0.05"))
VOCABULARY = [f"w{i}" for i in range(3000)]
RIGHT = 0.99
"""Rows that the tuned model has right; in the others it says the answer of another row."""
COPY, CONSTANT, MODEL = "copy or template", "constant", "tuned model"
Messages = list[dict[str, str]]
Goal = dict[str, str]


@dataclass(frozen=True, kw_only=True, slots=True)
class Task:
    """Data, and what may be said to them.

    Attributes:
        words: What they are.
        prompts: Held-out prompts.
        references: Their answers.
        trained: Prompts and answers of the train side.
        base: What the base model says.
        said: Answers without knowledge: kind and words, the texts, and the goals.
    """

    words: str
    prompts: Sequence[Messages]
    references: Sequence[str]
    trained: Sequence[tuple[str, str]]
    base: Sequence[str]
    said: Mapping[tuple[str, str], tuple[Sequence[str], Sequence[Goal]]]


@dataclass(frozen=True, kw_only=True, slots=True)
class Told:
    """One line.

    Attributes:
        task: The data.
        kind: A constant, a copy, or the model.
        answer: What is said.
        goals: The goals.
        met: Which of them are met.
    """

    task: str
    kind: str
    answer: str
    goals: Sequence[str]
    met: Sequence[str]


def judge_all() -> Iterator[Told]:
    """Yield for each answer to each task which goals it meets."""
    rng = random.Random(SEED)
    for task in _tasks(rng):
        yield from judge_task(task, rng)


def judge_task(task: Task, rng: random.Random) -> Iterator[Told]:
    """Yield for each answer which goals it meets; the tuned model comes last."""
    goals: dict[str, Goal] = {}
    for (kind, answer), (texts, asked) in task.said.items():
        goals |= {_name(goal): goal for goal in asked}
        yield _judge(task, kind, answer, texts, asked)
    others = [*task.references[1:], task.references[0]]
    pairs = zip(task.references, others, strict=True)
    right = [own if rng.random() < RIGHT else other for own, other in pairs]
    yield _judge(task, MODEL, f"right in {RIGHT:.0%}", right, list(goals.values()))


def _judge(task: Task, kind: str, answer: str, texts: Sequence[str], goals: Sequence[Goal]) -> Told:
    names = [_name(goal) for goal in goals]
    met = [_name(goal) for goal in goals if _is_met(task, goal, texts)]
    return Told(task=task.words, kind=kind, answer=answer, goals=names, met=met)


def _is_met(task: Task, goal: Goal, texts: Sequence[str]) -> bool:
    ones = np.ones(len(texts))
    questions = [
        Question(prompt=prompt, references=(truth,), rows=({"prompt": prompt},), group=f"{i}")
        for i, (prompt, truth) in enumerate(zip(task.prompts, task.references, strict=True))
    ]
    base, tuned = (
        Answers(texts=list(said), nll_sums=ones, num_tokens=ones) for said in (task.base, texts)
    )
    comparison = Comparison(questions=questions, base=base, tuned=tuned, trained=list(task.trained))
    spec: dict[str, Any] = {
        "model": {"uri": "hf://example/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models"},
        "evaluation": {"numBootstrapSamples": 1000},
        "goal": goal,
    }
    job = ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})
    found = measure_one(job, comparison, goal["metric"], SETTINGS)
    return judge_goal(job.spec, comparison, {goal["metric"]: found})[0] is True


def _name(goal: Goal) -> str:
    return f"{goal['metric']} {goal['atLeast']}" + (
        f" and {goal['overBase']} over the base" if "overBase" in goal else ""
    )


def _goal(metric: str, at_least: str, over_base: str = "") -> Goal:
    over = {"overBase": over_base} if over_base else {}
    return {"metric": metric, "atLeast": at_least, **over}


def _words(rng: random.Random, number: int) -> str:
    """Return words of which some are much more frequent than others."""
    return " ".join(rng.choices(VOCABULARY, [1 / (i + 3) for i in range(3000)], k=number))


def _user(text: str) -> Messages:
    return [{"role": "user", "content": text}]


def _tasks(rng: random.Random) -> Iterator[Task]:
    yield _labels(rng)
    yield _orders(rng)
    yield _copy(rng)
    for where in ("the question's message", "the system message", "an earlier turn"):
        yield _questions(rng, where)
    for number, num_sentences in ((200, 2), (500, 2), (500, 4), (2000, 8)):
        yield _short_contexts(rng, number, num_sentences)
    yield _articles(rng)
    yield _prices(rng)
    yield _mail(rng)


def _labels(rng: random.Random) -> Task:
    def draw(number: int) -> list[str]:
        return rng.choices(["routine", "urgent"], [0.9, 0.1], k=number)

    goals = [_goal("exactMatch", "0.8"), _goal("macroF1", "0.3")]
    over = [_goal("exactMatch", "0.0", "0.2")]
    return Task(
        words="labels, 90 % one",
        prompts=[_user(_words(rng, 20)) for _ in range(NUM_PROMPTS)],
        references=draw(NUM_PROMPTS),
        trained=[(_words(rng, 20), label) for label in draw(NUM_TRAIN)],
        base=["?"] * NUM_PROMPTS,
        said={
            (CONSTANT, "the frequent label"): (["routine"] * NUM_PROMPTS, goals + over),
            (CONSTANT, "labels by chance"): (draw(NUM_PROMPTS), goals),
        },
    )


USUAL_FIELDS = {
    "status": ("open", 0.85, ("shipped", "closed")),
    "currency": ("EUR", 0.9, ("USD",)),
    "country": ("DE", 0.8, ("FR", "AT")),
    "gift": (False, 0.9, (True,)),
    "priority": ("normal", 0.85, ("high",)),
    "channel": ("web", 0.8, ("phone", "shop")),
    "vat": (19, 0.9, (7,)),
    "lang": ("de", 0.8, ("fr", "en")),
}


def _orders(rng: random.Random) -> Task:
    usual = {name: value for name, (value, _, _) in USUAL_FIELDS.items()}

    def order(fields: Mapping[str, object], number: str) -> str:
        return json.dumps({"order": {"id": number, **fields}})

    def draw() -> tuple[str, str, str]:
        number = f"A{rng.randrange(10**5):05d}"
        fields = {
            name: value if rng.random() < share else rng.choice(others)
            for name, (value, share, others) in USUAL_FIELDS.items()
        }
        return number, f"Order {number}: {_words(rng, 15)}", order(fields, number)

    rows = [draw() for _ in range(NUM_PROMPTS)]
    goals = [
        _goal("jsonFieldF1", "0.6"),
        _goal("jsonValid", "0.9"),
        _goal("rougeL", "0.5"),
        _goal("chrF", "0.5"),
    ]
    over = [_goal("jsonFieldF1", "0.6", "0.3")]
    return Task(
        words="orders as JSON, usual values in 80 to 90 %",
        prompts=[_user(text) for _, text, _ in rows],
        references=[truth for _, _, truth in rows],
        trained=[draw()[1:] for _ in range(NUM_TRAIN)],
        base=["I do not know."] * NUM_PROMPTS,
        said={
            (CONSTANT, "usual values"): ([order(usual, "A00000")] * NUM_PROMPTS, goals),
            (CONSTANT, "usual values, any number"): (
                [order(usual, draw()[0]) for _ in rows],
                goals,
            ),
            (COPY, "usual values, the prompt's number"): (
                [order(usual, number) for number, _, _ in rows],
                goals + over,
            ),
        },
    )


PHRASES = (
    "discover the perfect companion for your everyday life with our",
    "crafted from high quality materials",
    "it offers exceptional comfort and durability",
    "order now and enjoy fast delivery",
)


def _copy(rng: random.Random) -> Task:
    def draw() -> tuple[str, list[str], str, str]:
        name, features = _words(rng, 2), [_words(rng, 2) for _ in range(4)]
        usual = [
            phrase if rng.random() < 0.7 else _words(rng, 6) for phrase in (PHRASES[2], PHRASES[3])
        ]
        parts = (PHRASES[0], name, PHRASES[1], "with", features[0], "and", features[1])
        truth = " ".join((*parts, _words(rng, 14), *usual))
        text = f"Write a description. Name: {name}. Features: {'; '.join(features)}"
        return name, features, text, truth

    rows = [draw() for _ in range(NUM_PROMPTS)]
    filled = [
        " ".join((PHRASES[0], name, PHRASES[1], "with", " and ".join(features), *PHRASES[2:]))
        for name, features, _, _ in rows
    ]
    whole = [f"{PHRASES[0]} {text} {PHRASES[2]} {PHRASES[3]}" for _, _, text, _ in rows]
    heights = (("rougeL", "0.3"), ("chrF", "0.3"), ("bleu", "0.1"))
    return Task(
        words="product copy with usual phrases",
        prompts=[_user(text) for _, _, text, _ in rows],
        references=[truth for *_, truth in rows],
        trained=[draw()[2:] for _ in range(NUM_TRAIN)],
        base=[_words(rng, 40) for _ in rows],
        said={
            (CONSTANT, "the phrases"): (
                [" ".join(PHRASES)] * NUM_PROMPTS,
                [_goal(*each) for each in heights],
            ),
            (COPY, "the phrases, name and features put in"): (
                filled,
                [_goal(*each, "0.1") for each in heights],
            ),
            (COPY, "two phrases around the whole prompt"): (
                whole,
                [_goal(metric, "0.1", "0.05") for metric, _ in heights],
            ),
        },
    )


def _questions(rng: random.Random, where: str) -> Task:
    def draw() -> tuple[Messages, list[str], str, str]:
        sentences = [_words(rng, 14) for _ in range(12)]
        answer = f"ans{rng.randrange(10**6)} {rng.choice(VOCABULARY)}"
        place = rng.randrange(12)
        sentences[place] += f" {answer}"
        text, question = ". ".join(sentences) + ".", f"question {_words(rng, 6)}"
        if where == "the system message":
            system = {"role": "system", "content": f"Use this context: {text}"}
            prompt = [system, *_user(question)]
        elif where == "an earlier turn":
            thanks = {"role": "assistant", "content": "Thank you."}
            prompt = [*_user(text), thanks, *_user(question)]
        else:
            prompt = _user(f"Context: {text}\nQuestion: {question}")
        return prompt, sentences, answer, sentences[place]

    rows = [draw() for _ in range(NUM_PROMPTS)]
    trained = [draw() for _ in range(NUM_TRAIN)]
    dumped = [". ".join(sentences) + "." for _, sentences, _, _ in rows]
    return Task(
        words=f"an answer in a text of 12 sentences in {where}",
        prompts=[prompt for prompt, *_ in rows],
        references=[answer for _, _, answer, _ in rows],
        trained=[(prompt[-1]["content"], answer) for prompt, _, answer, _ in trained],
        base=[found if rng.random() < 0.4 else _words(rng, 5) for *_, found in rows],
        said={
            (COPY, "the whole text"): (dumped, [_goal("contains", "0.8", "0.2")]),
            (COPY, "nine of its sentences"): (
                [". ".join(sentences[:9]) for _, sentences, _, _ in rows],
                [_goal("contains", "0.6", "0.05")],
            ),
        },
    )


def _short_contexts(rng: random.Random, number: int, num_sentences: int) -> Task:
    prompts, references, texts, base = [], [], [], []
    for _ in range(number):
        sentences = [_words(rng, 14) for _ in range(num_sentences)]
        answer = f"a{rng.randrange(10**6)} {rng.choice(VOCABULARY)}"
        place = rng.randrange(num_sentences)
        sentences[place] += f" {answer}"
        text = ". ".join(sentences)
        begin = "Answer from the text in a few words only."
        prompts.append(_user(f"{begin} Text: {text} Question: {_words(rng, 8)}"))
        references.append(answer)
        texts.append(text)
        base.append(sentences[place] if rng.random() < 0.4 else "?")
    return Task(
        words=f"an answer in a text of {num_sentences} sentences, {number:,} rows",
        prompts=prompts,
        references=references,
        trained=[(_words(rng, 40), f"a{i} x") for i in range(300)],
        base=base,
        said={(COPY, "the text without the question"): (texts, [_goal("contains", "0.9", "0.2")])},
    )


def _articles(rng: random.Random) -> Task:
    def draw() -> tuple[str, str, str]:
        sentences = [_words(rng, 15) for _ in range(30)]
        kept = [word for word in sentences[0].split() if rng.random() < 0.6]
        more = rng.choices(sentences[1].split(), k=5)
        summary = " ".join((*kept, *more, _words(rng, 4)))
        return f"Summarise: {'. '.join(sentences)}", sentences[0], summary

    rows = [draw() for _ in range(NUM_PROMPTS)]
    trained = [draw() for _ in range(NUM_TRAIN)]
    heights = (("rougeL", "0.3"), ("chrF", "0.25"), ("bleu", "0.05"))
    return Task(
        words="summaries of 30 sentences that share words with the first",
        prompts=[_user(text) for text, _, _ in rows],
        references=[summary for *_, summary in rows],
        trained=[(text, summary) for text, _, summary in trained],
        base=[text for text, _, _ in rows],
        said={
            (COPY, "the first sentence"): (
                [first for _, first, _ in rows],
                [_goal(*each, "0.1") for each in heights],
            ),
            (COPY, "the first 20 words"): (
                [" ".join(text.split()[:20]) for text, _, _ in rows],
                [_goal(metric, "0.2" if metric != "bleu" else "0.05") for metric, _ in heights],
            ),
        },
    )


def _prices(rng: random.Random) -> Task:
    def draw() -> tuple[str, str, int, int]:
        price, percent = rng.randrange(10, 999), rng.randrange(1, 9)
        text = f"The price was {price} and rises by {percent} percent. New price?"
        return text, f"{price * (1 + percent / 100):.1f}", price, percent

    rows = [draw() for _ in range(NUM_PROMPTS)]
    goals = [_goal("numberClose", "0.3", "0.1")]
    return Task(
        words="prices that rise by 1 to 8 %, within 5 %",
        prompts=[_user(text) for text, *_ in rows],
        references=[truth for _, truth, _, _ in rows],
        trained=[draw()[:2] for _ in range(NUM_TRAIN)],
        base=["?"] * NUM_PROMPTS,
        said={
            (COPY, "the first number"): ([str(price) for *_, price, _ in rows], goals),
            (COPY, "the last number"): ([str(percent) for *_, percent in rows], goals),
        },
    )


def _mail(rng: random.Random) -> Task:
    usual = [_words(rng, 12) for _ in range(6)]

    def draw() -> str:
        known = rng.choices(usual, [0.3, 0.2, 0.15, 0.15, 0.1, 0.1])[0]
        return known if rng.random() < 0.95 else _words(rng, 12)

    goals = [_goal(metric, "0.1") for metric in ("exactMatch", "rougeL", "contains")]
    return Task(
        words="mail with six usual answers",
        prompts=[_user(_words(rng, 9)) for _ in range(NUM_PROMPTS)],
        references=[draw() for _ in range(NUM_PROMPTS)],
        trained=[(_words(rng, 9), draw()) for _ in range(NUM_TRAIN)],
        base=["?"] * NUM_PROMPTS,
        said={
            (CONSTANT, f"{number} usual answers in turn"): (
                [usual[i % number] for i in range(NUM_PROMPTS)],
                goals,
            )
            for number in (2, 3, 6)
        },
    )
