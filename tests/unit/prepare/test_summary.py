"""What `prepare` says of a data set in sentences."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.report import SplitReport
from finetune_trainer.prepare.report.summary import report_sentences
from kit.reports.data_reports import report

SPLIT = SplitReport(
    test_percent=20, validation_percent=5, seed=13, groups=1990, rows_drawn=2000,
    test_groups=400, wanted_test_groups=104, widest_interval="0.049", labels=77,
    largest_label_deviation="0.0074",
)  # fmt: skip


JUDGE = {"endpoint": "https://judge.example/v1", "model": "m"}


def sentences(sides: list[str], split: SplitReport, **more: Any) -> str:
    sources = [{"uri": f"s3://data/{side}.csv", "side": side} for side in sides]
    spec = {
        "model": {"uri": "hf://example/tiny", "revision": "main"},
        "dataset": {"sources": sources},
        "output": {"uri": "s3://data/out"},
        **more,
    }
    job = ResolvedJob.model_validate({"namespace": "a", "name": "b", "uid": "c", "spec": spec})
    told: list[str] = []
    report_sentences(told.append, job, report(split=split, checks=[]), reused=False)
    return "\n".join(told)


@pytest.mark.parametrize(
    ("sides", "words"),
    [
        (["Split"], "every side has its share of each of the 77 labels (largest difference 0.0074"),
        (["Train", "Test"], "sides that sources are bound to keep the shares that they came with"),
    ],
)
def test_only_what_was_divided_is_said_to_have_its_share(sides: list[str], words: str) -> None:
    assert words in sentences(sides, SPLIT)


def test_a_report_of_a_version_without_intervals_says_nothing_of_one() -> None:
    earlier = SplitReport(
        test_percent=20, validation_percent=5, seed=13, groups=1990, rows_drawn=2000
    )
    told = sentences(["Split"], earlier)
    assert "750 train" in told
    assert "interval" not in told


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({}, "rests on 400 independent held-out prompts: the 95 % interval of a share of hits r"),
        ({}, "of a share of hits reaches at most 0.050 to either side"),
        # Other jobs ask fewer of the same data set.
        ({"evaluation": {"maxSamples": 150}}, "rests on 150 "),
        ({"evaluation": {"maxSamples": 150}}, "reaches at most 0.083 to either side"),
        (
            {"evaluation": {"maxSamples": 50}},
            "at most 0.145 to either side; 104 are wanted for 0.10: raise evaluation.maxSamples",
        ),
        # A judge is asked about fewer than the models are.
        (
            {"goal": {"metric": "judgeWinRate", "atLeast": "0.5"}, "evaluation": {"judge": JUDGE}},
            "rests on 100 independent held-out prompts: the 95 % interval of a share of hits "
            "reaches at most 0.102 to either side; 104 are wanted for 0.10: raise "
            "evaluation.judge.sample and maxCalls",
        ),
    ],
)
def test_the_interval_that_is_told_is_of_the_prompts_that_this_job_scores(
    change: dict[str, Any], words: str
) -> None:
    assert words in sentences(["Split"], SPLIT, **change)


@pytest.mark.parametrize("metric", ["macroF1", "bleu", "loss"])
def test_no_width_is_promised_of_what_is_no_mean_of_hits(metric: str) -> None:
    bound = {"atMost": "2"} if metric == "loss" else {"atLeast": "0.5"}
    told = sentences(["Split"], SPLIT, goal={"metric": metric, **bound})
    assert "to either side" not in told
    assert ("rests on 400 independent held-out prompts" in told) is (metric != "loss")
