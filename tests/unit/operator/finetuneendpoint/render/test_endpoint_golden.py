"""What the endpoints of a namespace are rendered to: see ``kit.cases.goldens``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import SERVER_LABEL, Owner
from finetune_api.v1alpha1.spec.serving import Serve
from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.front import (
    render_front,
    render_front_parts,
    render_front_policy,
    render_token,
)
from finetune_operator.finetuneendpoint.render.metadata import Deployed
from finetune_operator.finetuneendpoint.render.scaling import render_scaler
from finetune_operator.finetuneendpoint.render.server import (
    render_server,
    render_server_parts,
    render_server_policy,
)
from finetune_operator.finetuneendpoint.servers import Server
from kit.cases.goldens import GOLDEN, check_golden

FOLDER = GOLDEN / "endpoints"
BASE = FOLDER / "vllm"
CASES = sorted(path.parent.name for path in FOLDER.glob("*/in.yaml"))
NAMESPACE = "team-a"
FRONT = Deployed(name="finetune-front", uid="1f6c0c5e-7f5c-4d0e-9a51-3f2f5a0d7a12")


def owners_of(names: list[str]) -> list[Owner]:
    return [
        Owner(namespace=NAMESPACE, name=name, uid=f"uid-of-{name}", kind=ENDPOINT_KIND)
        for name in names
    ]


def server_of(source: dict[str, Any]) -> Server:
    wanted = source["server"]
    return Server(
        namespace=NAMESPACE,
        base_model=wanted["baseModel"],
        base_model_secret=wanted.get("baseModelSecret"),
        storage=ServedStorage.model_validate(wanted["storage"]),
        serve=Serve.model_validate(wanted["serve"]),
        max_rank=wanted.get("maxRank", 64),
        manifest_uri=wanted.get("manifestURI", ""),
    )


def render(folder: Path) -> list[dict[str, Any]]:
    source = yaml.safe_load((folder / "in.yaml").read_text())
    config = OperatorConfig.model_validate(source.get("config") or {})
    server, owners = server_of(source), owners_of(source["owners"])
    deployed = Deployed(name=server.name, uid="uid-of-the-server")
    objects = [
        render_front(NAMESPACE, owners, source.get("keys", ()), config),
        *render_front_parts(NAMESPACE, FRONT),
        render_token(NAMESPACE, FRONT, "the-token"),
        render_server(server, server.serve.replicas, owners, config),
        *render_server_parts(NAMESPACE, deployed),
    ]
    parts = (
        render_scaler(NAMESPACE, deployed, server.serve.replicas, config),
        render_front_policy(NAMESPACE, FRONT, config),
        render_server_policy(NAMESPACE, deployed, config),
    )
    objects += [part for part in parts if part is not None]
    for each in objects:
        _rename(each, server.name)
    return objects


def _rename(value: Any, name: str) -> None:
    """Put a fixed name in the place of the server's, which is a digest, in every text."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, item in items:
        if isinstance(item, str):
            value[key] = item.replace(name, "fts-of-the-case")
        elif isinstance(item, dict | list):
            _rename(item, name)


def pods_of(case: str) -> list[dict[str, Any]]:
    return [
        each["spec"]["template"]["spec"]
        for each in render(FOLDER / case)
        if each["kind"] == "Deployment"
    ]


@pytest.mark.parametrize("case", CASES)
def test_endpoints_render_to_their_golden_objects(case: str) -> None:
    check_golden(case, BASE, render)


@pytest.mark.parametrize("case", CASES)
def test_every_pod_meets_the_restricted_pod_security_standard(case: str) -> None:
    for pod in pods_of(case):
        assert pod["automountServiceAccountToken"] is False
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        kinds = {key for volume in pod["volumes"] for key in volume if key != "name"}
        assert kinds <= {"emptyDir", "persistentVolumeClaim", "projected", "secret"}
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            context = container["securityContext"]
            assert context["allowPrivilegeEscalation"] is False
            assert context["readOnlyRootFilesystem"] is True
            assert context["capabilities"] == {"drop": ["ALL"]}


@pytest.mark.parametrize("case", CASES)
def test_the_engine_sees_no_secret_no_token_and_writes_only_its_own_folders(case: str) -> None:
    (engine,) = [c for pod in pods_of(case) for c in pod.get("initContainers", [])]
    for mount in engine["volumeMounts"]:
        assert not mount["name"].startswith(("account", "token", "credentials", "keys"))
        assert mount.get("readOnly") or mount["name"] in ("engine-tmp", "shm")


@pytest.mark.parametrize(
    ("base", "seen"),
    [
        ("hf://org/model", None),
        ("pvc://outputs/bases/small", ("/bases/small", "bases/small")),
        ("pvc://outputs/bases/a%20b/", ("/bases/a b", "bases/a b")),
        ("pvc://outputs//bases/./small", ("/bases/small", "bases/small")),
        ("pvc://outputs/bases/llama:8b", ("/bases", "bases")),
        ("pvc://outputs/hub/models--a/snapshots/1", ("/hub/models--a", "hub/models--a")),
        ("pvc://outputs", ("", None)),
    ],
)
def test_the_engine_sees_of_the_claim_of_outputs_only_a_base_model(base: str, seen: Any) -> None:
    storage = ServedStorage(uri="pvc://outputs/team-a")
    server = Server(namespace=NAMESPACE, base_model=base, storage=storage, serve=Serve())
    rendered = render_server(server, server.serve.replicas, [], OperatorConfig(vllm_image="v:1"))
    (engine,) = rendered["spec"]["template"]["spec"]["initContainers"]
    found = [
        (each["mountPath"].partition("/outputs")[2], each.get("subPath"))
        for each in engine["volumeMounts"]
        if each["name"].startswith("claim-")
    ]
    assert found == ([] if seen is None else [seen])


@pytest.mark.parametrize("case", CASES)
def test_no_object_that_endpoints_share_has_a_controller(case: str) -> None:
    for each in render(FOLDER / case):
        owners = each["metadata"]["ownerReferences"]
        if owners[0]["kind"] == ENDPOINT_KIND:
            assert not [owner for owner in owners if owner.get("controller")]


def test_the_order_of_owners_and_secrets_changes_nothing() -> None:
    config = OperatorConfig()
    owners = owners_of(["a", "b", "c"])
    one = render_front(NAMESPACE, owners, ["y", "x"], config)
    assert render_front(NAMESPACE, reversed(owners), ["x", "y", "x"], config) == one


def test_another_number_of_replicas_is_the_same_server() -> None:
    source = yaml.safe_load((BASE / "in.yaml").read_text())
    before = server_of(source).name
    source["server"]["serve"] = {"replicas": {"min": 2, "max": 5}}
    assert server_of(source).name == before
    deployment = next(each for each in render(BASE) if SERVER_LABEL in each["metadata"]["labels"])
    assert deployment["spec"]["replicas"] == 1


@pytest.mark.parametrize("case", CASES)
def test_a_drain_takes_one_ready_pod_at_a_time_and_every_pod_that_is_not_ready(case: str) -> None:
    budgets = [each["spec"] for each in render(FOLDER / case) if "Budget" in each["kind"]]
    assert len(budgets) == 2  # of the front and of the server
    for budget in budgets:
        assert budget["maxUnavailable"] == 1
        assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
