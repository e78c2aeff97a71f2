"""Where a recorder stores the answers of an endpoint."""

from __future__ import annotations

from typing import Any

import pytest

from finetune_trainer.serve.recorder.places import read_places


@pytest.mark.parametrize(
    ("status", "uri"),
    [
        ({}, "s3://spec"),
        ({"observedGeneration": 1}, None),
        ({"observedGeneration": 1, "capture": {"uri": "s3://status"}}, "s3://status"),
    ],
)
def test_an_operator_decides_where_answers_are_stored(
    status: dict[str, Any], uri: str | None
) -> None:
    made = {
        "metadata": {"name": "headline", "namespace": "team-a"},
        "spec": {"capture": {"uri": "s3://spec"}},
        "status": status,
    }
    found = {name: place.storage.uri for name, place in read_places({"headline": made}).items()}
    assert found == ({} if uri is None else {"headline": uri})
