"""How often one answer to everything meets a goal, and how often a good model does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from benchmarks.evidence.coverage import SEED

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.scores.gating import judge_gates, judge_goal
from finetune_trainer.evaluate.scores.measuring import measure_one
from finetune_trainer.verdict.power import chance_of_goal, suppose

NUM_PROMPTS = 40
LABELS = ("positive", "negative", "neutral")
USUAL = "thank you for your message we answer within two days"

Rng = np.random.Generator
Draw = Callable[[Rng], tuple[list[str], list[str]]]
"""Draws references and what the model says."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One line of the table.

    Attributes:
        words: What the model answers.
        asked: Goal, or gate where it has a slice.
        draw: Draws a held-out side and the answers.
        foreseen: How often a model meets it, as told before there is one; None of a constant.
    """

    words: str
    asked: dict[str, Any]
    draw: Draw
    foreseen: float | None = None


def met_shares(num_verdicts: int) -> Iterator[tuple[Case, int]]:
    """Yield each case, and how many of its verdicts were "met"."""
    for place, case in enumerate(_cases()):
        rng = np.random.default_rng(SEED + place)
        yield case, sum(_is_met(case, rng) for _ in range(num_verdicts))


def _is_met(case: Case, rng: Rng) -> bool:
    truth, said = case.draw(rng)
    ones = np.ones(len(truth))
    questions = [
        Question(prompt=f"p{i}", references=(each,), rows=({"prompt": f"p{i}"},), group=f"{i}")
        for i, each in enumerate(truth)
    ]
    base, tuned = (
        Answers(texts=texts, nll_sums=ones, num_tokens=ones) for texts in (["?"] * len(truth), said)
    )
    comparison = Comparison(questions=questions, base=base, tuned=tuned)
    evaluation: dict[str, Any] = {"numBootstrapSamples": 100}
    goal = None if "slice" in case.asked else case.asked
    if goal is None:
        evaluation["gates"] = [{"name": "gate", **case.asked}]
    spec = {
        "model": {"uri": "hf://example/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models"},
        "evaluation": evaluation,
        **({} if goal is None else {"goal": goal}),
    }
    job = ResolvedJob.model_validate(
        {"namespace": "default", "name": "job", "uid": "uid", "spec": spec}
    )
    if goal is None:
        return judge_gates(job, comparison)[0].met
    name = str(goal["metric"])
    measured = {name: measure_one(job, comparison, name)}
    return judge_goal(job.spec, comparison, measured)[0] is True


def _labels(shares: tuple[float, ...]) -> Callable[[Rng], list[str]]:
    return lambda rng: rng.choice(LABELS, NUM_PROMPTS, p=shares).tolist()


def _texts(rng: Rng) -> list[str]:
    """Return texts of which nine in ten are one."""
    words = [" ".join(f"w{word}" for word in rng.integers(0, 500, 9)) for _ in range(NUM_PROMPTS)]
    return [USUAL if rng.random() < 0.9 else each for each in words]


def _fine(rng: Rng) -> list[str]:
    return ["fine" if rng.random() < 0.95 else f"fault {i}" for i in range(NUM_PROMPTS)]


def _numbers(rng: Rng) -> list[str]:
    return [str(7 if rng.random() < 0.7 else number) for number in rng.integers(0, 99, NUM_PROMPTS)]


def _objects(rng: Rng) -> list[str]:
    ages = rng.integers(0, 90, NUM_PROMPTS)
    return [f'{{"country": "DE", "kind": "person", "age": {age}}}' for age in ages]


def _always(draw: Callable[[Rng], list[str]], text: str) -> Draw:
    def pair(rng: Rng) -> tuple[list[str], list[str]]:
        truth = draw(rng)
        return truth, [text] * len(truth)

    return pair


def _in_turn(rng: Rng) -> tuple[list[str], list[str]]:
    return _labels((1 / 3,) * 3)(rng), [LABELS[i % 3] for i in range(NUM_PROMPTS)]


def _by_chance(rng: Rng) -> tuple[list[str], list[str]]:
    draw = _labels((1 / 3,) * 3)
    return draw(rng), draw(rng)


def _honest(number: int, share: float) -> Draw:
    """Return a model that is right so often on two labels of one half each."""

    def pair(rng: Rng) -> tuple[list[str], list[str]]:
        truth = rng.integers(0, 2, number)
        said = np.where(rng.random(number) < share, truth, 1 - truth)
        return [LABELS[i] for i in truth], [LABELS[i] for i in said]

    return pair


def _cases() -> Iterator[Case]:
    even, uneven = _labels((1 / 3,) * 3), _labels((0.7, 0.2, 0.1))

    def case(words: str, metric: str, at_least: str, draw: Draw, **more: Any) -> Case:
        return Case(words=words, asked={"metric": metric, "atLeast": at_least, **more}, draw=draw)

    yield case("all labels in one answer", "contains", "0.8", _always(even, " ".join(LABELS)))
    yield case("the label of 70 %", "exactMatch", "0.4", _always(uneven, "positive"))
    yield case("the label of 70 %", "macroF1", "0.1", _always(uneven, "positive"))
    yield case("three labels in turn", "macroF1", "0.1", _in_turn)
    yield case("three labels by chance", "macroF1", "0.1", _by_chance)
    label = {"slice": {"label": "positive"}}
    yield case("a label, on its rows", "exactMatch", "0.5", _always(uneven, "positive"), **label)
    for metric in ("contains", "rougeL", "chrF"):
        yield case("`fine`, which 95 % are", metric, "0.7", _always(_fine, "fine"))
    yield case("the text of 90 %", "rougeL", "0.5", _always(_texts, USUAL))
    yield case("the text of 90 %, cut", "rougeL", "0.5", _always(_texts, USUAL[:40]))
    yield case("the number of 70 %", "numberClose", "0.4", _always(_numbers, "7"))
    yield case("`{}`", "jsonValid", "0.8", _always(_objects, "{}"))
    usual = '{"country": "DE", "kind": "person", "age": 40}'
    yield case("an object of usual values", "jsonFieldF1", "0.5", _always(_objects, usual))
    for number in (30, 60, 100):
        goal = {"metric": "exactMatch", "atLeast": "0.8"}
        asked = suppose(Goal.model_validate(goal), constant=0.5)
        assert asked is not None
        yield Case(
            words=f"a model truly at {asked.truth:.2f}, {number} prompts, two labels",
            asked=goal,
            draw=_honest(number, asked.truth),
            foreseen=chance_of_goal(asked, number),
        )
