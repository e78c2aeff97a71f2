"""Answers without a model, and jobs whose score is worth nothing beside them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import gather_questions
from finetune_trainer.evaluate.scores.copies import PROMPT
from finetune_trainer.evaluate.scores.gating import judge_goal
from finetune_trainer.evaluate.scores.measuring import score_all
from finetune_trainer.evaluate.scores.trivial import MOST_FREQUENT, answer_trivially
from kit.cases.spec_cases import changed, minimal_job


def rows(truth: Sequence[str], *, same_prompt: bool = False) -> list[dict[str, Any]]:
    return [
        {"prompt": "p" if same_prompt else f"p{i}", "completion": label}
        for i, label in enumerate(truth)
    ]


def verdict(
    goal: dict[str, str],
    truth: Sequence[str],
    base: Sequence[str],
    tuned: Sequence[str],
    **evaluation: int,
) -> tuple[bool | None, str, dict[str, Any]]:
    questions = gather_questions(rows(truth), max_questions=1000, seed=0)
    ones = {"nll_sums": np.ones(len(questions)), "num_tokens": np.ones(len(questions))}
    comparison = Comparison(
        questions=questions,
        base=Answers(texts=base, **ones),
        tuned=Answers(texts=tuned, **ones),
    )
    change = {"spec.goal": goal, "spec.evaluation": {"numBootstrapSamples": 200, **evaluation}}
    spec = changed(minimal_job(), change)["spec"]
    job = ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})
    scores, measured = score_all(job, comparison)
    met, words = judge_goal(job.spec, comparison, measured)
    return met, words, {score.name: score for score in scores}


def test_the_label_is_the_most_frequent_and_a_text_is_its_prompt() -> None:
    found = answer_trivially(
        gather_questions(rows(["no", "Yes.", "yes", "no", "yes"]), max_questions=9, seed=0)
    )
    assert found == (MOST_FREQUENT, ["yes"] * 5)
    turns = [
        {"role": "system", "content": "s"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "a"},
        {"role": "user", "content": "last"},
    ]
    text = {"prompt": turns, "completion": [{"role": "assistant", "content": "words " * 9}]}
    copied = answer_trivially(gather_questions([text], max_questions=9, seed=0))
    assert copied == (PROMPT, ("last",))


FRAUD = ["fraud"] * 3 + ["fine"] * 297


@pytest.mark.slow
@pytest.mark.parametrize("metric", ["exactMatch", "macroF1"])
@pytest.mark.parametrize("threshold", [{"atLeast": "0.4"}, {"overBase": "0.1"}])
def test_one_percent_of_fraud_is_not_found_by_always_saying_no(
    metric: str, threshold: dict[str, str]
) -> None:
    goal = {"metric": metric, **threshold}
    met, words, scores = verdict(goal, FRAUD, ["I think it is fine"] * 300, ["fine"] * 300)
    assert met is False
    assert "MISSED +0.000 over always giving the most frequent label" in words
    assert "(must be above 0)" in words
    assert "prompts with another one, of which 6 right ones are the least" in words
    assert "fraud" not in words  # text of rows
    assert scores[metric].trivial == scores[metric].tuned


def test_finding_a_few_of_them_says_how_many_rows_would_show_it() -> None:
    tuned = ["fraud"] * 3 + ["fine"] * 297
    goal = {"metric": "exactMatch", "atLeast": "0.9"}
    met, words, _ = verdict(goal, FRAUD, ["?"] * 300, tuned)
    assert met is False
    assert "+0.010 over always giving the most frequent label (0.990), lower bound -0.0" in words
    assert "independent held-out prompts more than these 300 would decide it" in words
    many = ["fraud"] * 12 + ["fine"] * 288
    met, words, _ = verdict(goal, many, ["?"] * 300, many)
    assert met is True
    assert "MISSED" not in words


def test_three_rows_of_one_label_prove_nothing() -> None:
    goal = {"metric": "exactMatch", "atLeast": "0.5"}
    met, words, _ = verdict(goal, ["ok"] * 3, ["hm"] * 3, ["ok"] * 3)
    assert met is False
    assert "MISSED 3 distinct " in words
    met, words, _ = verdict(goal, ["ok"] * 3, ["hm"] * 3, ["ok"] * 3, minPrompts=1)
    assert met is False
    assert "MISSED 1.000, lower bound 0.292 (goal: at least 0.5)" in words


def test_balanced_labels_are_judged_as_before() -> None:
    truth = ["a", "b", "c"] * 20
    goal = {"metric": "macroF1", "atLeast": "0.8", "overBase": "0.3"}
    met, words, scores = verdict(goal, truth, ["a"] * 60, truth)
    assert met is True, words
    assert scores["exactMatch"].trivial == "0.3333"
    assert scores["loss"].trivial == ""


def test_a_label_that_is_accepted_beside_others_counts_everywhere() -> None:
    several = [
        {"prompt": f"p{i}", "completion": label}
        for i, labels in enumerate(["ab", "cb", "b", "a", "a"])
        for label in labels
    ]
    _, texts = answer_trivially(gather_questions(several, max_questions=9, seed=0))
    # "a" is first of three, "b" is accepted by three: the first in the order of the rows.
    assert texts == ["a"] * 5
    more = [*several, {"prompt": "p5", "completion": "c"}, {"prompt": "p5", "completion": "b"}]
    assert answer_trivially(gather_questions(more, max_questions=9, seed=0))[1] == ["b"] * 6
