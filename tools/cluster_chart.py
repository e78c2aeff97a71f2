"""The chart on a cluster where things are shown: ours is installed, another's is left alone."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from typing import Any

import yaml

from cluster_bucket import EXAMPLE
from cluster_place import REPOSITORY, TEAM, Place, run
from demo import say
from manifests import CHART, NAMESPACE, RELEASE, find_helm

MARK = {"finetune.dev/installed-by": "cluster-demo"}  # on everything that is installed from here


def install_chart(place: Place, settings: Mapping[str, Any] | None = None) -> None:
    """Install the chart, or bring the installed one up to date.

    Args:
        place: Where.
        settings: Further settings of the operator (``config`` of the chart).

    Raises:
        RuntimeError: An operator is there that the demo did not install, or helm failed.
    """
    watched: list[str] = []
    if not place.is_ours:
        refuse_foreign_operator(place)
        watched = [TEAM]
    create_namespace(place)  # which the chart's Roles may be for
    # Small enough for a host with two cores, which the operator's pods share.
    config = {
        "allowedEndpoints": [place.endpoint],
        "prepareCpu": "1800m",
        "defaultCpu": "1800m",
        "defaultMemory": "6Gi",
        "defaultCpuPerGpu": "0",
        "defaultMemoryPerGpu": "0Gi",
        "defaultSharedMemory": "256Mi",
        **(settings or {}),
    }
    values = {
        "image": _image(place.images["operator"]),
        "trainerImage": _image(place.images["trainer"]),
        "commonLabels": MARK,
        "watch": {"namespaces": watched},
        "config": config,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(values, file)
        file.flush()
        arguments = ["upgrade", RELEASE, str(CHART), "--install", "--namespace", NAMESPACE]
        arguments += ["--create-namespace", "--values", file.name, "--wait", "--timeout", "300s"]
        run([str(find_helm()), *arguments, "--kubeconfig", str(place.kubeconfig)])
    pods = place.run_kubectl("-n", NAMESPACE, "get", "pods", "-o", "name").split()
    say(f"runs: {', '.join(pods)}")


def refuse_foreign_operator(place: Place) -> None:
    """Go on only where no operator is, or the one of an earlier demo.

    Raises:
        RuntimeError: There is another: it would be overwritten, or both would work the same jobs.
    """
    found: list[str] = []
    selector = "app.kubernetes.io/part-of=finetune-operator,app.kubernetes.io/component=operator"
    text = place.run_kubectl("get", "deployments", "-A", "-l", selector, "-o", "json")
    for each in json.loads(text)["items"]:
        metadata = each["metadata"]
        if not metadata["labels"].items() >= MARK.items():
            found.append(f"deployment {metadata['name']} in namespace {metadata['namespace']}")
    if (values := _release_values(place)) is not None:
        labels = values.get("commonLabels") or {}
        if not labels.items() >= MARK.items():
            found.append(f"Helm release {RELEASE} in namespace {NAMESPACE}")
    if found:
        raise RuntimeError(
            f"this cluster has an operator that the demo did not install: {'; '.join(found)}. "
            "Nothing was changed. To run the example with that operator, put your URIs into "
            f"{(EXAMPLE.folder / 'job.yaml').relative_to(REPOSITORY)} and apply it; to run the "
            "demo, choose another context, or unset USE_EXISTING_CLUSTER for a cluster of its own"
        )


def _release_values(place: Place) -> dict[str, Any] | None:
    """Return what the release was given; None where there is no release, not even a failed one."""
    command = [str(find_helm()), "get", "values", RELEASE, "--namespace", NAMESPACE]
    command += ["--output", "json", "--kubeconfig", str(place.kubeconfig)]
    try:
        return json.loads(run(command)) or {}
    except RuntimeError as error:
        if "release: not found" in str(error):
            return None
        raise


def create_namespace(place: Place) -> None:
    """Create the namespace of the demo's jobs, or bring it up to date."""
    label = {"pod-security.kubernetes.io/enforce": "restricted"}
    metadata = {"name": TEAM, "labels": label}
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata}
    place.run_kubectl("apply", "--server-side", "-f", "-", stdin=json.dumps(namespace))


def _image(reference: str) -> dict[str, str]:
    """Return the chart's values for an image.

    Raises:
        RuntimeError: The reference has neither tag nor digest.
    """
    name, _, digest = reference.partition("@")
    folder, slash, last = name.rpartition("/")  # a colon before the last slash is a port's
    base, _, tag = last.partition(":")
    if not (tag or digest):
        raise RuntimeError(f"the image {reference} has neither tag nor digest: add one")
    return {"repository": f"{folder}{slash}{base}", "tag": tag, "digest": digest}
