"""What `prepare` says of a data set in sentences."""

from __future__ import annotations

import pytest

from finetune_api.trainer import ResolvedJob
from finetune_trainer.data.report import SplitReport
from finetune_trainer.prepare.summary import tell_report
from support.data_reports import report

SPLIT = SplitReport(
    test_percent=20, validation_percent=5, seed=13, groups=1990, rows_drawn=2000,
    test_groups=400, wanted_test_groups=104, widest_interval="0.049", labels=77,
    largest_label_deviation="0.0074",
)  # fmt: skip


def sentences(sides: list[str], split: SplitReport) -> str:
    sources = [{"uri": f"s3://data/{side}.csv", "side": side} for side in sides]
    spec = {
        "model": {"uri": "hf://example/tiny", "revision": "main"},
        "dataset": {"sources": sources},
        "output": {"uri": "s3://data/out"},
    }
    job = ResolvedJob.model_validate({"namespace": "a", "name": "b", "uid": "c", "spec": spec})
    told: list[str] = []
    tell_report(told.append, job, report(split=split, checks=[]), reused=False)
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
