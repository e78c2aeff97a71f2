"""JSON answers: validity, schema, equality and fields, whatever a model writes."""

from __future__ import annotations

import json
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.messages.answer_checks import make_schema_check
from finetune_trainer.evaluate.metrics.structured import (
    json_equal,
    json_field_f1,
    json_schema_valid,
    json_valid,
    looks_like_json,
)

ORDER = {
    "customer": {"name": "Ana", "address": {"city": "Porto", "zip": "4000"}},
    "items": [{"sku": "a1", "price": 12.5}, {"sku": "b2", "price": 3}],
    "paid": True,
    "note": None,
    "tags": [],
}
SCHEMA = {
    "type": "object",
    "required": ["customer"],
    "properties": {"customer": {"$ref": "#/$defs/person"}, "items": {"type": "array"}},
    "$defs": {"person": {"type": "object", "properties": {"name": {"type": "string"}}}},
}


def score(metric: Any, text: str, reference: Any) -> float:
    return float(metric([text], [[json.dumps(reference)]]).rows[0])


@pytest.mark.parametrize(
    ("text", "valid", "equal"),
    [
        ('{"a": 1}', 1, 1),
        ('  {"a": 1.0}\n', 1, 1),
        ('```json\n{"a": 1}\n```', 0, 1),
        ('Here it is: {"a": 1}', 0, 0),
        ('{"a": "1"}', 1, 0),
        ('{"a": true}', 1, 0),
        ('{"a": NaN}', 0, 0),
        ("{'a': 1}", 0, 0),
        ('{"a": 1', 0, 0),
        ("", 0, 0),
        ("[" * 100_000, 0, 0),
        ('{"a": ' + "9" * 5000 + "}", 1, 0),
    ],
)
def test_answer_is_json_from_end_to_end_or_none(text: str, valid: int, equal: int) -> None:
    assert score(json_valid, text, {"a": 1}) == valid
    assert score(json_equal, text, {"a": 1}) == equal


def test_deep_json_is_valid_and_compared_without_an_end_of_the_stack() -> None:
    deep = "[" * 900 + "]" * 900
    assert json_valid([deep], [[deep]]).rows[0] == 1
    assert json_field_f1([deep], [[deep]]).rows[0] == 1
    assert json_equal([deep], [[deep]]).rows[0] in (0.0, 1.0)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({}, 1.0),
        ({"paid": False}, 9 / 10),
        ({"note": "null"}, 9 / 10),
        ({"items": [{"sku": "b2", "price": 3.0}, {"sku": "a1", "price": 12.50}]}, 1.0),
        ({"items": [{"sku": "a1", "price": "12.5"}, {"sku": "b2", "price": 3}]}, 9 / 10),
        ({"items": [{"sku": "a1", "price": 12.5}]}, 2 * 8 / (8 + 10)),
        ({"customer": {"name": "Ana", "address": {"city": "Porto", "zip": 4000}}}, 9 / 10),
        ({"customer": {"name": "Ana", "city": "Porto", "zip": "4000"}}, 8 / 10),
        ({"tags": ["x"]}, 9 / 10),
    ],
)
def test_fields_are_compared_by_path_type_and_value(
    change: dict[str, Any], expected: float
) -> None:
    said = json.dumps(ORDER | change)
    assert score(json_field_f1, said, ORDER) == pytest.approx(expected)


def test_keys_that_look_like_paths_are_no_paths() -> None:
    assert score(json_field_f1, '{"a/b": 1, "*": 2}', {"a": {"b": 1}}) == 0.0
    assert score(json_field_f1, '{"*": 2}', [2]) == 0.0


def test_best_reference_counts_and_one_that_is_no_json_counts_for_nothing() -> None:
    references = [["none", '{"a": 2}', '{"a": 1}']]
    assert json_field_f1(['{"a": 1}'], references).rows[0] == 1.0
    assert json_equal(['"none"'], references).rows[0] == 0.0


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(JSON)
def test_any_value_equals_itself_whatever_its_layout(value: Any) -> None:
    text = json.dumps(value, indent=2)
    assert score(json_valid, text, value) == 1
    assert score(json_equal, text, value) == 1
    assert score(json_field_f1, text, value) == pytest.approx(1)


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        (json.dumps(ORDER), 1),
        ('```\n{"customer": {"name": "x"}}\n```', 1),
        ('{"customer": {"name": 4}}', 0),
        ("{}", 0),
        ("[]", 0),
        ("no", 0),
        ('{"customer": {}, "n": ' + "9" * 5000 + "}", 0),
    ],
)
def test_answer_matches_the_schema_or_not(text: str, matches: int) -> None:
    metric = partial(json_schema_valid, make_schema_check(json.dumps(SCHEMA)))
    assert score(metric, text, {}) == matches


def test_objects_and_lists_look_like_json_and_bare_values_do_not() -> None:
    assert looks_like_json([['{"a": 1}'], ["[1]", "{}"]])
    assert not looks_like_json([['{"a": 1}'], ["4"]])
    assert not looks_like_json([])
