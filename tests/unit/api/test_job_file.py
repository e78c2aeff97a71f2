"""``job.json``: the text of a resolved job, as every stage reads it."""

from __future__ import annotations

import json

import pytest

from finetune_api.protocol.trainer import to_canonical_json


@pytest.mark.parametrize(
    "text", ["plain", "漢字 Straße 😀", 'a "quote"\n\x00', "half \ud800 of a pair"]
)
def test_a_text_comes_back_as_it_was_and_can_be_stored(text):
    written = to_canonical_json({"spec": {"text": text}})
    assert json.loads(written.encode().decode()) == {"spec": {"text": text}}


def test_letters_that_are_not_ascii_take_no_more_bytes_than_in_utf_8():
    assert len(to_canonical_json({"a": "漢" * 1000}).encode()) < 3100


def test_equal_objects_have_the_same_text():
    assert to_canonical_json({"b": 1, "a": "é"}) == to_canonical_json({"a": "é", "b": 1})
