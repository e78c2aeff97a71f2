"""The chart: rendered by helm, and parts of it installed on an API server."""

from __future__ import annotations

import contextlib
import functools
import json
import pickle
import subprocess
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import yaml

from chart_readme import read_values
from kit.cluster.devcluster import Cluster
from kit.processes.eventually import eventually
from manifests import (
    CHART,
    NAMESPACE,
    RELEASE,
    HelmNotFoundError,
    RenderError,
    find_helm,
    render_chart,
)

__all__ = [
    "CHART", "NAMESPACE", "RELEASE", "HelmNotFoundError", "RenderError", "chart_objects",
    "IMAGES", "find_helm", "helm", "install_crd", "is_of_people", "read_values", "render",
    "render_chart", "run_helm",
]  # fmt: skip

ROOT = Path(__file__).parents[3]
IMAGES = f"--values={Path(__file__).with_name('images.yaml')}"
"""The images that the chart needs, before what a test sets itself."""
Object = dict[str, Any]
Objects = list[Object]
Render = Callable[[Object], Objects]


@pytest.fixture(scope="session")
def helm() -> Path:
    try:
        return find_helm()
    except HelmNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def render(helm: Path, tmp_path_factory: pytest.TempPathFactory) -> Render:
    """Render the chart with these values; raises RenderError where helm refuses.

    The same values are rendered once, and CRDs, which helm takes as they are, with the first ones.
    Whoever asks gets objects of their own.
    """
    path = tmp_path_factory.mktemp("chart") / "values.yaml"

    @functools.cache
    def crds() -> Objects:
        objects = render_chart([IMAGES], helm=helm)
        return [item for item in objects if item["kind"] == "CustomResourceDefinition"]

    @functools.cache
    def render_once(values: str) -> bytes:
        path.write_text(values)
        others = [IMAGES, "--values", str(path), "--include-crds=false"]
        return pickle.dumps([*crds(), *render_chart(others, helm=helm)])

    def render_values(values: dict[str, Any]) -> Objects:
        objects: Objects = pickle.loads(render_once(yaml.safe_dump(values)))
        return objects

    return render_values


@pytest.fixture(scope="session")
def run_helm(helm: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    def run(verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        images = [IMAGES] if verb in ("lint", "template") else []
        command = [str(helm), verb, *images, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    return run


def install_crd(cluster: Cluster, path: Path = ROOT / "crds") -> None:
    """Install a CRD, or all of a folder, and wait until they are served."""
    cluster.kubectl(
        "apply",
        "--server-side",
        "--force-conflicts",
        "-f",
        str(path),
    )
    # Not `kubectl wait`: it fails on a CRD so new that it has no conditions at all.
    established = "jsonpath={.status.conditions[?(@.type=='Established')].status}"
    for file in sorted(path.glob("*.yaml")) if path.is_dir() else [path]:
        command = ("get", f"crd/{file.stem}.finetune.dev", "-o", established)
        eventually(partial(_answers_true, cluster, command), timeout=30)


@contextlib.contextmanager
def chart_objects(
    cluster: Cluster,
    release: str,
    is_wanted: Callable[[Object], bool],
    values: Mapping[str, object] | None = None,
) -> Iterator[None]:
    """Install some objects of the chart for as long as the block lasts.

    Args:
        cluster: The API server.
        release: Name of the release, so that tests do not share cluster-wide names.
        is_wanted: Which objects of the chart.
        values: Top-level values of the chart.

    Skips the test where there is no helm.
    """
    given = [f"--set-json={key}={json.dumps(value)}" for key, value in (values or {}).items()]
    try:
        objects = render_chart([IMAGES, *given, "--include-crds=false"], release=release)
    except HelmNotFoundError as error:
        pytest.skip(str(error))
    manifest = yaml.safe_dump_all(list(filter(is_wanted, objects)))
    cluster.kubectl("apply", "--server-side", "-f", "-", stdin=manifest)
    try:
        yield
    finally:
        delete = ("delete", "-f", "-", "--ignore-not-found", "--wait=false")
        cluster.kubectl(*delete, stdin=manifest)


def is_of_people(obj: Object) -> bool:
    """Whether an object of the chart says what people may do: roles and admission policies."""
    policies = ("ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding")
    return obj["kind"] in ("ClusterRole", *policies)


def _answers_true(cluster: Cluster, command: tuple[str, ...]) -> bool:
    return cluster.kubectl(*command) == "True"
