"""The generated CRD: structural, bounded, and in step with the models."""

from __future__ import annotations

import importlib.util
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import pytest

from finetune_api.crd import (
    APPROVALS,
    CUSTOM_KINDS,
    JOBS,
    CustomKind,
    build_approval_schema,
    build_crd,
    build_endpoint_schema,
    build_schedule_schema,
    build_schema,
    build_sweep_schema,
)
from finetune_api.protocol.trainer import ExitCode
from finetune_api.v1alpha1.approval import APPROVAL_RULES
from finetune_api.v1alpha1.finetuneendpoint import (
    ENDPOINT_FIXED_FIELDS,
    ENDPOINT_RULES,
    FineTuneEndpointSpec,
)
from finetune_api.v1alpha1.finetunejob import IMMUTABLE_FIELDS, FineTuneJobSpec
from finetune_api.v1alpha1.finetuneschedule import (
    SCHEDULE_FIXED_FIELDS,
    SCHEDULE_RULES,
    FineTuneScheduleSpec,
)
from finetune_api.v1alpha1.finetunesweep import (
    SWEEP_FIXED_FIELDS,
    SWEEP_RULES,
    FineTuneSweepSpec,
)
from finetune_api.v1alpha1.rules.spec import SPEC_RULES
from finetune_api.v1alpha1.spec.podtemplate import POD_TEMPLATE_RULES
from finetune_api.v1alpha1.spec.sweep_parameters import (
    INTEGER_PATHS,
    PARAMETER_RULES,
    WORD_PATHS,
    ParameterPath,
)
from kit.reports.reference import EXIT_CODE_HELP, render_exit_codes, render_kind

REPOSITORY = Path(__file__).parents[3]
MOST_APPLIED_BYTES = 256 * 1024
"""Of all annotations of an object; ``kubectl apply`` writes the whole object into one."""
TEMPLATES = (".spec.template.", ".spec.jobTemplate.spec.")
FORBIDDEN = {"$ref", "$defs", "title", "oneOf", "anyOf", "const", "prefixItems", "discriminator"}


def walk(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, child in schema.get("properties", {}).items():
        yield from walk(child, f"{path}.{name}")
    for keyword in ("items", "additionalProperties"):
        if isinstance(schema.get(keyword), dict):
            yield from walk(schema[keyword], f"{path}[]")


@pytest.fixture(scope="module", params=CUSTOM_KINDS, ids=lambda custom: custom.kind)
def custom(request: pytest.FixtureRequest) -> CustomKind:
    found: CustomKind = request.param
    return found


@pytest.fixture(scope="module")
def nodes(custom: CustomKind) -> list[tuple[str, dict[str, Any]]]:
    return list(walk(custom.build_schema()))


def test_schema_is_structural(nodes: list[tuple[str, dict[str, Any]]]) -> None:
    for path, node in nodes:
        assert not FORBIDDEN & set(node), path
        assert "type" in node or node.get("x-kubernetes-int-or-string"), path
        assert node.get("type") != "number", f"{path}: floats do not round-trip"
        assert node.get("additionalProperties") not in (True, False), path


def test_every_bound_of_a_number_is_exact_as_a_float(
    nodes: list[tuple[str, dict[str, Any]]],
) -> None:
    """The API server holds bounds as floats: of one that it rounds, it refuses every value."""
    for path, node in nodes:
        for bound in (node[key] for key in ("minimum", "maximum") if key in node):
            assert abs(bound) < 2**53, path


def test_every_string_list_and_map_is_bounded(nodes: list[tuple[str, dict[str, Any]]]) -> None:
    for path, node in nodes:
        if path in (".apiVersion", ".kind", ".metadata"):
            continue
        if node.get("type") == "string":
            assert "maxLength" in node or "enum" in node, path
        if node.get("type") == "array":
            assert "maxItems" in node, path
            assert "x-kubernetes-list-type" in node, path
        if "additionalProperties" in node:
            assert "maxProperties" in node, path


def test_every_field_is_described(nodes: list[tuple[str, dict[str, Any]]]) -> None:
    for path, node in nodes:
        if path not in ("", ".metadata") and not path.endswith("[]"):
            # `kubectl explain finetunejob.spec` describes the fields of a template.
            assert bool(node.get("description")) is not path.startswith(TEMPLATES), path


def test_a_definition_leaves_room_for_the_annotation_of_kubectl_apply(custom: CustomKind) -> None:
    length = len(json.dumps(build_crd(custom), separators=(",", ":")))
    assert length < MOST_APPLIED_BYTES * (0.8 if custom is JOBS else 0.55)


def test_status_holds_no_defaults(nodes: list[tuple[str, dict[str, Any]]]) -> None:
    assert not [p for p, node in nodes if p.startswith(".status") and "default" in node]


def test_every_rule_of_a_sweep_names_an_existing_field() -> None:
    spec = build_sweep_schema()["properties"]["spec"]
    parameter = spec["properties"]["parameters"]["items"]
    rules = [(spec, rule) for rule in SWEEP_RULES]
    for node, rule in [*rules, *((parameter, rule) for rule in PARAMETER_RULES)]:
        for part in rule.field.split("."):
            node = node["properties"][part]


def test_what_a_sweep_tries_is_fixed_and_the_rest_steers_its_life() -> None:
    fields = {field.alias for field in FineTuneSweepSpec.model_fields.values()}
    assert fields - set(SWEEP_FIXED_FIELDS) == {
        "parallelism",
        "budget",
        "suspend",
        "ttlSecondsAfterFinished",
    }
    spec = build_sweep_schema()["properties"]["spec"]["properties"]
    for name in SWEEP_FIXED_FIELDS:
        assert "self == oldSelf" in [r["rule"] for r in spec[name]["x-kubernetes-validations"]]


def test_what_a_sweep_may_vary_are_fields_of_a_job() -> None:
    template = build_schema()["properties"]["spec"]
    for path in get_args(ParameterPath):
        node = template
        for part in path.split("."):
            node = node["properties"][part]
        is_whole = node.get("type", "integer") == "integer" and "pattern" not in node
        assert is_whole is (path in INTEGER_PATHS)
        assert ("enum" in node) is (path in WORD_PATHS)


def test_whose_versions_an_endpoint_serves_is_fixed_and_the_rest_may_change() -> None:
    spec = build_endpoint_schema()["properties"]["spec"]
    for rule in ENDPOINT_RULES:
        node = spec
        for part in rule.field.split("."):
            node = node["properties"][part]
    fields = {field.alias for field in FineTuneEndpointSpec.model_fields.values()}
    assert fields - set(ENDPOINT_FIXED_FIELDS) == {
        "version",
        "serve",
        "rollout",
        "access",
        "capture",
        "monitor",
    }
    fixed = spec["properties"]["jobRef"]["x-kubernetes-validations"]
    assert "self == oldSelf" in [rule["rule"] for rule in fixed]


def test_whose_traffic_a_schedule_counts_is_fixed_and_the_rest_may_change() -> None:
    spec = build_schedule_schema()["properties"]["spec"]
    for rule in SCHEDULE_RULES:
        node = spec
        for part in rule.field.split("."):
            node = node["properties"][part]
    fields = {field.alias for field in FineTuneScheduleSpec.model_fields.values()}
    assert set(SCHEDULE_FIXED_FIELDS) <= fields
    for name in SCHEDULE_FIXED_FIELDS:
        fixed = spec["properties"][name]["x-kubernetes-validations"]
        assert "self == oldSelf" in [each["rule"] for each in fixed]


def test_no_rule_has_a_backslash_which_cel_reads_as_an_escape() -> None:
    builders = (build_schema, build_sweep_schema, build_approval_schema, build_endpoint_schema,
                build_schedule_schema)  # fmt: skip
    rules = [
        (path, validation["rule"])
        for build in builders
        for path, node in walk(build())
        for validation in node.get("x-kubernetes-validations", ())
    ]
    assert len(rules) > 100
    assert [(path, rule) for path, rule in rules if "\\" in rule] == []


def test_every_rule_names_an_existing_field() -> None:
    jobs = build_schema()["properties"]["spec"]
    approvals = build_approval_schema()["properties"]["spec"]
    rules = [(jobs, rule) for rule in (*SPEC_RULES, *POD_TEMPLATE_RULES)]
    for spec, rule in [*rules, *((approvals, rule) for rule in APPROVAL_RULES)]:
        node = spec
        for part in rule.field.split("."):
            node = node["properties"][part]


def test_immutable_fields_exist_and_the_rest_steers_the_life_cycle() -> None:
    fields = {field.alias for field in FineTuneJobSpec.model_fields.values()}
    assert set(IMMUTABLE_FIELDS) <= fields
    assert fields - set(IMMUTABLE_FIELDS) == {
        "queueName",
        "priorityClassName",
        "suspend",
        "holdAfter",
        "prune",
        "backoffLimit",
        "retryPolicy",
        "activeDeadlineSeconds",
        "budget",
        "ttlSecondsAfterFinished",
    }


def test_crd_fits_a_client_side_apply_annotation(custom: CustomKind) -> None:
    # The API server takes 256 KiB of annotations in all.
    assert len(json.dumps(build_crd(custom))) < 212 * 1024


def test_only_a_kind_that_a_controller_reports_on_has_a_status() -> None:
    for each in CUSTOM_KINDS:
        (version,) = build_crd(each)["spec"]["versions"]
        assert ("status" in version.get("subresources", {})) is each.has_status
        schema = version["schema"]["openAPIV3Schema"]
        assert ("status" in schema["properties"]) is each.has_status


def test_columns_and_selectors_read_fields_that_exist(custom: CustomKind) -> None:
    (version,) = build_crd(custom)["spec"]["versions"]
    schema = version["schema"]["openAPIV3Schema"]
    paths = [column["jsonPath"] for column in version["additionalPrinterColumns"]]
    for path in [*paths, *(each["jsonPath"] for each in version["selectableFields"])]:
        if path.startswith(".metadata"):
            continue
        node = schema
        for part in re.sub(r"\[.*\]", "", path).removeprefix(".").split("."):
            node = node["properties"][part]
            node = node.get("items", node)


def test_every_exit_code_is_explained() -> None:
    assert set(EXIT_CODE_HELP) == set(ExitCode)
    page = render_exit_codes()
    for code in ExitCode:
        assert f"| {code.value} |" in page


def test_reference_lists_every_field(
    custom: CustomKind, nodes: list[tuple[str, dict[str, Any]]]
) -> None:
    page = render_kind(custom)
    for path, _ in nodes:
        name = path.rsplit(".", 1)[-1]
        if path.startswith(TEMPLATES):
            continue  # told on the page of FineTuneJob
        if path.startswith((".spec.", ".status.")) and not path.endswith("[]"):
            assert f"| `{name}` |" in page, path
    assert ("*Fixed.*" in page) is custom.has_status
    assert ("a decision is not edited" in str(nodes)) is (custom is APPROVALS)


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    spec = importlib.util.spec_from_file_location("generate", REPOSITORY / "tools" / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["generate"] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_generated_files_are_up_to_date(generate: ModuleType) -> None:
    assert generate.main(["--check"]) == 0


@pytest.mark.slow
def test_generate_is_idempotent_and_names_drift(
    generate: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = ["--root", str(tmp_path)]
    assert generate.main(root) == 0
    assert capsys.readouterr().out.count("wrote") == 13
    assert generate.main(root) == 0
    assert capsys.readouterr().out == ""
    crd = tmp_path / "charts" / "finetune-operator" / "crds" / "finetunejobs.yaml"
    crd.write_text(crd.read_text().replace("shortNames", "longNames"))
    assert generate.main([*root, "--check"]) == 1
    shown = capsys.readouterr()
    assert "-    longNames:" in shown.out
    assert "make generate" in shown.err
    assert "longNames" in crd.read_text(), "a check writes nothing"


def test_bounds_of_numbers_are_exact_as_doubles(custom: CustomKind) -> None:
    """The API server reads them as doubles, and refuses objects where one is no int64 then."""
    for path, schema in walk(custom.build_schema()):
        for bound in ("minimum", "maximum"):
            value = schema.get(bound, 0)
            assert int(float(value)) == value, f"{path}: {bound} {value}"


def test_a_decimal_is_text_or_a_whole_number() -> None:
    spec = build_schema()["properties"]["spec"]["properties"]
    epochs = spec["hyperparameters"]["properties"]["epochs"]
    assert epochs["x-kubernetes-int-or-string"]
    assert "type" not in epochs
    assert re.match(epochs["pattern"], "0.5")
    assert "self <= 999999999999999" in epochs["x-kubernetes-validations"][0]["rule"]


def test_an_older_operator_finds_no_target_modules_that_it_does_not_know(
    nodes: list[tuple[str, dict[str, Any]]],
) -> None:
    for path, node in nodes:
        assert "targetModules" not in str(node.get("default")), path
        assert not (path.endswith("targetModules") and "default" in node), path
