"""The report of a prepared data set is read across versions, and says nothing of a machine."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_api.v1alpha1.spec.model import Model
from finetune_trainer.data.report import DatasetReport, TokenReport, tokenizer_name

FIRST_VERSION: dict[str, Any] = {
    "digest": "d" * 64,
    "recipeVersion": 1,
    "rows": {"train": 8, "validation": 1, "test": 1},
    "sources": [
        {
            "files": [{"name": "rows.jsonl", "bytes": 10, "rows": 10}],
            "side": "Split",
            "format": "Text",
            "formatReason": "every row has text",
            "rows": 10,
            "invalidRows": 0,
        }
    ],
    "invalidRows": {"total": 0, "byReason": {}, "first": []},
    "checks": [{"name": "duplicateRows", "flagged": 0, "removed": 0, "message": ""}],
    "split": {"testPercent": 10, "validationPercent": 10, "seed": 1, "groups": 10, "rowsDrawn": 10},
    "maxSequenceLength": 128,
    "tokens": {
        "file:///models/tiny@main": {
            "train": {
                "rows": 8, "tokens": 80, "p50": 10, "p95": 10, "longest": 10, "truncatedRows": 0,
                "truncatedShare": "0.0000", "rowsWithoutAnswer": 0,
            }
        }
    },
}  # fmt: skip
"""As the first version wrote it: a run that crosses an upgrade goes on with it."""


def model(uri: str) -> Model:
    return Model.model_validate({"uri": uri, "revision": "main"})


def test_the_report_of_the_first_version_is_read() -> None:
    report = DatasetReport.model_validate(FIRST_VERSION)
    assert report.tokens_of(model("file:///models/tiny"))["train"].tokens == 80
    assert (report.checks[0].pairs, report.split.test_groups, report.labels) == ([], 0, [])


@pytest.mark.parametrize(
    ("uri", "name"),
    [
        ("hf://example/tiny", "hf://example/tiny@main"),
        ("s3://models/tiny", "s3://models/tiny@main"),
        ("file:///home/jane/models/tiny", "tiny@main"),
        ("file:///home/jane/models/tiny/", "tiny@main"),
    ],
)
def test_a_folder_on_this_machine_is_named_by_its_last_part(uri: str, name: str) -> None:
    assert tokenizer_name(model(uri)) == name
    report = DatasetReport.model_validate(FIRST_VERSION)
    tokens = report.tokens["file:///models/tiny@main"]
    found = report.model_copy(update={"tokens": {name: tokens}}).tokens_of(model(uri))
    assert isinstance(found["train"], TokenReport)
