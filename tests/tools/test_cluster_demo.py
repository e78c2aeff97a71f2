"""``make cluster-demo`` on somebody else's cluster leaves their operator alone."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import cluster_chart
from cluster_chart import install_chart
from cluster_place import TEAM, Place
from devcluster.programs.binaries import program
from devcluster.teardown import remove_cluster
from kit.cluster.chart import IMAGES
from manifests import CHART, NAMESPACE, RELEASE, render_chart

DIGEST = "sha256:" + "0" * 64
Helm = Callable[..., subprocess.CompletedProcess[str]]


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("demo:1", ("demo", "1", "")),
        ("registry.example.org:5000/team/demo:1", ("registry.example.org:5000/team/demo", "1", "")),
        (f"registry.example.org/demo@{DIGEST}", ("registry.example.org/demo", "", DIGEST)),
        (f"localhost:5000/demo:1@{DIGEST}", ("localhost:5000/demo", "1", DIGEST)),
    ],
)
def test_image_references_become_values(reference: str, expected: tuple[str, str, str]) -> None:
    values = cluster_chart._image(reference)
    assert (values["repository"], values["tag"], values["digest"]) == expected


@pytest.mark.parametrize("reference", ["demo", "registry.example.org:5000/demo"])
def test_image_without_tag_or_digest_is_refused(reference: str) -> None:
    with pytest.raises(RuntimeError, match="has neither tag nor digest"):
        cluster_chart._image(reference)


@pytest.fixture(scope="module")
def cluster(control_plane_factory: Callable[..., Any], helm: Path) -> Iterator[Any]:
    """An empty cluster of this module alone: it is searched for operators."""
    cluster = control_plane_factory(controllers=None)
    yield cluster
    remove_cluster(cluster.name)


@pytest.fixture
def place(cluster: Any, monkeypatch: pytest.MonkeyPatch) -> Place:
    def run_at_once(command: Sequence[str], **rest: Any) -> str:
        # No node runs the operator's pods: nothing to wait for.
        return run([each for each in command if each != "--wait"], **rest)

    run = cluster_chart.run
    monkeypatch.setattr(cluster_chart, "run", run_at_once)
    return Place(
        kubeconfig=cluster.kubeconfig,
        kubectl=str(program("kubectl")),
        endpoint="http://127.0.0.1:9",
        keys=("id", "secret"),
        images={"operator": f"example.org/operator@{DIGEST}", "trainer": "trainer:1"},
        is_ours=False,
    )


@pytest.mark.slow
def test_demo_installs_its_own_operator_and_touches_no_other(
    place: Place, cluster: Any, run_helm: Helm
) -> None:
    def helm(*arguments: str) -> str:
        where = ("--kubeconfig", str(place.kubeconfig), "--namespace", NAMESPACE)
        done = run_helm(*arguments, *where)
        assert done.returncode == 0, done.stderr
        return done.stdout

    # On an empty cluster, and again over its own release.
    for _ in range(2):
        install_chart(place)
    values = json.loads(helm("get", "values", RELEASE, "--output", "json"))
    assert values["watch"]["namespaces"] == [TEAM]
    text = cluster.kubectl("-n", NAMESPACE, "get", "deployments", "-o", "json")
    (deployment,) = json.loads(text)["items"]
    (container,) = deployment["spec"]["template"]["spec"]["containers"]
    assert container["image"] == place.images["operator"]

    # Another operator, by whatever means it came.
    cluster.kubectl("create", "namespace", "platform")
    objects = render_chart([IMAGES], release="production", namespace="platform")
    other = next(each for each in objects if each["kind"] == "Deployment")
    cluster.kubectl("apply", "-f", "-", stdin=json.dumps(other))
    with pytest.raises(RuntimeError, match=r"in namespace platform\. Nothing was changed"):
        install_chart(place)
    cluster.kubectl("-n", "platform", "delete", "deployment", other["metadata"]["name"])

    # A release under the same name that is somebody's own.
    helm("uninstall", RELEASE)
    helm("install", RELEASE, str(CHART), IMAGES, "--set", "replicas=3")
    with pytest.raises(RuntimeError, match=f"Helm release {RELEASE} in namespace {NAMESPACE}"):
        install_chart(place)
    assert json.loads(helm("get", "values", RELEASE, "--output", "json"))["replicas"] == 3
