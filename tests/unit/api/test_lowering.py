"""Rules in the CRD stand lower than in the models, and say the same."""

from __future__ import annotations

import copy
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest

from finetune_api.crd import CUSTOM_KINDS, CustomKind
from finetune_api.schema.lowering import FIXED, ONCE, VALIDATIONS, lowered, narrowed

Schema = dict[str, Any]
Place = tuple[str, ...]


def rules_of(schema: Schema, place: Place = ()) -> Iterator[tuple[Place, Schema]]:
    for rule in schema.get(VALIDATIONS, []):
        yield place, rule
    for name, child in schema.get("properties", {}).items():
        yield from rules_of(child, (*place, name))
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from rules_of(schema[keyword], (*place, keyword))


def told_at(place: Place, rule: Schema) -> Place:
    return (*place, *rule.get("fieldPath", "").split(".")[1:])


@pytest.fixture(scope="module", params=CUSTOM_KINDS, ids=lambda custom: custom.kind)
def schema(request: pytest.FixtureRequest) -> Schema:
    custom: CustomKind = request.param
    return custom.build_schema()


def test_every_message_is_told_of_the_same_field(schema: Schema) -> None:
    def told(rules: Iterator[tuple[Place, Schema]]) -> Counter[tuple[Place, str]]:
        return Counter((told_at(place, rule), rule["message"]) for place, rule in rules)

    assert told(rules_of(lowered(schema))) == told(rules_of(schema))


def test_every_rule_that_moved_reads_as_before_where_its_object_is(schema: Schema) -> None:
    before: dict[tuple[Place, str], list[tuple[Place, Schema]]] = {}
    for place, rule in rules_of(schema):
        before.setdefault((told_at(place, rule), rule["message"]), []).append((place, rule))
    for place, rule in rules_of(lowered(schema)):
        origins = before[told_at(place, rule), rule["message"]]
        assert any(_is_same(schema, origin, rule, place) for origin in origins), rule["rule"]


@pytest.mark.slow
def test_no_rule_reads_a_field_that_may_be_missing_without_asking(schema: Schema) -> None:
    """CEL fails on it, and the API server then refuses what nobody has written."""
    found = [
        (place, read)
        for place, rule in rules_of(lowered(schema))
        for read in _unasked(_node_at(lowered(schema), place), rule["rule"])
    ]
    assert found == []


def _unasked(node: Schema, rule: str) -> Iterator[str]:
    for chain in set(re.findall(r"\bself((?:\.[A-Za-z]\w*)+)(?![\w(])", rule)):
        at, path = node, "self"
        for name in chain.strip(".").split("."):
            child = at.get("properties", {}).get(name)
            if child is None:
                break
            path = f"{path}.{name}"
            is_there = name in at.get("required", []) or "default" in child
            if not is_there and f"has({path})" not in rule:
                yield path
            at = child


def _is_same(schema: Schema, origin: tuple[Place, Schema], moved: Schema, place: Place) -> bool:
    """Put the path back before what a rule reads, and a guard where an object may be missing."""
    start, rule = origin
    if moved["rule"].startswith(ONCE) and start == ("spec",) and not place:
        return _is_judged_once(rule, moved)
    if place[: len(start)] != start:
        return False
    path = ".".join(("self", *place[len(start) :]))
    guards, node = "", _node_at(schema, start)
    for depth, name in enumerate(place[len(start) :], start=len(start)):
        child = node["properties"][name]
        if name not in node.get("required", []) and "default" not in child:
            guards += f"!has({'.'.join(('self', *place[len(start) : depth + 1]))}) || "
        node = child
    raised = {
        key: re.sub(r"\bself\b", path, moved.get(key, "")) for key in ("rule", "messageExpression")
    }
    return (
        guards + raised["rule"] == rule["rule"]
        and raised["messageExpression"] == rule.get("messageExpression", "")
        and moved.get("reason") == rule.get("reason")
    )


def _is_judged_once(rule: Schema, moved: Schema) -> bool:
    keys = ("rule", "messageExpression")
    raised = {key: re.sub(r"\bself\.", "self.spec.", rule.get(key, "")) for key in keys}
    expected = {**raised, "rule": f"{ONCE}({raised['rule']})"}
    return all(moved.get(key, "") == expected[key] for key in keys)


def test_rules_about_what_never_changes_are_judged_once() -> None:
    root = lowered(CUSTOM_KINDS[0].build_schema())
    for rule in root["properties"]["spec"][VALIDATIONS]:
        assert "oldSelf" in rule["rule"] or "self.budget" in rule["rule"], rule["rule"]
    once = [rule for rule in root[VALIDATIONS] if rule["rule"].startswith(ONCE)]
    for rule in once:
        for name in re.findall(r"\bself\.spec\.(\w+)", rule["rule"]):
            rules = root["properties"]["spec"]["properties"][name][VALIDATIONS]
            assert FIXED in {each["rule"] for each in rules}, rule["rule"]
    assert len(once) > 20


def _node_at(schema: Schema, place: Place) -> Schema:
    for name in place:
        schema = schema[name] if name in ("items", "additionalProperties") else _child(schema, name)
    return schema


def _child(schema: Schema, name: str) -> Schema:
    child: Schema = schema["properties"][name]
    return child


def test_no_two_rules_of_a_place_are_alike(schema: Schema) -> None:
    # The API server takes the list of rules for a map whose key is the rule.
    rules = Counter((place, rule["rule"]) for place, rule in rules_of(lowered(schema)))
    assert set(rules.values()) == {1}


def test_rules_about_one_object_no_longer_stand_at_spec() -> None:
    spec = lowered(CUSTOM_KINDS[0].build_schema())["properties"]["spec"]
    for rule in spec[VALIDATIONS]:
        read = set(re.findall(r"\bself\.(\w+)", rule["rule"]))
        assert len(read) > 1 or "oldSelf" in rule["rule"], rule["rule"]
    at = {place: rule for place, rule in rules_of(spec) if "certainty must" in rule["message"]}
    assert at[("goal", "certainty")]["rule"] == "(double(self) >= 0.5 && double(self) <= 0.999)"
    assert "self.all(g," in at[("evaluation", "gates")]["rule"]


def test_a_schema_is_not_changed_by_being_lowered(schema: Schema) -> None:
    before = copy.deepcopy(schema)
    assert lowered(lowered(schema)) == lowered(schema)
    assert schema == before


@pytest.mark.parametrize(
    ("rule", "moved"),
    [
        ("!has(self.goal) || self.goal.max > 0", "self.max > 0"),
        (
            "!has(self.goal) || !has(self.goal.max) || self.goal.max > 0",
            "!has(self.max) || self.max > 0",
        ),
        (
            "!has(self.goal) || (has(self.goal.max) ? true : false)",
            "(has(self.max) ? true : false)",
        ),
        ("!has(self.goal) || self.goal.name == 'a?b'", "self.name == 'a?b'"),
        ("!has(self.goal) || self.goal.max > 0 ? false : true", None),
        ("!has(self.goal) || self.goal.max > self.goals.max", None),
        ("!has(self.goals) || self.goals.max > 0", None),
        ("has(self.goal) && self.goal.max > 0", None),
        ("!has(self.goal) || has(self.goal) == self.goal.max", None),
        ("!has(self.goal) || self.goal == oldSelf.goal", None),
        ("!has(self.goal) || self == self.goal", None),
        ("self.goal.max > 0", None),
    ],
)
def test_only_what_reads_nothing_else_moves(rule: str, moved: str | None) -> None:
    found = narrowed({"rule": rule, "fieldPath": ".goal.max"}, "goal", is_required=False)
    assert found == (None if moved is None else {"rule": moved, "fieldPath": ".max"})


def test_a_computed_message_moves_along_or_keeps_its_rule() -> None:
    rule = {"rule": "self.goal.max > 0", "fieldPath": ".goal"}
    both = {**rule, "messageExpression": "'not ' + self.goal.max"}
    assert narrowed(both, "goal", is_required=True) == {
        "rule": "self.max > 0",
        "messageExpression": "'not ' + self.max",
    }
    other = {**rule, "messageExpression": "'not ' + self.other"}
    assert narrowed(other, "goal", is_required=True) is None


def test_defaults_of_objects_are_written_out_for_the_rules_that_judge_them() -> None:
    method = {
        "type": "object",
        "default": {"adapter": {"rank": 8}},
        "properties": {
            "objective": {"type": "string", "default": "SFT"},
            "adapter": {
                "type": "object",
                "default": {},
                "properties": {"rank": {"default": 16}, "alpha": {"default": 32}, "name": {}},
            },
            "seeds": {"type": "array", "default": [1]},
        },
    }
    found = lowered({"type": "object", "properties": {"method": method}})["properties"]["method"]
    adapter = {"rank": 8, "alpha": 32}
    assert found["default"] == {"objective": "SFT", "adapter": adapter, "seeds": [1]}
    assert found["properties"]["adapter"]["default"] == {"rank": 16, "alpha": 32}
