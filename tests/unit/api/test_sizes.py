"""How large objects can be: every field of every kind is bounded, and so is the whole."""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import pytest

from finetune_api.crd import (
    APPROVALS,
    CUSTOM_KINDS,
    ENDPOINTS,
    JOBS,
    SWEEPS,
    CustomKind,
    build_crd,
)
from finetune_api.messages.messages import InvalidJobError, parse_job
from finetune_api.schema.sizes import (
    Schema,
    UnboundedError,
    fixed_length,
    largest_length,
    varying_length,
)
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.rules.sizes import (
    MAX_PART_LENGTHS,
    MAX_SPEC_LENGTH,
    MAX_SWEEP_SPEC_LENGTH,
)
from kit.cases.spec_cases import CASES, FULL_SPEC, changed, minimal_job

STATUS_LENGTHS = {JOBS.kind: 96 * 1024, SWEEPS.kind: 112 * 1024, ENDPOINTS.kind: 85 * 1024}


def schemas_of(custom: CustomKind) -> dict[str, Schema]:
    (version,) = build_crd(custom)["spec"]["versions"]
    fields = version["schema"]["openAPIV3Schema"]["properties"]
    return {name: fields[name] for name in ("spec", "status") if name in fields}


SPEC = schemas_of(JOBS)["spec"]


@pytest.mark.parametrize("custom", CUSTOM_KINDS, ids=lambda custom: custom.kind)
def test_every_field_of_a_kind_is_bounded(custom):
    for schema in schemas_of(custom).values():
        assert largest_length(schema) > 0


def test_a_spec_is_at_most_as_large_as_stated():
    parts = sum(MAX_PART_LENGTHS.values())
    assert parts + largest_length(SPEC, without=MAX_PART_LENGTHS) <= MAX_SPEC_LENGTH
    in_sweep = [f"template.{part}" for part in MAX_PART_LENGTHS]
    sweep = schemas_of(SWEEPS)["spec"]
    assert parts + largest_length(sweep, without=in_sweep) <= MAX_SWEEP_SPEC_LENGTH
    assert largest_length(schemas_of(APPROVALS)["spec"]) < 2048
    assert largest_length(schemas_of(ENDPOINTS)["spec"]) < 40 * 1024


@pytest.mark.parametrize("custom", [JOBS, SWEEPS, ENDPOINTS], ids=lambda custom: custom.kind)
def test_a_status_is_at_most_as_large_as_stated(custom):
    assert largest_length(schemas_of(custom)["status"]) <= STATUS_LENGTHS[custom.kind]


@pytest.mark.parametrize("part", MAX_PART_LENGTHS)
def test_each_part_that_is_bounded_as_a_whole_has_a_rule_for_it(part):
    (rule,) = [
        each["rule"]
        for each in SPEC["properties"][part]["x-kubernetes-validations"]
        if each["message"].startswith(f"{part} has more than")
    ]
    assert rule.endswith(f" <= {MAX_PART_LENGTHS[part]}")


TEXT = {"type": "string", "maxLength": 100}


@pytest.mark.parametrize(
    ("schema", "named"),
    [
        ({"type": "string"}, "x has no maxLength"),
        ({"type": "integer", "minimum": 0}, "x has no maximum"),
        ({"type": "integer", "maximum": 9}, "x has no minimum"),
        ({"type": "array", "items": TEXT}, "x has no maxItems"),
        ({"type": "array", "maxItems": 2, "items": {"type": "string"}}, "x[] has no maxLength"),
        ({"type": "object", "maxProperties": 2, "additionalProperties": TEXT}, "keys of x"),
        ({"type": "object", "x-kubernetes-preserve-unknown-fields": True}, "takes unknown fields"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_has_no_bound_is_named(schema, named):
    whole = {"type": "object", "properties": {"x": schema}}
    with pytest.raises(UnboundedError) as raised:
        largest_length(whole)
    assert named in str(raised.value)


def random_value(schema: Schema, rng: random.Random, share: float) -> Any:
    """Return something that a schema allows, but for rules; lists and texts up to a share."""
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema.get("x-kubernetes-int-or-string"):
        return rng.choice(["auto", 10**6])
    kind = schema["type"]
    if kind == "object" and "additionalProperties" in schema:
        count = int(rng.random() * share * schema["maxProperties"])
        value = schema["additionalProperties"]
        return {f"key-{n}": random_value(value, rng, share) for n in range(count)}
    if kind == "object":
        required = schema.get("required", ())
        return {
            name: random_value(field, rng, share)
            for name, field in schema.get("properties", {}).items()
            if name in required or rng.random() < 0.7
        }
    if kind == "array":
        count = int(rng.random() * share * schema["maxItems"])
        return [random_value(schema["items"], rng, share) for _ in range(count)]
    if kind == "string":
        return "x" * int(rng.random() * schema["maxLength"])
    return rng.random() < 0.5 if kind == "boolean" else schema["maximum"]


@pytest.mark.parametrize("seed", range(20))
def test_a_length_is_never_less_than_that_of_the_json(seed):
    rng = random.Random(seed)
    for custom in CUSTOM_KINDS:
        for schema in schemas_of(custom).values():
            value = random_value(schema, rng, rng.random())
            written = len(json.dumps(value, separators=(",", ":"), ensure_ascii=False))
            counted = fixed_length(schema) + varying_length(schema, value)
            assert written <= counted <= largest_length(schema)


@pytest.mark.parametrize("part", MAX_PART_LENGTHS)
def test_objects_from_before_the_rules_go_on(part):
    long = {
        "model": {"spec.model.chatTemplate.text": "x" * 60000},
        "dataset": {
            "spec.dataset.sources": [{"uri": "s3://a/b", "system": "x" * 8000}] * 5,
        },
        "evaluation": {
            "spec.evaluation.jsonSchema.text": json.dumps({"title": "x" * 30000}),
        },
        "podTemplate": {
            "spec.podTemplate.env": [{"name": f"APP_{n}", "value": "x" * 4000} for n in range(5)]
        },
    }
    body = changed(minimal_job(), long[part])
    assert FineTuneJob.from_stored(copy.deepcopy(body)).metadata.name == "example"
    with pytest.raises(InvalidJobError) as raised:
        parse_job(body)
    assert f"{part} has more than {MAX_PART_LENGTHS[part]} characters" in str(raised.value)


def test_usual_jobs_are_far_from_the_bounds():
    for body in [{"spec": FULL_SPEC}, *(case.body for case in CASES[:50] if not case.expected)]:
        spec = FineTuneJob.from_wire({**minimal_job(), "spec": body["spec"]}).to_wire()["spec"]
        for part, longest in MAX_PART_LENGTHS.items():
            length = varying_length(SPEC["properties"][part], spec.get(part) or {})
            assert length < longest / 4, part
