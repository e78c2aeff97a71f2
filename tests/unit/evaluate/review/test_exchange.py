"""Reviews to Argilla and back."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.evaluate.sources.review.exchange import (
    read_argilla,
    to_argilla,
)
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFileError
from kit.reports.reviews import RUBRIC, review

HIDDEN, KEY = review()


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
        ({}, "is not Argilla's records as JSON"),
        ([3], "is damaged: 3 stands for an object"),
        ([], "holds no annotation of anybody"),
        ([{"id": "a", "metadata": {"review": "other"}}], "is about another review"),
        ([{"id": "a", "metadata": {}}], "have lost their `review`"),
        (
            [{"id": "a", "metadata": {"review": HIDDEN.digest}, "responses": {"voice": 3}}],
            "3 stands for a list",
        ),
    ],
)
def test_what_is_no_export_of_this_review_is_refused(body: Any, said: str) -> None:
    with pytest.raises(ReviewFileError, match=said):
        read_argilla(body, name="export.json", review=HIDDEN.digest)


def test_records_without_answers_or_of_another_review_are_refused() -> None:
    with pytest.raises(ReviewFileError, match="holds no annotation"):
        read_argilla(to_argilla(HIDDEN), name="records.json", review=HIDDEN.digest)
    with pytest.raises(ReviewFileError, match="is about another review"):
        read_argilla(to_argilla(HIDDEN), name="records.json", review="0" * 64)
