"""Which metrics are computed: what the job asks for, else what fits the data."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest

from finetune_api.v1alpha1.evaluation.scoring import (
    CORPUS_METRICS,
    GRADED_METRICS,
    JUDGE_METRICS,
    LIKELIHOOD_METRICS,
    METRIC_SYNONYMS,
    UNBOUNDED_METRICS,
    GoalMetric,
    MetricName,
)
from finetune_api.v1alpha1.evaluation.spec import Evaluation
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import (
    Settings,
    choose_metrics,
    measure,
)

LABELS = [["positive"], ["negative"]] * 5
TEXTS = [["a long description of a thing that is quite unlike any other"]] * 3
JSON = [['{"a": 1}'], ['{"a": 2}']]


@pytest.mark.parametrize(
    ("references", "evaluation", "goal", "expected"),
    [
        (LABELS, {}, None, ["exactMatch", "macroF1", "loss", "perplexity"]),
        (TEXTS, {}, None, ["rougeL", "chrF", "bleu", "loss", "perplexity"]),
        (JSON, {}, None, ["jsonValid", "jsonFieldF1", "jsonEqual", "loss", "perplexity"]),
        ([], {}, None, ["loss", "perplexity"]),
        (TEXTS, {}, "exactMatch", ["exactMatch", "rougeL", "chrF", "bleu", "loss", "perplexity"]),
        (LABELS, {"metrics": ["chrF", "refusalRate"]}, None, ["chrF", "refusalRate"]),
        (LABELS, {"metrics": ["chrF", "macroF1"]}, "macroF1", ["macroF1", "chrF"]),
        (JSON, {"metrics": ["loss"], "jsonSchema": {"text": "{}"}}, None,
         ["loss", "jsonSchemaValid"]),
        (TEXTS, {"metrics": ["loss"], "answerPattern": "a", "numberTolerance": {},
                 "customMetric": {"path": "/m.py"}}, "custom",
         ["custom", "loss", "regexMatch", "numberClose"]),
    ],
)  # fmt: skip
def test_metrics_follow_the_job_then_the_data(
    references: list[list[str]], evaluation: dict[str, Any], goal: str | None, expected: list[str]
) -> None:
    asked = Evaluation.model_validate(evaluation)
    assert choose_metrics(references, goal, evaluation=asked) == expected


def test_pairs_are_told_by_preference() -> None:
    assert choose_metrics(TEXTS, None, has_pairs=True)[0] == "preferenceAccuracy"


@pytest.mark.parametrize("name", get_args(MetricName))
def test_every_metric_of_the_api_is_computed_by_row_and_over_rows(name: str) -> None:
    said = Answers(
        texts=["4", '{"a": 4}', "x"],
        nll_sums=np.array([1.0, 2.0, 4.0]),
        num_tokens=np.array([1.0, 1.0, 2.0]),
        preferred=np.array([1.0, 0.0, 0.5]),
        num_bytes=np.array([1.0, 8.0, 1.0]),
        seconds=np.array([0.1, 0.2, 0.3]),
        judged=dict.fromkeys(JUDGE_METRICS, np.array([0.0, 0.5, 1.0])),
    )
    settings = Settings(
        schema_check=lambda value: isinstance(value, dict),
        answer_pattern="a",
        scorer=lambda answer, references, prompt: answer in references,
        scorer_path=Path("m.py"),
    )
    references = [["4"], ['{"a": 4}'], ["y"]]
    measured = measure(name, said, references, settings=settings, prompts=["p"] * 3)
    assert measured.rows.shape == (3,)
    assert np.isfinite(measured.rows).all()
    over = measured.over(np.array([0, 1, 1, 2]))
    assert np.isfinite(over)
    if name not in UNBOUNDED_METRICS:
        assert 0 <= over <= 1


@pytest.mark.parametrize("name", sorted({*get_args(MetricName)} - UNBOUNDED_METRICS))
def test_what_is_known_of_scores_before_there_are_any_is_so(name: str) -> None:
    judged = {"judgeWinRate": [0.5, 1.0, 0.0], "judgeScore": [0.25, 0.75, 0.5]}
    said = Answers(
        texts=["one two three", '{"a": 4, "b": 5, "c": 6}', "four 7"],
        nll_sums=np.ones(3),
        num_tokens=np.ones(3),
        preferred=np.array([1.0, 0.0, 1.0]),
        judged={name: np.array(scores) for name, scores in judged.items()},
    )
    settings = Settings(
        schema_check=lambda value: True,
        answer_pattern="a",
        scorer=lambda answer, references, prompt: 1 / len(answer),
        scorer_path=Path("m.py"),
    )
    references = [["one two"], ['{"a": 4, "b": 5, "c": 7}'], ["five 7"]]
    measured = measure(name, said, references, settings=settings, prompts=["p"] * 3)
    assert measured.is_mean is (name not in CORPUS_METRICS)
    assert (not {0.0, 0.5, 1.0}.issuperset(measured.rows.tolist())) is (name in GRADED_METRICS)


def test_likelihoods_per_byte_and_per_token_are_told_apart() -> None:
    said = Answers(
        texts=[],
        nll_sums=np.array([np.log(2), 3 * np.log(2)]),
        num_tokens=np.array([1.0, 1.0]),
        num_bytes=np.array([1.0, 7.0]),
    )
    every = np.arange(2)
    assert measure("bitsPerByte", said, []).over(every) == pytest.approx(4 / 8)
    assert measure("loss", said, []).over(every) == pytest.approx(2 * np.log(2))
    assert measure("bitsPerByte", said, []).rows.tolist() == pytest.approx([1.0, 3 / 7])


def test_names_of_the_api_and_of_the_catalog_agree() -> None:
    assert set(LIKELIHOOD_METRICS) < set(get_args(GoalMetric)) < set(get_args(MetricName))
    assert set(METRIC_SYNONYMS.values()) <= set(get_args(MetricName))
