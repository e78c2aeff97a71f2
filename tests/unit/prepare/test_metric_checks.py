"""Metrics that the held-out rows cannot answer are refused before anything is trained."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_api.messages.messages import parse_job
from finetune_trainer.errors import TrainerError
from finetune_trainer.prepare.refusals.metric_checks import require_metrics
from finetune_trainer.storage import StorageAccess
from kit.cases.spec_cases import changed, minimal_job


def check(folder: Path, answers: list[str], change: dict[str, Any]) -> None:
    rows = [{"prompt": f"p{i}", "completion": answer} for i, answer in enumerate(answers)]
    lines = [json.dumps(row if row["completion"] else {"text": "plain"}) for row in rows]
    (folder / "test.jsonl").write_text("\n".join(lines))
    spec = parse_job(changed(minimal_job(), change)).spec
    require_metrics(spec, folder, StorageAccess())


def goal(metric: str) -> dict[str, Any]:
    side = "atMost" if metric == "loss" else "atLeast"
    return {"spec.goal": {"metric": metric, side: "0.5"}}


@pytest.mark.parametrize(
    ("answers", "change"),
    [
        (['{"a": 1}', "[]", "4"], goal("jsonFieldF1")),
        (["about 12", "7"], {"spec.evaluation": {"metrics": ["numberClose"]}}),
        (["free text"], {"spec.evaluation": {"metrics": ["jsonValid", "rougeL"]}}),
        (["free text"], {"spec.evaluation": {"answerPattern": "a+"}}),
        ([""], goal("loss")),
        ([""], {}),
    ],
)
def test_metrics_that_fit_pass(tmp_path: Path, answers: list[str], change: Any) -> None:
    check(tmp_path, answers, change)


@pytest.mark.parametrize(
    ("answers", "change", "words"),
    [
        (["{}", "secret"], goal("jsonEqual"), "1 held-out answer(s): the one in line 2"),
        (
            ["secret"],
            {"spec.evaluation": {"numberTolerance": {}}},
            "evaluation.metrics: numberClose does not fit",
        ),
        (["secret"], {"spec.evaluation": {"metrics": ["jsonFieldF1"]}}, "is no JSON"),
        (
            [""],
            goal("rougeL"),
            "goal.metric rougeL compares answers, and every held-out row is plain",
        ),
        (
            [""],
            {"spec.evaluation": {"metrics": ["loss", "chrF"]}},
            "evaluation.metrics: chrF compares",
        ),
        (["x"], {"spec.evaluation": {"answerPattern": "("}}, "evaluation.answerPattern is no"),
        (
            ["x"],
            {"spec.evaluation": {"jsonSchema": {"text": '{"type": "text"}'}}},
            "evaluation.jsonSchema.text is no valid JSON Schema: at type:",
        ),
    ],
)
def test_metrics_that_do_not_fit_are_refused(
    tmp_path: Path, answers: list[str], change: Any, words: str
) -> None:
    with pytest.raises(TrainerError) as caught:
        check(tmp_path, answers, change)
    assert words in caught.value.message
    assert "secret" not in caught.value.message


def scored(metric: str) -> dict[str, Any]:
    return {"spec.evaluation": {"validation": {"metric": metric}}}


@pytest.mark.parametrize(
    ("rows", "metric", "words"),
    [
        ([{"text": "a"}, {"text": "b"}], "exactMatch", "every validation row is plain text"),
        (
            [{"prompt": "p", "completion": "{}"}, {"prompt": "q", "completion": "secret"}],
            "jsonEqual",
            "1 validation answer(s): the one in line 2 of validation.jsonl is no JSON",
        ),
        ([{"text": "a"}], "loss", None),
        ([{"text": "a"}, {"prompt": "p", "completion": "x"}], "exactMatch", None),
    ],
)
def test_validation_rows_must_have_what_their_score_needs(
    tmp_path: Path, rows: list[dict[str, Any]], metric: str, words: str | None
) -> None:
    (tmp_path / "validation.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if words is None:
        check(tmp_path, ["answer"], scored(metric))
        return
    with pytest.raises(TrainerError) as caught:
        check(tmp_path, ["answer"], scored(metric))
    assert words in caught.value.message
    assert "secret" not in caught.value.message


def test_schema_is_read_from_its_file_or_told_absent(tmp_path: Path) -> None:
    uri = f"file://{tmp_path}/schema.json"
    change = {"spec.evaluation": {"jsonSchema": {"uri": uri}}}
    with pytest.raises(TrainerError, match=f"jsonSchema.uri {uri}"):
        check(tmp_path, ["{}"], change)
    (tmp_path / "schema.json").write_text('{"required": 4}')
    with pytest.raises(TrainerError, match="at required: 4"):
        check(tmp_path, ["{}"], change)
    (tmp_path / "schema.json").write_text("{}")
    check(tmp_path, ["{}"], change)
