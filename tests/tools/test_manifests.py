"""Plain manifests: what the chart renders, without helm, accepted by a real API server."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from devcluster.errors import DevclusterError
from devcluster.programs.binaries import program
from kit.cluster.chart import IMAGES
from manifests import build_manifests, write_manifests

EVERYTHING = [
    "--set=kueue.enabled=true,metrics.dashboard.enabled=true",
    "--set=progress.tls.secretName=progress",
    "--set=watch.namespaces={finetune-a,finetune-b}",
]


@pytest.fixture
def kubectl() -> str:
    try:
        return str(program("kubectl"))
    except DevclusterError as error:
        pytest.skip(f"no kubectl and none can be built here: {error}")


@pytest.mark.usefixtures("helm")
def test_no_trace_of_helm_is_left() -> None:
    assert "helm" not in json.dumps(build_manifests([IMAGES])).lower()


@pytest.mark.usefixtures("helm")
def test_order_is_one_that_can_be_applied() -> None:
    kinds = [item["kind"] for item in build_manifests([IMAGES])]
    assert kinds[:7] == ["Namespace", *["CustomResourceDefinition"] * 5, "ServiceAccount"]
    assert kinds[-1] == "Deployment"


@pytest.mark.usefixtures("helm")
@pytest.mark.parametrize("more", [[], EVERYTHING], ids=["defaults", "everything"])
def test_one_file_and_the_folder_hold_the_same_objects(
    more: list[str], tmp_path: Path, kubectl: str
) -> None:
    arguments = [IMAGES, *more]
    objects = build_manifests(arguments)
    write_manifests(objects, tmp_path)
    write_manifests(objects, tmp_path)  # over what is there
    in_one_file = list(yaml.safe_load_all((tmp_path / "install.yaml").read_text()))
    built = subprocess.run(
        [kubectl, "kustomize", str(tmp_path / "manifests")],
        capture_output=True,
        text=True,
        check=True,
    ).stdout

    def sort(items: Any) -> list[str]:
        return sorted(json.dumps(item, sort_keys=True) for item in items)

    assert sort(in_one_file) == sort(objects) == sort(yaml.safe_load_all(built))


@pytest.mark.slow
@pytest.mark.usefixtures("helm")
@pytest.mark.parametrize("more", [[], EVERYTHING], ids=["defaults", "everything"])
def test_api_server_accepts_the_manifests(
    more: list[str], tmp_path: Path, control_plane: Any
) -> None:
    arguments = [IMAGES, *more]
    write_manifests(build_manifests(arguments), tmp_path)
    # A dry run creates nothing, so what the others live in has to be there.
    for name in ("finetune-system", "finetune-a", "finetune-b"):
        document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    said = control_plane.kubectl(
        *("apply", "--server-side", "--dry-run=server", "--validate=strict"),
        *("--force-conflicts", "-f", str(tmp_path / "install.yaml")),
    )
    assert len(said.splitlines()) == len(build_manifests(arguments))


@pytest.mark.slow
@pytest.mark.usefixtures("helm")
def test_operators_account_may_do_its_work_and_nothing_near_it(control_plane: Any) -> None:
    rights = [item for item in build_manifests([IMAGES]) if "Role" in item["kind"]]
    document = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "finetune-system"}}
    control_plane.kubectl("apply", "-f", "-", stdin=json.dumps(document))
    control_plane.kubectl(*("apply", "--server-side", "-f", "-"), stdin=yaml.safe_dump_all(rights))
    account = "system:serviceaccount:finetune-system:finetune-operator"

    def may(verb: str, resource: str, namespace: str = "default") -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": account, "resourceAttributes": _attributes(verb, resource, namespace)},
        }
        answer = control_plane.kubectl("create", "-f", "-", "-o", "json", stdin=json.dumps(review))
        return bool(json.loads(answer)["status"]["allowed"])

    for verb, resource in (
        ("watch", "finetunejobs.finetune.dev"),
        ("patch", "finetunejobs.finetune.dev/status"),
        ("create", "finetunejobs.finetune.dev"),  # trials
        ("patch", "finetunesweeps.finetune.dev/status"),
        ("watch", "finetuneschedules.finetune.dev"),
        ("patch", "finetuneschedules.finetune.dev/status"),
        ("create", "jobs.batch"),
        ("patch", "finetuneendpoints.finetune.dev/status"),
        ("patch", "deployments.apps"),
        ("create", "secrets"),
        ("create", "tokenreviews.authentication.k8s.io"),
    ):
        assert may(verb, resource), (verb, resource)
    assert may("create", "leases.coordination.k8s.io", "finetune-system")
    for verb, resource in (
        ("get", "secrets"),
        ("list", "secrets"),
        ("update", "finetunejobs.finetune.dev"),
        ("patch", "finetunesweeps.finetune.dev"),
        ("patch", "finetuneschedules.finetune.dev"),
        ("patch", "finetuneendpoints.finetune.dev"),
        ("patch", "secrets"),
        ("patch", "roles.rbac.authorization.k8s.io"),
        ("escalate", "roles.rbac.authorization.k8s.io"),
        ("bind", "roles.rbac.authorization.k8s.io"),
        ("delete", "jobs.batch"),
        ("create", "pods"),
        ("create", "pods/exec"),
        ("create", "serviceaccounts/token"),
        ("get", "leases.coordination.k8s.io"),
        ("list", "nodes"),
    ):
        assert not may(verb, resource), (verb, resource)


def _attributes(verb: str, resource: str, namespace: str) -> dict[str, str]:
    plural, _, rest = resource.partition(".")
    group, _, subresource = rest.partition("/")
    if not rest:
        plural, _, subresource = plural.partition("/")
    found = {"verb": verb, "resource": plural, "group": group, "namespace": namespace}
    return {**found, "subresource": subresource} if subresource else found
