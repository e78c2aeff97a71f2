"""Kueue as a process of this host, beside a control plane that has no nodes.

The same manifests as on a node, without the deployment. The API server reaches the webhooks through
a Service of type ExternalName that names this host, so that names and certificates stay Kueue's
own; the files that a kubelet would mount from its Secret are written here.

``visibility`` needs a folder outside the cluster's own, `/visibility`, which Kueue has fixed; it is
off unless asked for.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from devcluster.control_plane.apiclient import wait_until
from devcluster.control_plane.controlplane import ControlPlane
from devcluster.kueue.install import MODULE, NAMESPACE, webhooks_answer
from devcluster.ports import PortClaims
from devcluster.programs.binaries import ensure_built, module_folder
from devcluster.progress import step

SECRET = "kueue-webhook-server-cert"
SERVICES = {"kueue-webhook-service": "webhook", "kueue-visibility-server": "visibility"}
CONFIG = "controller_manager_config.yaml"
VISIBILITY_FOLDER = Path("/visibility")
GROUP = "kueue.x-k8s.io"
JOB_FRAMEWORK = "batch/job"

Body = dict[str, Any]


def start_kueue(
    cluster: ControlPlane,
    *,
    settings: Mapping[str, Any] | None = None,
    visibility: bool = False,
    only_jobs: bool = False,
) -> None:
    """Run Kueue for a control plane until that is removed.

    Args:
        cluster: A control plane of this host, with a controller-manager.
        settings: Fields of Kueue's configuration that differ, for example ``waitForPodsReady``.
        visibility: Whether it tells places in its queues; writes to `VISIBILITY_FOLDER`.
        only_jobs: Whether it is set up for Jobs alone and for one version of its own API: it is
            asked about no pods, and the API server need not keep each Workload in an older version
            too, which Kueue converts at every change.

    Raises:
        DevclusterError: it could not be built or does not start.
    """
    folder = ensure_built("kueue")
    home = cluster.folder / "kueue"
    certificates = home / "certificates"
    certificates.mkdir(parents=True, exist_ok=True)
    claims = PortClaims(cluster.folder)
    ports = {name: claims.claim() for name in ("webhook", "visibility", "health")}
    with step("Kueue beside the control plane"):
        text = cluster.kubectl(
            "kustomize", str(module_folder("kueue", MODULE) / "config" / "default")
        )
        documents = [each for each in yaml.load_all(text, yaml.CSafeLoader) if each]
        config = render_config(documents, ports, certificates, visibility=visibility)
        if only_jobs:
            documents = for_jobs_alone(documents)
            config["integrations"] = {"frameworks": [JOB_FRAMEWORK]}
        (home / CONFIG).write_text(yaml.safe_dump({**config, **(settings or {})}))
        items = for_this_host(documents, ports, visibility=visibility)
        manifests = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        cluster.kubectl("apply", "--server-side", "--force-conflicts", "-f", "-", stdin=manifests)
        process = cluster.launch(
            "kueue",
            folder / "kueue",
            f"--config={home / CONFIG}",
            f"--kubeconfig={cluster.kubeconfig}",
            "--zap-log-level=2",
        )
        wait_until(
            "Kueue's certificates",
            lambda: mount_certificates(cluster, certificates),
            process=process,
            poll_seconds=0.3,
        )
        wait_until(
            "Kueue's webhooks",
            lambda: webhooks_answer(cluster),
            process=process,
            poll_seconds=0.3,
        )


def for_this_host(
    documents: list[Body], ports: Mapping[str, int], *, visibility: bool
) -> list[Body]:
    """Return Kueue's manifests with its Services on this host, and without its deployment."""
    kept = []
    for document in documents:
        kind, name = document["kind"], document["metadata"]["name"]
        if kind == "Deployment" or (kind == "APIService" and not visibility):
            continue
        if kind == "Service":
            if name not in SERVICES:
                continue
            document["spec"] = {"type": "ExternalName", "externalName": "localhost"}
        if kind == "APIService":
            document["spec"]["service"]["port"] = ports["visibility"]
        for client in _webhook_clients(document):
            client["service"]["port"] = ports["webhook"]
        kept.append(document)
    return kept


def for_jobs_alone(documents: list[Body]) -> list[Body]:
    """Change Kueue's manifests so that it minds Jobs only; return them.

    It is asked about no other workloads, and of its own kinds the API server serves the stored
    version alone.
    """
    for document in documents:
        if document["kind"] == "CustomResourceDefinition":
            for version in document["spec"]["versions"]:
                version["served"] = version["storage"]
        if "webhooks" in document:
            document["webhooks"] = [each for each in document["webhooks"] if _minds_jobs(each)]
    return documents


def _minds_jobs(webhook: Body) -> bool:
    """Tell whether a webhook is asked about nothing but Jobs and Kueue's own kinds."""
    return all(
        group == GROUP or (group == "batch" and rule["resources"] == ["jobs"])
        for rule in webhook["rules"]
        for group in rule["apiGroups"]
    )


def _webhook_clients(document: Body) -> list[Body]:
    """Return the ``clientConfig`` of every webhook in a document."""
    found = [webhook["clientConfig"] for webhook in document.get("webhooks") or ()]
    if document["kind"] == "CustomResourceDefinition":
        conversion = document["spec"].get("conversion") or {}
        client = (conversion.get("webhook") or {}).get("clientConfig")
        found += [client] if client else []
    return found


def render_config(
    documents: list[Body], ports: Mapping[str, int], certificates: Path, *, visibility: bool
) -> Body:
    """Return Kueue's own configuration with the addresses of this host."""
    texts = [each["data"][CONFIG] for each in documents if CONFIG in (each.get("data") or {})]
    config: Body = yaml.safe_load(texts[0])
    config["health"] = {"healthProbeBindAddress": f"127.0.0.1:{ports['health']}"}
    config["metrics"] = {"bindAddress": "0"}
    config["webhook"] = {
        "port": ports["webhook"],
        "host": "127.0.0.1",
        "certDir": str(certificates),
    }
    config["leaderElection"] = {"leaderElect": False}
    if visibility:
        config["visibilityServer"] = {"bindAddress": "127.0.0.1", "bindPort": ports["visibility"]}
    else:
        config["featureGates"] = {"VisibilityOnDemand": False}
    return config


def mount_certificates(cluster: ControlPlane, folder: Path) -> bool:
    """Write the webhooks' Secret to files, once Kueue has filled it."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets/{SECRET}"
    status, raw = cluster.client().send("GET", path)
    data = (json.loads(raw).get("data") or {}) if status == 200 else {}
    if "tls.crt" not in data:
        return False
    for name, value in data.items():
        (folder / name).write_bytes(base64.b64decode(value))
    return True
