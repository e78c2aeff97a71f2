"""The CustomResourceDefinition of FineTuneJob, built from the pydantic models.

The models are the single source. Pydantic's JSON Schema says more and other things than a CRD's
structural schema may hold: references are inlined, nulls become plain optionals, closed objects
rely on pruning, ``int | "auto"`` becomes an int-or-string, and cross-field rules travel as CEL.

Nothing here reads or writes files; ``tools/generate.py`` does.
"""

from __future__ import annotations

import copy
from typing import Any

from finetune_api.meta import API_VERSION, GROUP, KIND, PLURAL, VERSION
from finetune_api.v1alpha1.finetunejob import IMMUTABLE_FIELDS, SPEC_RULES, FineTuneJob
from finetune_api.v1alpha1.podtemplate import POD_TEMPLATE_RULES
from finetune_api.v1alpha1.queue_rules import edit_rules
from finetune_api.v1alpha1.rules import Rule

Schema = dict[str, Any]

MAX_NAME_LENGTH = 52
"""Longest name of a FineTuneJob: names of its Jobs, pods and Services must fit 63 characters."""

NAME_MESSAGE = (
    f"metadata.name must be at most {MAX_NAME_LENGTH} lower-case letters, digits or dashes, "
    "and start and end with a letter or digit: names of Jobs and Services are derived from it"
)
NAME_RULE = (
    f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && "
    "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')"
)

PRINTER_COLUMNS: tuple[Schema, ...] = (
    {
        "name": "Phase",
        "type": "string",
        "jsonPath": ".status.phase",
        "description": "Where the job is in its life.",
    },
    {
        "name": "Progress",
        "type": "integer",
        "jsonPath": ".status.progress.percent",
        "description": "Share of the current stage done, in percent.",
    },
    {
        "name": "Step",
        "type": "integer",
        "jsonPath": ".status.progress.step",
        "description": "Optimiser steps done.",
    },
    {
        "name": "Loss",
        "type": "string",
        "jsonPath": '.status.metrics[?(@.name=="loss")].value',
        "description": "Latest training loss.",
    },
    {
        "name": "Queue",
        "type": "string",
        "jsonPath": ".spec.queueName",
        "description": "Kueue LocalQueue.",
    },
    {"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp"},
    {
        "name": "Reason",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.reason",
        "description": "Why the job is in its phase: what it waits for, or why it failed.",
    },
    {
        "name": "Adapter",
        "type": "string",
        "priority": 1,
        "jsonPath": ".status.artifact.uri",
        "description": "Folder of the published adapter.",
    },
)

KEYWORD_ORDER = (
    "description",
    "type",
    "format",
    "x-kubernetes-int-or-string",
    "x-kubernetes-preserve-unknown-fields",
    "x-kubernetes-list-type",
    "x-kubernetes-list-map-keys",
    "enum",
    "pattern",
    "minLength",
    "maxLength",
    "minimum",
    "maximum",
    "minItems",
    "maxItems",
    "maxProperties",
    "default",
    "required",
    "x-kubernetes-validations",
    "properties",
    "items",
    "additionalProperties",
)
"""Keywords in the order a reader wants them; others go last."""

DROPPED_KEYWORDS = frozenset({"title", "discriminator", "additionalProperties", "$defs", "default"})


def immutable_message(field: str) -> str:
    """Return what the API server says when ``spec.<field>`` is changed."""
    return (
        f"{field} is fixed once the job exists: delete the job and create a new one, "
        "or use another name"
    )


def auto_or_integer_message(minimum: int, maximum: int) -> str:
    """Return what is said when a field is neither ``auto`` nor a whole number in range."""
    return f"must be 'auto' or a whole number from {minimum} to {maximum}"


def build_crd() -> Schema:
    """Build the CustomResourceDefinition as a JSON-ready dict."""
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{PLURAL}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": KIND,
                "listKind": f"{KIND}List",
                "plural": PLURAL,
                "singular": PLURAL[:-1],
                "shortNames": ["ftj"],
                "categories": ["ml"],
            },
            "scope": "Namespaced",
            "versions": [
                {
                    "name": VERSION,
                    "served": True,
                    "storage": True,
                    "subresources": {"status": {}},
                    "selectableFields": [
                        {"jsonPath": ".spec.queueName"},
                        {"jsonPath": ".status.phase"},
                    ],
                    "additionalPrinterColumns": [dict(column) for column in PRINTER_COLUMNS],
                    "schema": {"openAPIV3Schema": build_schema()},
                }
            ],
        },
    }


def build_schema() -> Schema:
    """Build the structural schema of one FineTuneJob, rules included."""
    raw = FineTuneJob.model_json_schema(by_alias=True)
    schema = _structural(raw, raw["$defs"])
    properties = schema["properties"]
    properties["apiVersion"] = {
        "type": "string",
        "description": f"Version of the API this object is written in: {API_VERSION}.",
    }
    properties["kind"] = {"type": "string", "description": f"Kind of the object: {KIND}."}
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["metadata", "spec"]
    schema["x-kubernetes-validations"] = [
        {"rule": NAME_RULE, "message": NAME_MESSAGE},
        *edit_rules(),
    ]
    _add_rules(properties["spec"], SPEC_RULES, prefix="")
    _add_rules(properties["spec"]["properties"]["podTemplate"], POD_TEMPLATE_RULES, "podTemplate.")
    _fix_fields(properties["spec"])
    _drop_defaults(properties["status"])
    return _ordered(schema)


def _structural(schema: Schema, definitions: Schema) -> Schema:
    schema = _inline(schema, definitions)
    if "anyOf" in schema:
        return _int_or_string(schema)
    result = {key: value for key, value in schema.items() if key not in DROPPED_KEYWORDS}
    result = {key: copy.deepcopy(value) for key, value in result.items()}
    if "description" in result:
        result["description"] = " ".join(result["description"].split())
    if "const" in result:
        result["enum"] = [result.pop("const")]
    if result.get("type") == "integer":
        result["format"] = "int64"
    default = schema.get("default")
    if default is not None and default not in ({}, [], ""):
        result["default"] = copy.deepcopy(default)
    if "items" in schema:
        result["items"] = _structural(schema["items"], definitions)
    values = schema.get("additionalProperties")
    if isinstance(values, dict):
        result["additionalProperties"] = _structural(values, definitions)
    if "properties" in schema:
        _add_properties(result, schema, definitions)
    return result


def _add_properties(result: Schema, schema: Schema, definitions: Schema) -> None:
    result["properties"] = {
        name: _structural(value, definitions) for name, value in schema["properties"].items()
    }
    if "default" in result:
        # The fields carry their own defaults, and the API server descends into an empty object.
        result["default"] = {}


def _inline(schema: Schema, definitions: Schema) -> Schema:
    """Resolve ``$ref`` and ``anyOf: [X, null]``; what stands beside them wins."""
    if "$ref" in schema:
        target = definitions[schema["$ref"].rsplit("/", 1)[1]]
        beside = {key: value for key, value in schema.items() if key != "$ref"}
        return _inline({**target, **beside}, definitions)
    if "anyOf" in schema:
        choices = [choice for choice in schema["anyOf"] if choice.get("type") != "null"]
        beside = {key: value for key, value in schema.items() if key != "anyOf"}
        if len(choices) == 1:
            return _inline({**choices[0], **beside}, definitions)
        return {**beside, "anyOf": choices}
    return schema


def _int_or_string(schema: Schema) -> Schema:
    """Turn ``int | Literal["auto"]`` into an int-or-string with a CEL rule for its values."""
    integer = next(choice for choice in schema["anyOf"] if choice["type"] == "integer")
    low, high = integer["minimum"], integer["maximum"]
    return {
        "description": " ".join(schema["description"].split()),
        "x-kubernetes-int-or-string": True,
        "default": schema["default"],
        "x-kubernetes-validations": [
            {
                "rule": (
                    f"type(self) == string ? self == 'auto' : (self >= {low} && self <= {high})"
                ),
                "message": auto_or_integer_message(low, high),
            }
        ],
    }


def _add_rules(schema: Schema, rules: tuple[Rule, ...], prefix: str) -> None:
    for rule in rules:
        validation = {
            "rule": rule.rule,
            "message": rule.message,
            "fieldPath": "." + rule.field.removeprefix(prefix),
        }
        if rule.message_expression:
            validation["messageExpression"] = rule.message_expression
        schema.setdefault("x-kubernetes-validations", []).append(validation)


def _fix_fields(spec: Schema) -> None:
    """Add the immutability rules.

    A rule on a field runs only while the field is there before and after, so fields without a
    default need a second rule on the parent against being added or removed.
    """
    for field in IMMUTABLE_FIELDS:
        schema = spec["properties"][field]
        fixed = {"message": immutable_message(field), "reason": "FieldValueForbidden"}
        schema.setdefault("x-kubernetes-validations", []).insert(
            0, {"rule": "self == oldSelf", **fixed}
        )
        if field not in spec["required"] and "default" not in schema:
            spec["x-kubernetes-validations"].append(
                {"rule": f"has(self.{field}) == has(oldSelf.{field})", **fixed}
                | {"fieldPath": f".{field}"}
            )


def _drop_defaults(schema: Schema) -> None:
    """Leave status as it is written: a filled-in default would differ from what was applied."""
    schema.pop("default", None)
    for child in schema.get("properties", {}).values():
        _drop_defaults(child)
    if "items" in schema:
        _drop_defaults(schema["items"])


def _ordered(schema: Schema) -> Schema:
    rank = {keyword: position for position, keyword in enumerate(KEYWORD_ORDER)}
    result = dict(sorted(schema.items(), key=lambda item: rank.get(item[0], len(rank))))
    if "properties" in result:
        result["properties"] = {k: _ordered(v) for k, v in result["properties"].items()}
    for keyword in ("items", "additionalProperties"):
        if isinstance(result.get(keyword), dict):
            result[keyword] = _ordered(result[keyword])
    return result
