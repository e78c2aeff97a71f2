"""``finetune validate`` of a FineTuneSweep: field, line and remedy, before a cluster sees it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kit.reports.judged_text import judge_text

GOOD = """\
apiVersion: finetune.dev/v1alpha1
kind: FineTuneSweep
metadata: {name: rates}
spec:
  parameters:
    - {path: hyperparameters.learningRate, values: ["1e-4", "1e-3"]}
    - {path: method.adapter.rank, int: {min: 4, max: 16}}
  search: Grid
  template:
    model: {uri: hf://org/model}
    dataset:
      sources: [{uri: s3://data/rows.jsonl}]
      split: {validationPercent: 10}
    output: {uri: s3://models}
"""


def test_a_good_sweep_is_valid(tmp_path: Path) -> None:
    assert judge_text(tmp_path, GOOD) == (True, [" rates is valid"])


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("search: Grid", "searching: Grid", "8: spec.searching: unknown field"),
        ("uri: hf://org/model", "url: hf://org/model", "10: spec.template.model.uri: Required"),
        ("validationPercent: 10", "validationPercent: 0", "spec.objective: Invalid value"),
        ('"1e-4", "1e-3"', '"1e-4", "0"', "6: spec.parameters[0].values[1]: hyperparameters.learn"),
        ("max: 16", "max: 100000", "7: spec.parameters[1].int.max: method.adapter.rank: 100000"),
        ("max: 16", "max: 2", "7: spec.parameters[1].int: Invalid value: int.min must be below"),
        ("method.adapter.rank", "hyperparameters.learningRate", "two parameters have the same"),
        ("apiVersion: finetune.dev/v1alpha1\n", "", "apiVersion: Required value"),
    ],
    ids=lambda text: text.strip()[:30],
)  # fmt: skip
def test_what_the_api_server_would_refuse_is_told_by_place(
    tmp_path: Path, old: str, new: str, expected: str
) -> None:
    assert old in GOOD
    is_valid, lines = judge_text(tmp_path, GOOD.replace(old, new))
    assert not is_valid
    assert any(expected in line for line in lines), lines
    assert not any(
        "spec.template" in line and "unknown" in line for line in lines if "url" not in line
    )
