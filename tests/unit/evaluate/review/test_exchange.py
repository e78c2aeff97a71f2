"""Reviews to labelling tools and back."""

from __future__ import annotations

import json
from typing import Any
from xml.etree import ElementTree

import pytest

from finetune_trainer.evaluate.sources.review.exchange import (
    label_studio_config,
    read_argilla,
    read_label_studio,
    to_argilla,
    to_label_studio,
)
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFileError
from kit.reports.reviews import RUBRIC, review

HIDDEN, KEY = review()


def annotation(person: Any, side: str, **change: Any) -> dict[str, Any]:
    result: list[dict[str, Any]] = [
        {"id": "x", "from_name": name, "to_name": "prompt", "type": "choices",
         "origin": "manual", "value": {"choices": [side]}}
        for name in RUBRIC
    ]  # fmt: skip
    text = {"from_name": "comment", "to_name": "prompt", "type": "textarea"}
    result.append({**text, "value": {"text": ["well", "said"]}})
    return {"id": 1, "completed_by": person, "was_cancelled": False, "result": result, **change}


def label_studio_export(*annotations: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {"id": i, **task, "annotations": list(annotations), "predictions": []}
        for i, task in enumerate(to_label_studio(HIDDEN))
    ]


def test_tasks_hold_what_the_page_holds_and_their_interface_fits_them() -> None:
    tasks = to_label_studio(HIDDEN)
    assert not {"tuned", "base"} & set(json.dumps(tasks[0]).split('"'))
    config = ElementTree.fromstring(label_studio_config(HIDDEN))
    shown = {element.get("value") for element in config.iter("Text")}
    assert shown == {"$prompt", "$left", "$right"}
    assert {name[1:] for name in shown if name} <= set(tasks[0]["data"])
    assert [element.get("name") for element in config.iter("Choices")] == list(RUBRIC)


def test_an_export_of_label_studio_becomes_one_file_for_each_person() -> None:
    skipped = annotation(9, "left", was_cancelled=True)
    export = label_studio_export(
        annotation(7, "left"), annotation({"id": 8, "email": "ben@example.org"}, "same"), skipped
    )
    files = read_label_studio(export, name="export.json", review=HIDDEN.digest)
    assert [file.reviewer for file in files] == ["7", "ben@example.org"]
    assert all(file.count_missing(list(KEY), RUBRIC) == 0 for file in files)
    verdict = next(iter(files[0].items.values()))
    assert verdict.choices == dict.fromkeys(RUBRIC, "left")
    assert verdict.comment == "well\nsaid"


def test_records_of_argilla_become_one_file_for_each_person() -> None:
    records = to_argilla(HIDDEN)
    for record in records:
        record["responses"] = {
            name: [{"value": "left", "user_id": "u-1"}, {"value": "right", "user_id": "u-2"}]
            for name in RUBRIC
        }
        record["responses"]["comment"] = [{"value": "fine", "user_id": "u-2"}]
    files = read_argilla(records, name="records.json", review=HIDDEN.digest)
    assert [file.reviewer for file in files] == ["u-1", "u-2"]
    assert all(file.count_missing(list(KEY), RUBRIC) == 0 for file in files)
    assert {verdict.comment for verdict in files[1].items.values()} == {"fine"}


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({}, "is not a JSON export of Label Studio"),
        ([3], "is damaged: 3 stands for an object"),
        (label_studio_export(), "holds no annotation of anybody"),
        (label_studio_export(annotation(7, "left"), annotation(7, "left")), "more than once"),
        ([{"data": {"item": "a", "review": "other"}}], "is about another review"),
        ([{"data": {"prompt": "a"}, "annotations": []}], "have lost their `review`"),
        (label_studio_export({"completed_by": 1, "result": 3}), "3 stands for a list"),
    ],
)
def test_what_is_no_export_of_this_review_is_refused(body: Any, said: str) -> None:
    with pytest.raises(ReviewFileError, match=said):
        read_label_studio(body, name="export.json", review=HIDDEN.digest)


def test_records_without_answers_or_of_another_review_are_refused() -> None:
    with pytest.raises(ReviewFileError, match="holds no annotation"):
        read_argilla(to_argilla(HIDDEN), name="records.json", review=HIDDEN.digest)
    with pytest.raises(ReviewFileError, match="is about another review"):
        read_argilla(to_argilla(HIDDEN), name="records.json", review="0" * 64)
