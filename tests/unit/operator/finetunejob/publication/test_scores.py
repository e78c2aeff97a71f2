"""Scores in the status and in conditions say how the base model came to its own."""

from __future__ import annotations

from finetune_api.protocol.evaluation_result import BaselineScore, EvaluateResult, Score
from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.state.results import (
    evaluation_section,
    result_of_status,
    scores_text,
)

WAYS = [
    BaselineScore(asked="AsIs", value="0.0000", low="0.0000", high="0.0500"),
    BaselineScore(asked="Prompted", value="0.6000", low="0.5000", high="0.7000"),
]
RESULT = EvaluateResult(
    scores=[
        Score(name="exactMatch", base="0.60", baseline="Prompted", baselines=WAYS, tuned="0.90"),
        Score(name="loss", base="2.10", baseline="AsIs", tuned="0.30"),
        Score(name="earlier", base="0.10", tuned="0.20"),
    ],
    num_samples=120,
    goal_met=False,
    report_uri="s3://bucket/report.json",
)


def test_the_status_names_the_base_that_counts_and_nothing_more() -> None:
    section = evaluation_section(RESULT)
    assert section["scores"] == [
        {"name": "exactMatch", "base": "0.60", "baseline": "Prompted", "tuned": "0.90"},
        {"name": "loss", "base": "2.10", "baseline": "AsIs", "tuned": "0.30"},
        {"name": "earlier", "base": "0.10", "tuned": "0.20"},
    ]
    read = result_of_status({"evaluation": section}, Stage.EVALUATE)
    assert isinstance(read, EvaluateResult)
    assert [score.baseline for score in read.scores] == ["Prompted", "AsIs", None]


def test_a_condition_says_it_in_a_line() -> None:
    assert scores_text(RESULT) == (
        "exactMatch 0.60 (with a prompt) -> 0.90, loss 2.10 -> 0.30, earlier 0.10 -> 0.20"
    )
