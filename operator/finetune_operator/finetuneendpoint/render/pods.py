"""What the pods of fronts and servers have in common: restricted Pod Security, probes, drain."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from finetune_api.names import SERVING, SERVING_TOKEN_SECRET
from finetune_api.protocol.serving import REPORT_PORT, REPORT_PORT_NAME
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.beside import environment_of
from finetune_operator.finetunejob.render.claims import CLAIMS_DIR, parse_claim_uri
from finetune_operator.finetunejob.render.security import (
    container_security,
    pod_security,
    without_cloud_identity,
)
from finetune_operator.finetunejob.render.volumes import CREDENTIALS_DIR

Manifest = dict[str, Any]

ACCOUNT_DIR = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN_DIR = "/var/run/secrets/finetune.dev/serving"  # noqa: S105 - a path, not a secret
TOKEN_FILE = f"{TOKEN_DIR}/token"
TOKEN_SECONDS = 3600
ANSWER_SECONDS = 125
"""A pod that ends has this time for open answers and connections. It accepts connections in the
first five seconds: until then, Services may send requests to it."""
GRACE_SECONDS = ANSWER_SECONDS + 25
"""Time between the request to end and the kill; the engine ends after its agent."""
HOME = "/tmp"  # noqa: S108 - the container's own emptyDir


def account_volume() -> Manifest:
    """Return the ServiceAccount's token as client libraries expect it, for one container."""
    field = {"apiVersion": "v1", "fieldPath": "metadata.namespace"}
    sources: list[Manifest] = [
        {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
        {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
        {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": field}]}},
    ]
    return {"name": "account", "projected": {"defaultMode": 0o440, "sources": sources}}


def trusted_volumes() -> tuple[list[Manifest], list[Manifest]]:
    """Return volumes and mounts of a container that follows endpoints and knows the front."""
    secret = {"secretName": SERVING_TOKEN_SECRET, "defaultMode": 0o440}
    volumes = [account_volume(), {"name": "token", "secret": secret}]
    mounts = [
        {"name": "account", "mountPath": ACCOUNT_DIR, "readOnly": True},
        {"name": "token", "mountPath": TOKEN_DIR, "readOnly": True},
    ]
    return volumes, mounts


def storage_volumes(
    prefix: str, uris: Iterable[str], secrets: Iterable[str]
) -> tuple[list[Manifest], list[Manifest]]:
    """Return volumes and mounts of a container that opens storage: Secrets and claims.

    Args:
        prefix: Of the volumes' names.
        uris: Places that it opens; those of claims are mounted.
        secrets: Secrets that they are reached with. One that does not exist delays no pod.
    """
    volumes: list[Manifest] = []
    mounts: list[Manifest] = []
    for number, secret in enumerate(sorted(set(secrets))):
        name = f"{prefix}-{number}"
        source = {"secretName": secret, "optional": True, "defaultMode": 0o440}
        volumes.append({"name": name, "secret": source})
        path = f"{CREDENTIALS_DIR}/{secret}"
        mounts.append({"name": name, "mountPath": path, "readOnly": True})
    found = (parse_claim_uri(uri) for uri in uris)
    for number, claim in enumerate(sorted({each[0] for each in found if each is not None})):
        name = f"{prefix}-claim-{number}"
        volumes.append({"name": name, "persistentVolumeClaim": {"claimName": claim}})
        mounts.append({"name": name, "mountPath": f"{CLAIMS_DIR}/{claim}"})
    return volumes, mounts


def reporting() -> Manifest:
    """Return port and probes of a container that answers the cluster: probes, report, metrics.

    All pods of a busy node answer late together. So a late answer takes no pod out of rotation
    before three probes of five seconds: a Service without pods refuses every request.
    """

    def probe(path: str, **settings: int) -> Manifest:
        return {"httpGet": {"path": path, "port": REPORT_PORT}, "timeoutSeconds": 5, **settings}

    port = {"name": REPORT_PORT_NAME, "containerPort": REPORT_PORT, "protocol": "TCP"}
    return {
        "ports": [port],
        "startupProbe": probe("/healthz", periodSeconds=1, failureThreshold=120),
        "livenessProbe": probe("/healthz", periodSeconds=10, failureThreshold=6),
        "readinessProbe": probe("/readyz", periodSeconds=2, failureThreshold=3),
    }


def limited(limits: dict[str, str]) -> Manifest:
    """Return resources of which as much is requested as is allowed."""
    return {"requests": dict(limits), "limits": limits}


def render_container(
    name: str,
    image: str,
    *,
    command: list[str],
    environment: dict[str, str],
    resources: Manifest,
    mounts: list[Manifest],
) -> Manifest:
    """Render a container that ends after it has drained."""
    return {
        "name": name,
        "image": image,
        "command": command,
        "env": environment_of(environment),
        "resources": resources,
        "volumeMounts": mounts,
        "securityContext": container_security(),
    }


def trainer_policy(container: Manifest, config: OperatorConfig) -> Manifest:
    """Return a container of the trainer's image with the administrator's pull policy."""
    return {**container, "imagePullPolicy": config.trainer_image_pull_policy}


def render_deployment(
    metadata: Manifest,
    *,
    labels: dict[str, str],
    selector: dict[str, str],
    containers: list[Manifest],
    volumes: list[Manifest],
    config: OperatorConfig,
    replicas: int | None,
    without_identity: str,
    extra: Manifest,
) -> Manifest:
    """Render a Deployment that takes no pod away before its successor is ready.

    Args:
        metadata: Metadata of the Deployment.
        labels: Labels of its pods.
        selector: The labels that select its pods.
        containers: Containers of a pod.
        volumes: Volumes of a pod.
        config: The administrator's settings.
        replicas: Number of pods; None where an autoscaler decides.
        without_identity: Container that opens no storage.
        extra: Further fields of a pod.
    """
    pod: Manifest = {
        "serviceAccountName": SERVING,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": GRACE_SECONDS,
        "securityContext": pod_security(),
        "containers": containers,
        "volumes": volumes,
        **extra,
    }
    if config.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in config.image_pull_secrets]
    head = {"labels": dict(labels), "annotations": without_cloud_identity(without_identity)}
    surge = {"maxUnavailable": 0, "maxSurge": 1}
    spec: Manifest = {
        "revisionHistoryLimit": 2,
        "selector": {"matchLabels": selector},
        "strategy": {"type": "RollingUpdate", "rollingUpdate": surge},
        "template": {"metadata": head, "spec": pod},
    }
    if replicas is not None:
        spec["replicas"] = replicas
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata, "spec": spec}


def render_service(
    metadata: Manifest, *, selector: dict[str, str], port: int, target: int
) -> Manifest:
    """Render the Service in front of a Deployment's pods."""
    ports = [{"name": "http", "port": port, "targetPort": target, "protocol": "TCP"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {"selector": selector, "ports": ports},
    }


def render_policy(
    metadata: Manifest,
    *,
    selector: dict[str, str],
    port: int,
    clients: list[Manifest],
    config: OperatorConfig,
    report_ports: Sequence[int] = (REPORT_PORT,),
) -> Manifest | None:
    """Render who reaches a Deployment's pods; None if nobody has said who reads their reports.

    An engine opens ports of its own for its processes, at all addresses of the pod.

    Args:
        metadata: Metadata of the policy.
        selector: The labels that select the pods.
        port: Port of the pods that answers requests.
        clients: Peers that may ask there; all if there are none.
        config: The administrator's settings.
        report_ports: Ports of the pods that have reports and metrics.
    """
    if not config.serving_report_peers:
        return None
    asked = [{"port": port, "protocol": "TCP"}]
    reported = [{"port": each, "protocol": "TCP"} for each in report_ports]
    ingress = [
        {"ports": asked, **({"from": clients} if clients else {})},
        {"ports": reported, "from": config.serving_report_peers},
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": metadata,
        "spec": {
            "podSelector": {"matchLabels": selector},
            "policyTypes": ["Ingress"],
            "ingress": ingress,
        },
    }


def render_budget(metadata: Manifest, *, selector: dict[str, str]) -> Manifest:
    """Render the budget by which a drain takes one of a Deployment's pods at a time.

    A pod that is not ready answers nobody, so it never stops a drain.
    """
    return {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": metadata,
        "spec": {
            "maxUnavailable": 1,
            "unhealthyPodEvictionPolicy": "AlwaysAllow",
            "selector": {"matchLabels": selector},
        },
    }
