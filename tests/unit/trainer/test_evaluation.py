"""Scores, intervals, goals and questions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import choose_metrics, measure
from finetune_trainer.evaluate.metrics.labels import looks_like_labels
from finetune_trainer.evaluate.questions import (
    Question,
    describe_groups,
    gather_questions,
    group_questions,
)
from finetune_trainer.evaluate.scores.measuring import gather_row_scores, measure_one, score_all
from kit.cases.spec_cases import changed, minimal_job


def answers(*texts: str) -> Answers:
    return Answers(texts=texts, nll_sums=np.ones(len(texts)), num_tokens=np.full(len(texts), 2.0))


def score(name: str, texts: list[str], references: list[list[str]]) -> float:
    return measure(name, answers(*texts), references).over(np.arange(len(texts)))


@pytest.mark.parametrize(
    ("name", "texts", "references", "expected"),
    [
        ("exactMatch", ["Positive.", "negative"], [["positive"], ["neutral"]], 0.5),
        ("exactMatch", ["b"], [["a", "b"]], 1.0),
        ("macroF1", ["a", "a", "b"], [["a"], ["a"], ["b"]], 1.0),
        ("macroF1", ["a", "a", "a", "a"], [["a"], ["a"], ["a"], ["b"]], (6 / 7) / 2),
        ("macroF1", ["x", "b"], [["a"], ["b"]], 0.5),
        ("rougeL", ["the cat sat"], [["the cat sat"]], 1.0),
        ("rougeL", ["the cat"], [["nothing alike", "the cat"]], 1.0),
        ("bleu", ["the cat sat on the mat"], [["the cat sat on the mat"]], 1.0),
        ("loss", ["a", "b"], [["a"], ["b"]], 0.5),
        ("perplexity", ["a", "b"], [["a"], ["b"]], float(np.exp(0.5))),
    ],
)
def test_metric(name: str, texts: list[str], references: list[list[str]], expected: float) -> None:
    assert score(name, texts, references) == pytest.approx(expected, abs=1e-6)


def test_macro_f1_equals_the_textbook_on_random_labels() -> None:
    rng = np.random.default_rng(0)
    truth, said = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    f1 = []
    for label in range(4):
        hits = ((truth == label) & (said == label)).sum()
        precision, recall = hits / (said == label).sum(), hits / (truth == label).sum()
        f1.append(2 * precision * recall / (precision + recall))
    got = score("macroF1", [str(s) for s in said], [[str(t)] for t in truth])
    assert got == pytest.approx(float(np.mean(f1)))


def test_metrics_follow_the_data_and_the_goal() -> None:
    labels = [["positive"], ["negative"]] * 5
    texts = [["a long description of a thing that is quite unlike any other"]] * 3
    assert looks_like_labels(labels)
    assert choose_metrics(labels, None)[:2] == ["exactMatch", "macroF1"]
    assert choose_metrics(texts, None)[:2] == ["rougeL", "chrF"]
    assert choose_metrics(texts, "exactMatch")[0] == "exactMatch"
    assert choose_metrics([], None) == ["loss", "perplexity"]


def test_rows_with_one_prompt_are_one_question() -> None:
    def row(prompt: str, answer: str) -> dict[str, object]:
        return {
            "prompt": [{"role": "user", "content": prompt}],
            "completion": [{"role": "assistant", "content": answer}],
        }

    rows = [row("p", "a"), row("q", "c"), row("p", "b"), row("p", "a")]
    questions = gather_questions(rows, max_questions=10, seed=0)
    assert [q.references for q in questions] == [("a", "b"), ("c",)]
    assert len(gather_questions(rows, max_questions=1, seed=0)) == 1


def test_plain_text_counts_for_the_loss_and_not_against_the_answers() -> None:
    rows: list[dict[str, Any]] = [
        {"text": "no question here"},
        {"prompt": "p", "completion": "yes"},
        {"text": "nor here"},
        {"prompt": "q", "completion": "no"},
    ]
    questions = gather_questions(rows, max_questions=10, seed=0)
    losses = {"nll_sums": np.array([4.0, 1.0, 4.0, 1.0]), "num_tokens": np.ones(4)}
    comparison = Comparison(
        questions=questions,
        base=Answers(texts=["no", "no"], **losses),
        tuned=Answers(texts=["yes", "no"], **losses),
    )
    body = changed(minimal_job(), {"spec.evaluation": {"numBootstrapSamples": 100}})
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": body["spec"]}
    )
    measured, by_metric = score_all(job, comparison)
    scores = {s.name: (float(s.base), float(s.tuned)) for s in measured}
    rows = gather_row_scores(comparison, by_metric)
    assert [row["exactMatch"] for row in rows] == [(0.0, 1.0), (1.0, 1.0)]
    assert [row["loss"] for row in rows] == [(1.0, 1.0), (1.0, 1.0)]
    assert scores["exactMatch"] == (0.5, 1.0)
    assert scores["loss"] == (2.5, 2.5)


def test_questions_of_one_group_are_counted_together() -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": f"p{i}", "completion": "a", "metadata": {"group": f"g{i % 2}"}} for i in range(4)
    ]
    groups = group_questions(gather_questions(rows, max_questions=10, seed=0))
    assert [group.tolist() for group in groups] == [[0, 2], [1, 3]]


def grouped_comparison(sizes: list[int], *, right: list[bool]) -> Comparison:
    """Return a comparison in which all questions of a group are right or none is."""
    questions = [
        Question(
            prompt=f"p{group}.{i}",
            references=("yes",),
            rows=({"prompt": f"p{group}.{i}"},),
            group=f"{group}",
        )
        for group, size in enumerate(sizes)
        for i in range(size)
    ]
    said = ["yes" if right[int(question.group)] else "no" for question in questions]
    ones = np.ones(len(questions))
    base = Answers(texts=["no"] * len(said), nll_sums=ones, num_tokens=ones)
    return Comparison(
        questions=questions,
        base=base,
        tuned=Answers(texts=said, nll_sums=ones, num_tokens=ones),
    )


@pytest.mark.parametrize("metric", ["exactMatch", "contains", "macroF1", "rougeL", "bleu"])
def test_each_group_counts_once_in_the_score_and_in_its_bounds(metric: str) -> None:
    right = [True] * 30 + [False] * 10
    body = changed(minimal_job(), {"spec.goal": {"metric": metric, "atLeast": "0.5"}})
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": body["spec"]}
    )
    found = [
        measure_one(job, grouped_comparison(sizes, right=right), metric)
        for sizes in ([1] * 40, [1] * 30 + [50] * 10, [9] * 30 + [1] * 10)
    ]
    for other in found[1:]:
        assert other.num_prompts == 40
        assert other.tuned.value == pytest.approx(found[0].tuned.value)
        assert other.tuned.low == pytest.approx(found[0].tuned.low, abs=1e-6)
        assert other.gain.low == pytest.approx(found[0].gain.low, abs=1e-6)
        assert other.trivial == pytest.approx(found[0].trivial)


def test_a_large_group_is_told() -> None:
    def told(*sizes: int) -> str:
        return describe_groups(grouped_comparison(list(sizes), right=[True] * len(sizes)).questions)

    assert told(*[1] * 10) == ""
    even = "The 20 questions are of 10 groups, and each group counts once in scores between 0 and 1"
    assert told(*[2] * 10) == even
    assert told(*[1] * 99, 5).endswith("between 0 and 1")
    words = told(400, *[1] * 39)
    assert "The 439 questions are of 40 groups" in words
    assert "one group alone has 400 of them, more than 5 %" in words


def test_the_best_constant_is_the_best_over_groups() -> None:
    # One customer alone has most of the rows, and nobody else has their answer.
    questions = [
        Question(
            prompt=f"p{i}",
            references=("no" if i < 60 else "yes",),
            rows=({"prompt": f"p{i}"},),
            group="big" if i < 60 else str(i),
        )
        for i in range(100)
    ]
    ones = np.ones(100)
    said = Answers(texts=["yes"] * 100, nll_sums=ones, num_tokens=ones)
    body = changed(minimal_job(), {"spec.goal": {"metric": "exactMatch", "atLeast": "0.5"}})
    job = ResolvedJob.model_validate(
        {"namespace": "n", "name": "j", "uid": "u", "spec": body["spec"]}
    )
    found = measure_one(job, Comparison(questions=questions, base=said, tuned=said), "exactMatch")
    assert found.tuned.value == pytest.approx(40 / 41)
    assert found.rivals[0].score == pytest.approx(40 / 41)
    assert found.rivals[0].over is not None
    assert found.rivals[0].over.value == pytest.approx(0)
