"""A value of the wrong type is told with what to write instead, and that is then taken."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from finetune_api import patterns
from finetune_api.messages.messages import InvalidJobError, parse_job
from finetune_api.patterns import TextRule, broken_message
from kit.cases.spec_cases import changed, minimal_job

SIZE = patterns.QUANTITY_RULE.message
ORIGIN = "s3://b/runs/n/x/1/checkpoints/step-3"


def problems_of(path: str, value: Any) -> list[str]:
    """What is wrong with a field or below it."""
    try:
        parse_job(changed(minimal_job(), {path: value}))
    except InvalidJobError as error:
        return [str(each) for each in error.problems if each.path.startswith(path)]
    return []


def problem_of(path: str, value: Any) -> str:
    (problem,) = problems_of(path, value)
    return problem.removeprefix(f"{path}: Invalid value: ").partition(": must be of type ")[2]


@pytest.mark.parametrize(
    ("path", "value", "told"),
    [
        ("spec.resources.memory", 16, f"string, not integer: {SIZE}"),
        ("spec.resources.sharedMemory", 2, f"string, not integer: {SIZE}"),
        ("spec.output.uri", True, f"string, not boolean: {patterns.URI_RULES[0].message}"),
        ("spec.suspend", 1, "boolean, not integer: write true or false, without quotes"),
        ("spec.method.adapter.rank", 16.5, "integer, not number: write a whole number, without"),
        ("spec.activeDeadlineSeconds", "PT1H", "integer, not string: write a whole number, of sec"),
        ("spec.initFrom", "s3://x/y", "object, not string: write {uri: ...}"),
        ("spec.model", "gpt2", "object, not string: write {uri: ...}"),
        ("spec.evaluation.judge", True, "object, not boolean: write {endpoint: ..., model: ...}"),
        ("spec.evaluation.review", False, "object, not boolean: leave it out"),
        ("spec.podTemplate.env", "A=B", "array, not string: write [{name: ...}]"),
        ("spec.podTemplate.nodeSelector", "a=b", "object, not string: write a mapping, as {key: v"),
        ("spec.dataset.sources", {"uri": "s3://x/y"}, "array, not object: write a list: `- ` bef"),
        ("spec.hyperparameters", [], "object, not array: write a mapping; its fields are epochs,"),
        ("spec.model.uri", ["hf://a/b"], "string, not array"),
    ],
)  # fmt: skip
def test_what_to_write_is_told_by_the_field(path: str, value: Any, told: str) -> None:
    assert problem_of(path, value).startswith(told)


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("spec.resources.cpu", 8, "write it in quotes"),
        ("spec.resources.memory", 17179869184, "write it in quotes"),
        ("spec.suspend", "false", "write it without quotes"),
        ("spec.method.adapter.rank", "16", "write it without quotes"),
        ("spec.activeDeadlineSeconds", "1h", "write a whole number, of seconds: 3600"),
        (
            "spec.podTemplate.terminationGracePeriodSeconds",
            "2m",
            "write a whole number, of seconds: 120",
        ),
        ("spec.output.credentialsRef", "s3-rw", "write {name: s3-rw}"),
        ("spec.output.credentialsRef", "true", 'write {name: "true"}'),
        ("spec.initFrom", ORIGIN, f"write {{uri: {ORIGIN}}}"),
        ("spec.model", "hf://a/b@v1", "write {uri: hf://a/b@v1}"),
        ("spec.method.adapter.targetModules", "all-linear", "write [all-linear]"),
        ("spec.method.adapter.targetModules", "q_proj,v_proj", "write [q_proj, v_proj]"),
        ("spec.dataset.sources", "s3://b/x y.csv", 'write [{uri: "s3://b/x y.csv"}]'),
        ("spec.evaluation.metrics", "exactMatch", "write [exactMatch]"),
        ("spec.evaluation.review", True, "write {} to have it with its defaults"),
    ],
)
def test_what_is_proposed_is_taken(path: str, value: Any, remedy: str) -> None:
    assert problem_of(path, value).partition(": ")[2] == remedy
    words = remedy.removeprefix("write ").removeprefix("a whole number, of seconds: ")
    written = {"it in quotes": f'"{value}"', "it without quotes": value}.get(words, words)
    new = yaml.safe_load(str(written).removesuffix(" to have it with its defaults"))
    assert problems_of(path, new) == []


@pytest.mark.parametrize("name", [n for n, v in vars(patterns).items() if isinstance(v, TextRule)])
@pytest.mark.parametrize("text", ["16", "16Gi", "a", "A b", "https://x", "s3://b/adapter", "/x"])
def test_a_rule_says_of_a_text_in_its_schema_what_the_model_says(name: str, text: str) -> None:
    rule: TextRule = getattr(patterns, name)
    schema = {"x-kubernetes-validations": [{"rule": rule.cel, "message": rule.message}]}
    assert broken_message(schema, text) == (None if rule.accepts(text) else rule.message)


@pytest.mark.parametrize("text", ["hf://gpt2", "hf://a/b", "s3://", "pvc://A/x", "x"])
def test_rules_for_some_beginnings_hold_for_those_alone(text: str) -> None:
    rules = patterns.URI_RULES
    schema = {"x-kubernetes-validations": [{"rule": r.cel, "message": r.message} for r in rules]}
    broken = [rule.message for rule in rules if not rule.accepts(text)]
    assert broken_message(schema, text) == (broken[0] if broken else None)


@pytest.mark.parametrize(
    ("path", "value", "remedy"),
    [
        ("spec.model.uri", "org/name", "write hf://org/name, or file://./org/name for a folder"),
        ("spec.model.uri", "https://huggingface.co/a/b/tree/main", "write hf://a/b"),
        ("spec.model.uri", "/models/b", "write file:///models/b"),
        ("spec.model.path", "org/name", "unknown field; write uri: hf://org/name"),
        ("spec.output.uri", "./out", "write file://./out"),
        ("spec.output.uri", "team/out", "write file://./team/out"),
        ("spec.dataset.path", "rows.jsonl", "write sources: [{uri: file://./rows.jsonl}]"),
        ("spec.dataset.sources.0.uri", "rows.jsonl", "write file://./rows.jsonl"),
        (
            "spec.dataset.sources.0.uri",
            "http://example.org/d/rows.jsonl?raw=1",
            "a web address is not read: download it, and write file://./rows.jsonl",
        ),
        (
            "spec.dataset.sources.0.uri",
            "https://huggingface.co/datasets/a/b",
            "write hf://datasets/a/b",
        ),
        ("spec.hyperparameters.optimizer", "adamw", "did you mean AdamW?"),
        ("spec.hyperparameters.optimizer", "adafactor", "did you mean Adafactor?"),
        ("spec.method", "dpo", "write {objective: DPO}"),
        ("spec.initFrom.train", False, "unknown field; it was removed: leave it out"),
        ("spec.tracking.tensorboard", {}, "unknown field; it was removed: leave it out"),
        ("spec.method", "lora", "write {adapter: {type: LoRA}}"),
    ],
)
def test_words_of_newcomers_are_told_with_value_field_and_remedy(
    path: str, value: Any, remedy: str
) -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(changed(minimal_job(), {path: value}))
    field = path.replace(".0.", "[0].")
    (told,) = [str(each) for each in caught.value.problems if each.path == field]
    assert told.startswith(f"{field}: ")
    assert remedy in told
    assert str(value) in told or "unknown field" in told
    assert "ORPO?" not in told


@pytest.mark.parametrize("path", ["spec.zebra", "spec.hyperparameters.zebra", "zebra"])
def test_a_field_that_nobody_knows_is_refused_also_when_it_is_null(path: str) -> None:
    with pytest.raises(InvalidJobError) as caught:
        parse_job(changed(minimal_job(), {path: None}))
    (problem,) = caught.value.problems
    assert (problem.path, problem.message.startswith("unknown field")) == (path, True)
    assert parse_job(changed(minimal_job(), {"spec.goal": None})).spec.goal is None
