"""What answers are held against: told by its place before anything runs, and nothing is fetched."""

from __future__ import annotations

import json
from typing import Any

import pytest

from finetune_api.messages.answer_checks import (
    find_answer_check_errors,
    find_pattern_error,
    find_schema_error,
    make_schema_check,
)
from finetune_api.messages.messages import parse_job
from kit.cases.spec_cases import changed, minimal_job


@pytest.mark.parametrize(
    ("schema", "problem"),
    [
        ({"type": "object"}, None),
        (True, None),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "type": "object"}, None),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}}, None),
        ({"properties": {"$ref": {"type": "string"}}}, None),
        ({"type": "text"}, "at type: 'text'"),
        ({"properties": {"a": {"items": {"minimum": "1"}}}}, "at properties/a/items/minimum: '1'"),
        ({"$ref": "#/$defs/b", "$defs": {"a": {}}}, "$ref '#/$defs/b' leads nowhere"),
        ({"items": {"$ref": "https://example.org/s.json"}}, "at items: $ref 'https://"),
        ({"properties": {"a": {"pattern": "("}}}, "at properties/a: pattern '('"),
        ({"patternProperties": {"[": {}}}, "patternProperties '['"),
        ([], "a schema is a JSON object"),
    ],
)
def test_schema_is_judged_with_its_place(schema: Any, problem: str | None) -> None:
    found = find_schema_error(json.dumps(schema))
    assert problem in found if problem and found else found is problem


def test_text_that_is_no_json_is_told_by_line_and_column() -> None:
    assert "line 2 column 3" in str(find_schema_error('{"a": 1,\n  b: 2}'))
    assert find_schema_error("[" * 100_000) == "nested too deeply"


def test_value_is_held_against_the_draft_that_the_schema_names() -> None:
    draft_4 = {
        "$schema": "http://json-schema.org/draft-04/schema#",
        "maximum": 3,
        "exclusiveMaximum": True,
    }
    check = make_schema_check(json.dumps(draft_4))
    assert check(2)
    assert not check(3)


@pytest.mark.parametrize(
    ("pattern", "is_good"),
    [(r"^\d+$", True), ("", True), ("(", False), ("a{99999999999999}", False)],
)
def test_pattern_is_one_or_is_told(pattern: str, is_good: bool) -> None:
    assert (find_pattern_error(pattern) is None) is is_good


def test_errors_of_a_job_have_their_place_in_the_spec() -> None:
    body = changed(
        minimal_job(),
        {"spec.evaluation": {"answerPattern": "(", "jsonSchema": {"text": '{"type": 1}'}}},
    )
    places = [place for place, _ in find_answer_check_errors(parse_job(body).spec)]
    assert places == [("evaluation", "answerPattern"), ("evaluation", "jsonSchema", "text")]
