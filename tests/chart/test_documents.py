"""What the chart says about itself agrees with itself; needs no helm."""

from __future__ import annotations

import functools
import json
import operator
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic.alias_generators import to_camel

import finetune_operator
from finetune_operator.config import OperatorConfig
from finetune_operator.integrations.kueue.workload import MINIMUM_KUEUE, WORKLOADS
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.tenants import NamespacePolicy
from kit.cluster.chart import CHART, read_values

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
    assert len(files) == 4
    assert not any(path.is_symlink() for path in files)
    assert [link.is_symlink() and link.resolve() for link in links] == files


@pytest.mark.parametrize("file", ["files/dashboard.json", "templates/prometheusrule.yaml"])
def test_dashboard_and_alerts_use_metrics_that_exist(file: str) -> None:
    exported = {"container_memory_working_set_bytes"}  # the kubelet's, not ours
    registry = CollectorRegistry()
    KubeMetrics(registry)
    for family in registry.collect():
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}
        exported |= {family.name + s for s in suffixes.get(family.type, [""])}
    for path in Path(finetune_operator.__path__[0]).rglob("*.py"):
        text = path.read_text()
        plain = r'(?:Counter|Gauge|CounterMetricFamily|GaugeMetricFamily)\(\s*"(finetune_\w+)"'
        exported |= set(re.findall(plain, text))
        for name in re.findall(r'Histogram\(\s*"(finetune_\w+)"', text):
            exported |= {name + suffix for suffix in ("_bucket", "_sum", "_count")}
    # A metric is what stands before a selector.
    used = set(re.findall(r"\b([a-z_]+_[a-z_]+)\{", (CHART / file).read_text()))
    used.discard("label_values")
    assert used
    assert used <= exported
