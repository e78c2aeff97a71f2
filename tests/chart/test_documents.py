"""What the chart says about itself agrees with itself; needs no helm."""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Iterator
from typing import Any

import yaml
from pydantic.alias_generators import to_camel

from finetune_operator.config import OperatorConfig
from finetune_operator.integrations.kueue.workload import MINIMUM_KUEUE, WORKLOADS
from finetune_operator.tenants import NamespacePolicy
from kit.cluster.chart import CHART, read_values
from kit.cluster.exported_metrics import exported_metrics, faults_of

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES_TEXT = (CHART / "values.yaml").read_text()
VALUES = yaml.safe_load(VALUES_TEXT)

MADE_BY_THE_CHART = {
    "trainerImage",
    "trainerImagePullPolicy",
    "namespaces",
    "kueue",
    "leaderElection",
    "leaderElectionName",
    "leaderElectionNamespace",
    "progressUrl",
    "progressPort",
    "progressCaConfigMap",
    "progressTlsCertificate",
    "progressTlsKey",
    "probePort",
    "metricsPort",
    "bindAddress",
    "logLevel",
    "servingReportPeers",
}


def schemas(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from schemas(child, f"{path}.{name}".lstrip("."))


def test_schema_refuses_unknown_fields_wherever_it_lists_fields() -> None:
    open_objects = [
        path
        for path, node in schemas(SCHEMA)
        if "properties" in node and node.get("additionalProperties") is not False
    ]
    assert open_objects == []


def test_every_value_has_a_schema() -> None:
    known = dict(schemas(SCHEMA))
    missing = [v.path for v in read_values(VALUES_TEXT) if v.path not in known]
    assert missing == []


def test_settings_are_the_operators() -> None:
    fields = {to_camel(name) for name in OperatorConfig.model_fields}
    assert fields >= MADE_BY_THE_CHART
    assert set(SCHEMA["properties"]["config"]["properties"]) == fields - MADE_BY_THE_CHART


def test_a_policy_takes_what_the_operator_lets_differ_by_namespace() -> None:
    items = SCHEMA["properties"]["config"]["properties"]["policies"]["items"]
    fields = [to_camel(name) for name in NamespacePolicy.model_fields]
    assert sorted(items["properties"]) == sorted(fields)
    assert items["additionalProperties"] is False


LIMITS = ("pattern", "minLength", "maxLength", "minimum", "maximum", "exclusiveMinimum", "minItems")


def limits(node: dict[str, Any], root: dict[str, Any], path: str) -> Iterator[tuple[str, str]]:
    """Yield what a schema asks of the values at a path and below it, whether or not of null too."""
    if "$ref" in node:
        pointer = node["$ref"].removeprefix("#/").split("/")
        yield from limits(functools.reduce(operator.getitem, pointer, root), root, path)
        return
    if "anyOf" in node:
        (node,) = (each for each in node["anyOf"] if each != {"type": "null"})
    for validation in node.get("x-kubernetes-validations", ()):
        if validation["rule"].startswith("type(self) == string || "):
            continue  # bounds numbers, which the chart takes as text alone
        (pattern,) = re.findall(r"^self\.matches\('(.*)'\)$", validation["rule"])
        yield path, f"pattern {pattern}"
    if "enum" in node:
        yield path, f"one of {sorted(each for each in node['enum'] if each is not None)}"
    else:
        kind = node.get("type", "string")  # none where the operator takes numbers as well
        kinds = kind if isinstance(kind, list) else [kind]
        yield path, f"type {[kind for kind in kinds if kind != 'null']}"
    yield from ((path, f"{limit} {node[limit]}") for limit in LIMITS if limit in node)
    if "items" in node:
        yield from limits(node["items"], root, f"{path}[]")
    if isinstance(below := node.get("additionalProperties"), dict):
        yield from limits(below, root, f"{path}{{}}")
    elif "properties" in node:
        yield path, f"other fields {below}"
        for name, child in node["properties"].items():
            yield from limits(child, root, f"{path}.{name}")


def test_schema_asks_of_settings_all_that_the_operator_asks_of_them() -> None:
    # What it let pass, helm would install, and the operator refuse when it starts.
    ours, theirs = SCHEMA["properties"]["config"], OperatorConfig.model_json_schema(by_alias=True)
    missing = [
        limit
        for name, node in theirs["properties"].items()
        if name not in MADE_BY_THE_CHART
        for limit in sorted(
            {*limits(node, theirs, name)} - {*limits(ours["properties"][name], SCHEMA, name)}
        )
    ]
    assert missing == []


def test_readme_names_every_setting() -> None:
    readme = (CHART / "README.md").read_text()
    settings = SCHEMA["properties"]["config"]["properties"]
    assert [s for s in settings if f"`{s}`" not in readme and f"`config.{s}`" not in readme] == []


def test_kueue_is_named_with_the_version_whose_api_is_used() -> None:
    (text,) = (v.description for v in read_values(VALUES_TEXT) if v.path == "kueue.enabled")
    assert f"Kueue {MINIMUM_KUEUE} or newer" in text
    assert f"`{WORKLOADS.api_version}`" in text


def test_defaults_are_the_operators() -> None:
    fields = OperatorConfig().model_dump(by_alias=True)
    differing = {name for name, value in VALUES["config"].items() if fields[name] != value}
    assert differing == set()


def test_the_chart_holds_the_only_copy_of_the_crds() -> None:
    """Flux leaves links out of what it packages, so the chart has the files themselves."""
    files = sorted((CHART / "crds").iterdir())
    links = sorted((CHART.parent.parent / "crds").glob("*.yaml"))
    assert len(files) == 5
    assert not any(path.is_symlink() for path in files)
    assert [link.is_symlink() and link.resolve() for link in links] == files


def test_the_dashboard_asks_for_metrics_and_labels_that_exist() -> None:
    known = exported_metrics()
    for panel in json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]:
        for target in panel["targets"]:
            assert faults_of(target["expr"], known) == set(), panel["title"]
            # A label that the query does not keep leaves an empty legend.
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert re.search(rf"by \([^)]*\b{label}\b", target["expr"]) or (
                    " by " not in target["expr"]
                ), panel["title"]


def test_the_dashboard_shows_each_version_of_an_endpoint_by_itself() -> None:
    panels = json.loads((CHART / "files" / "dashboard.json").read_text())["panels"]
    by_version = {
        panel["title"]
        for panel in panels
        if any(
            re.search(r"\bversion\b|response_model", t["legendFormat"]) for t in panel["targets"]
        )
    }
    assert by_version == {
        "Weight of each version",
        "Requests of each version",
        "Errors of each version",
        "Time to the first token",
        "Time for each token",
        "Tokens",
        "Share of refusals",
        "Share of invalid JSON",
    }
    assert len({panel["id"] for panel in panels}) == len(panels)
