"""Every place of a spec that names one in storage is on the one list of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unicodedata import category

import pytest
from pydantic import ValidationError

from finetune_api.crd import CUSTOM_KINDS, ENDPOINTS, JOBS, SCHEDULES, SWEEPS, CustomKind
from finetune_api.messages.messages import parse_job
from finetune_api.patterns import PRINTED_RULE, SOURCE_RULES, URI_RULES
from finetune_api.uris import EACH, URI_FIELDS, find_uris, replace_uris
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from kit.cases.spec_cases import job_with_uri, minimal_job

Field = tuple[str, ...]

TRACKERS = {("tracking", "mlflow", "uri"), ("tracking", "wandb", "uri")}
"""Servers that are told of a job, which have a list and rules of their own."""


def walk(schema: dict[str, Any], place: Field = ()) -> Iterator[tuple[Field, dict[str, Any]]]:
    yield place, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, (*place, name))
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from walk(schema[keyword], (*place, EACH))


def is_uri(schema: dict[str, Any]) -> bool:
    told = [rule["message"] for rule in schema.get("x-kubernetes-validations", ())]
    return URI_RULES[0].message in told or SOURCE_RULES[0].message in told


@pytest.mark.parametrize("custom", CUSTOM_KINDS, ids=lambda custom: custom.kind)
def test_the_list_names_every_field_of_that_type_and_no_other(custom: CustomKind) -> None:
    nodes = walk(custom.build_schema()["properties"]["spec"])
    found = {place for place, node in nodes if is_uri(node)}
    of_template = {("template", *field) for field in URI_FIELDS}
    listed = {
        JOBS.kind: set(URI_FIELDS),
        SWEEPS.kind: of_template,
        SCHEDULES.kind: {("jobTemplate", "spec", *field) for field in URI_FIELDS},
        ENDPOINTS.kind: {("capture", "uri")},
    }
    assert found == listed.get(custom.kind, set())


def test_a_field_called_so_is_of_that_type() -> None:
    nodes = walk(JOBS.build_schema()["properties"]["spec"])
    called = {place for place, _ in nodes if place and place[-1].lower().endswith("uri")}
    assert called == {*URI_FIELDS, *TRACKERS}


def test_each_character_that_is_printed_where_it_stands_is_taken_and_no_other() -> None:
    taken = {each for each in map(chr, range(0x110000)) if PRINTED_RULE.accepts(each)}
    kinds = {category(each) for each in taken}
    assert not kinds & {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
    letters = {each for each in map(chr, range(0x10000)) if category(each)[0] in "LNSP"}
    assert len(letters - taken) < 250


@pytest.mark.parametrize(
    "character", ["\u202e", "\u200b", "\0", "\x1b", "\x7f", "\u2066", "\ufeff"]
)
@pytest.mark.parametrize("field", URI_FIELDS, ids=".".join)
def test_no_uri_has_characters_that_hide_or_turn_round(field: Field, character: str) -> None:
    with pytest.raises(ValidationError) as refused:
        FineTuneJob.from_wire(job_with_uri(field, f"s3://here/adapter{character}x/adapter"))
    assert PRINTED_RULE.message in str(refused.value)


@pytest.mark.parametrize("field", URI_FIELDS, ids=".".join)
def test_a_uri_is_found_and_replaced_where_the_list_says(field: Field) -> None:
    body = job_with_uri(field, "s3://here/adapter")
    parse_job(body)
    place = tuple(0 if part == EACH else part for part in field)
    assert (place, "s3://here/adapter") in list(find_uris(body["spec"]))
    replace_uris(body["spec"], lambda uri: uri.replace("here", "there"))
    assert (place, "s3://there/adapter") in list(find_uris(body["spec"]))


@pytest.mark.parametrize(
    "spec",
    [None, [], {}, {"model": None}, {"model": "hf://a/b"}, {"model": {"uri": 4}},
     {"dataset": {"sources": {"uri": "s3://a"}}}, {"dataset": {"sources": [None, "s3://a", {}]}}],
    ids=str,
)  # fmt: skip
def test_a_spec_of_another_shape_is_passed_over(spec: object) -> None:
    assert list(find_uris(spec)) == []


def test_every_source_is_found_in_its_place() -> None:
    spec = minimal_job()["spec"]
    spec["dataset"]["sources"].append({"uri": "s3://data/more.jsonl"})
    found = dict(find_uris(spec))
    assert found["dataset", "sources", 1, "uri"] == "s3://data/more.jsonl"
    assert found["model", "uri"] == "hf://HuggingFaceTB/SmolLM2-135M-Instruct"
