"""A division that the job has no use for is refused with what was asked and what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from finetune_api.messages import parse_job
from finetune_trainer.errors import DataError
from finetune_trainer.prepare.refusals import require_validation
from support.spec_cases import changed, minimal_job

STOPS_EARLY = {"spec.checkpoint.earlyStopping": {"patience": 3}}
SCORES = {"spec.evaluation.validation": {"metric": "exactMatch"}}
ADOPTED = {"spec.initFrom": {"uri": "s3://models/a/adapter", "train": False}}


def look(folder: Path, change: dict[str, Any], rows: str) -> None:
    (folder / "validation.jsonl").write_text(rows)
    require_validation(parse_job(changed(minimal_job(), change)).spec, folder)


@pytest.mark.parametrize(
    ("change", "field"),
    [
        (STOPS_EARLY, "checkpoint.earlyStopping"),
        (SCORES, "evaluation.validation"),
        (STOPS_EARLY | SCORES, "checkpoint.earlyStopping and evaluation.validation"),
        (SCORES | STOPS_EARLY | ADOPTED, "evaluation.validation"),
    ],
)
def test_what_needs_validation_rows_is_refused_where_all_were_left_out(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    with pytest.raises(DataError) as caught:
        look(tmp_path, change, "")
    assert caught.value.reason == "NoValidationRows"
    assert caught.value.message.startswith(f"{field}: no validation row is left")
    assert "side: Validation" in caught.value.message
    assert "validationPercent" not in caught.value.message  # more of no rows are none


@pytest.mark.parametrize(
    ("change", "rows"),
    [
        (STOPS_EARLY, "{}\n"),
        (SCORES, "{}\n"),
        ({}, ""),
        (STOPS_EARLY | ADOPTED, ""),
    ],
    ids=["stops early", "scores", "asks for none", "trains nothing"],
)
def test_what_has_validation_rows_or_needs_none_goes_on(
    tmp_path: Path, change: dict[str, Any], rows: str
) -> None:
    look(tmp_path, change, rows)
