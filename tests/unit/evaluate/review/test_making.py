"""A job's evaluation becomes a review."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.sources.review.blinding import Blind, KeyEntry
from finetune_trainer.evaluate.sources.review.making import make_review
from kit.cases.spec_cases import changed, minimal_job


def make(
    number: int,
    *,
    sample: int = 8,
    labels: str = "",
    change: dict[str, Any] | None = None,
    prompted: str = "",
) -> tuple[Blind, dict[str, KeyEntry], dict[str, Any]]:
    review = {"spec.evaluation.review": {"sample": sample, "rubric": ["voice"]}}
    body = changed(minimal_job(), {**review, **(change or {})})
    job = ResolvedJob.model_validate(
        {"namespace": "team-a", "name": "example", "uid": "u", "spec": body["spec"]}
    )
    questions = [
        Question(
            prompt=f"q{i}",
            references=(labels[i % len(labels)] if labels else f"the answer of {i}",),
            rows=({},),
            group=f"g{i // 2}",
        )
        for i in range(number)
    ]
    ones = np.ones(number)
    base, tuned = (
        Answers(texts=texts, nll_sums=ones, num_tokens=ones)
        for texts in (
            [f"b{i}" for i in range(number)],
            [f"t{i}" if i else "b0" for i in range(number)],
        )
    )
    with_prompt = Answers(
        texts=[prompted.format(i) for i in range(number)], nll_sums=ones, num_tokens=ones
    )
    comparison = Comparison(
        questions=questions, base=base, tuned=tuned, prompted=with_prompt if prompted else None
    )
    scores = [{"exactMatch": (0.0, float(i % 2)), "loss": (1.0, i / 100)} for i in range(number)]
    assert job.spec.evaluation.review is not None
    return make_review(job, job.spec.evaluation.review, comparison, scores, secret=bytes(32))


def test_what_is_shown_is_counted_by_why_it_is() -> None:
    hidden, key, facts = make(101)
    assert len(hidden.items) == len(key) == 8
    assert facts["questions"] == {"asked": 101, "answeredAlike": 1, "random": 6, "worst": 2}
    assert facts["job"] == "team-a/example"
    assert facts["certainty"] == "0.95"
    assert hidden.title == "example"
    assert json.dumps(facts)


@pytest.mark.parametrize(("metric", "places"), [("exactMatch", {"t2", "t4"}), ("loss", {"t99"})])
def test_the_worst_are_those_of_the_goals_metric(metric: str, places: set[str]) -> None:
    limit = "atMost" if metric == "loss" else "atLeast"
    goal = {"spec.goal": {"metric": metric, limit: "0.5"}}
    worst = set()
    for seed in range(4):
        _, key, _ = make(100, change={**goal, "spec.dataset.split": {"seed": seed}})
        worst |= {e.compared.tuned for e in key.values() if e.compared.drawn_as == "worst"}
    assert places <= worst


def test_questions_of_one_group_are_one_cluster_and_labels_are_strata() -> None:
    _, key, _ = make(40, sample=40, labels="abcd")
    clusters = {e.compared.prompt: e.compared.cluster for e in key.values()}
    assert clusters["q2"] == clusters["q3"] != clusters["q4"]
    _, key, _ = make(41, sample=16, labels="abbb")
    drawn = [int(str(e.compared.prompt)[1:]) % 4 for e in key.values()
             if e.compared.drawn_as == "random"]  # fmt: skip
    assert drawn.count(0) == 3


def test_models_that_say_the_same_leave_nothing_to_show() -> None:
    hidden, key, facts = make(1)
    assert (hidden.items, key) == ((), {})
    assert facts["questions"]["answeredAlike"] == 1


def test_people_are_shown_the_base_at_its_best() -> None:
    _, key, facts = make(30, prompted="the answer for {}")
    assert facts["baseline"] == "Prompted"
    assert {e.compared.base[:14] for e in key.values()} == {"the answer for"}
    _, key, facts = make(30, prompted="zzz {}", labels="b")
    assert facts["baseline"] == "AsIs"
    assert {e.compared.base[:1] for e in key.values()} == {"b"}
