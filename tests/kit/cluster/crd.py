"""The generated CRDs: put on a test's API server, and asked what they refuse of a status."""

from __future__ import annotations

from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import orjson
import pytest
import yaml
from jsonschema import Draft202012Validator, FormatChecker

from devcluster import DevclusterError, module_folder
from kit.cluster.devcluster import Cluster
from kit.cluster.raw_api import APPLY, RawApi
from kit.processes.eventually import eventually

FOLDER = Path(__file__).parents[3] / "crds"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install_crd(api: RawApi) -> None:
    """Apply the CRDs and wait until all of their kinds are served."""
    for file in sorted(FOLDER.glob("*.yaml")):
        _install(api, file)


def install_gateway_api(cluster: Cluster) -> None:
    """Install HTTPRoutes of the Gateway API, from the Go module that Kueue is built with."""
    try:
        module = module_folder("kueue", "sigs.k8s.io/gateway-api")
    except DevclusterError as error:
        pytest.skip(f"no Gateway API: {error}")
    crd = "config/crd/standard/gateway.networking.k8s.io_httproutes.yaml"
    cluster.kubectl("apply", "--server-side", "-f", str(module / crd))


def _install(api: RawApi, file: Path) -> None:
    body = yaml.safe_load(file.read_text())
    name = body["metadata"]["name"]
    path = f"{CRDS}/{name}?fieldManager=test&force=true&fieldValidation=Strict"
    status, answer = api.send("PATCH", path, body, content_type=APPLY)
    assert status in (200, 201), answer["message"]

    def is_served() -> bool:
        _, crd = api.send("GET", f"{CRDS}/{name}")
        conditions = {c["type"]: c["status"] for c in crd.get("status", {}).get("conditions", [])}
        assert conditions.get("NonStructuralSchema") is None, crd["status"]["conditions"]
        if conditions.get("Established") != "True":
            return False
        return api.send("GET", f"/apis/finetune.dev/v1alpha1/{file.stem}")[0] == 200

    eventually(is_served, timeout=20)


@cache
def _status_schema(plural: str) -> dict[str, Any]:
    body = yaml.safe_load((FOLDER / f"{plural}.yaml").read_text())
    (version,) = body["spec"]["versions"]
    schema: dict[str, Any] = version["schema"]["openAPIV3Schema"]["properties"]["status"]
    return schema


def status_problems(status: Any, plural: str = "finetunejobs") -> list[str]:
    """Return why the API server would refuse a status by the schema of the generated CRD.

    What jsonschema does not know is looked at here: keys of lists, 64 bits, and texts that cannot
    be sent. An unknown field counts as well: server-side apply refuses it.
    """
    orjson.dumps(status)
    checker = FormatChecker(formats=())
    checker.checks("date-time")(lambda text: not isinstance(text, str) or _is_moment(text))
    checker.checks("int64")(lambda n: not isinstance(n, int) or -(2**63) <= n < 2**63)
    schema = _status_schema(plural)
    errors = Draft202012Validator(schema, format_checker=checker).iter_errors(status)
    return [f"{error.json_path}: {error.message}" for error in errors] + _alike(schema, status, "$")


def _is_moment(text: str) -> bool:
    return datetime.fromisoformat(text).tzinfo is not None and "T" in text


def _alike(schema: dict[str, Any], value: Any, place: str) -> list[str]:
    """Return what jsonschema cannot say: items with one key, and fields nobody declared."""
    problems: list[str] = []
    if place != "$" and value in ({}, []):
        problems.append(f"{place}: null for server-side apply, where it was not empty before")
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        for name, item in value.items():
            if name in fields:
                problems += _alike(fields[name], item, f"{place}.{name}")
            elif "additionalProperties" not in schema:
                problems.append(f"{place}.{name}: not declared")
    elif isinstance(value, list):
        for number, item in enumerate(value):
            problems += _alike(schema["items"], item, f"{place}[{number}]")
        keys = schema.get("x-kubernetes-list-map-keys")
        if keys and len({tuple(item.get(key) for key in keys) for item in value}) < len(value):
            problems.append(f"{place}: two items have the same {keys}")
    return problems


def status_at_limits(plural: str = "finetunejobs", *, beyond: int = 0) -> Any:
    """Return a status with every field, each as long, large and full as the schema lets it be.

    Args:
        plural: The kind.
        beyond: How much more: characters of each text, items of each list, to each number.
    """
    return _filled(_status_schema(plural), beyond, 0)


def _filled(schema: dict[str, Any], beyond: int, number: int) -> Any:
    match schema["type"]:
        case "object" if "properties" in schema:
            fields = schema["properties"]
            return {name: _filled(field, beyond, number) for name, field in fields.items()}
        case "object":
            most = range(schema["maxProperties"] + beyond)
            value = schema["additionalProperties"]
            return {f"key-{each}": _filled(value, beyond, each) for each in most}
        case "array":
            most, items = schema["maxItems"], schema["items"]
            key = next(iter(schema.get("x-kubernetes-list-map-keys", ())), "")
            if "enum" in items.get("properties", {}).get(key, ()):
                most = min(most, len(items["properties"][key]["enum"]) - beyond)
            return [_filled(items, beyond, each) for each in range(most + beyond)]
        case "string" if "enum" in schema:
            return schema["enum"][number % len(schema["enum"])]
        case "string" if schema.get("format") == "date-time":
            fraction = "1" * (schema["maxLength"] - 26 + beyond)
            return f"2026-11-24T12:00:00.{fraction}+00:00"
        case "string":
            # The widest characters: the bound is one of characters, and not of bytes.
            return f"{number:03}".ljust(schema["maxLength"] + beyond, "\U0001f600")
        case "integer":
            return schema.get("maximum", 2**63 - 1) + beyond
    return True
