"""Rows far longer than all others are parted from them, and no others."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_cli.local.inspection import propose_settings
from finetune_trainer.prepare.reading.lengths import RowLength, part_outliers
from kit.cases.spec_cases import minimal_job


def measured(lengths: list[int]) -> list[RowLength]:
    return [
        RowLength(file="a.jsonl", line=line, num_tokens=length)
        for line, length in enumerate(lengths, start=1)
    ]


@pytest.mark.parametrize(
    ("lengths", "longest", "outliers"),
    [
        ([800_000], 800_000, []),
        ([*[100] * 18, 800_000], 800_000, []),  # few rows: each may count
        ([*[100] * 19, 800_000], 100, [20]),
        ([800_000, *[100] * 199], 100, [1]),
        ([*[100] * 196, 400, 500, 800_000, 700_000], 500, [199, 200]),
        ([*[100] * 197, 800_000, 800_000, 800_000], 800_000, []),  # more than one in a hundred
        ([*[100] * 199, 2000], 2000, []),  # a limit that costs little
        ([*[1000] * 199, 7000], 7000, []),  # not far
        ([*[100] * 297, 5000, 50_000, 800_000], 100, [298, 299, 300]),
        (list(range(1, 1001)), 1000, []),
    ],
)
def test_only_a_few_rows_far_longer_than_all_others_are_outliers(
    lengths: list[int], longest: int, outliers: list[int]
) -> None:
    found = part_outliers(measured(lengths))
    assert found.longest == longest
    assert [row.line for row in found.outliers] == outliers


def test_an_inspection_proposes_a_length_for_the_others_and_names_the_outliers() -> None:
    spec = minimal_job()["spec"]
    job = ResolvedJob.model_validate({"namespace": "a", "name": "b", "uid": "u", "spec": spec})
    lengths = {"unit": "tokens", "p50": 9, "p95": 9, "longest": 800_000, "histogram": []}
    first = [{"file": "a.jsonl", "line": 17, "tokens": 800_123}]
    found = {"lengths": [lengths], "bulk": {"longest": 90, "outliers": 1, "first": first}}
    proposal = propose_settings(found, job)
    assert (proposal["maxSequenceLength"], proposal["onTooLong"]) == (256, "Drop")
    plain = propose_settings({"lengths": [lengths], "bulk": None}, job)
    assert "onTooLong" not in plain
    assert plain["maxSequenceLength"] > 800_000
