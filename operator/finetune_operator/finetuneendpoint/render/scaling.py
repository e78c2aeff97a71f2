"""Who decides on the number of a server's pods: an autoscaler of Kubernetes, or KEDA."""

from __future__ import annotations

from typing import Any

from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.config import OperatorConfig

Manifest = dict[str, Any]

CPU_PERCENT = 70
"""Use of requested CPU above which an autoscaler adds a pod."""
MAX_WAITING = 4
"""Waiting requests per pod above which KEDA adds one."""


def is_scaled(replicas: Replicas) -> bool:
    """Return whether load decides on the number of pods."""
    return replicas.max > replicas.min


def render_scaling(
    metadata: Manifest, replicas: Replicas, config: OperatorConfig
) -> list[Manifest]:
    """Render the autoscaler of a server, if it has one.

    Args:
        metadata: Metadata of the server's objects, whose name is the Deployment's.
        replicas: Bounds on the number of pods.
        config: Where a Prometheus is named, KEDA scales.
    """
    if not is_scaled(replicas):
        return []
    if config.keda_prometheus_url:
        return [_scaled_object(metadata, replicas, config.keda_prometheus_url)]
    utilization = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"]}
    autoscaler = {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": max(1, replicas.min),
            "maxReplicas": replicas.max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
        },
    }
    return [autoscaler]


def _scaled_object(metadata: Manifest, replicas: Replicas, prometheus: str) -> Manifest:
    """Render KEDA's ScaledObject, which goes by the requests that wait in vLLM."""
    selector = f'namespace="{metadata["namespace"]}", pod=~"{metadata["name"]}-.*"'
    trigger = {
        "type": "prometheus",
        "metadata": {
            "serverAddress": prometheus,
            "query": f"sum(vllm:num_requests_waiting{{{selector}}})",
            "threshold": str(MAX_WAITING),
        },
    }
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"name": metadata["name"]},
            "minReplicaCount": replicas.min,
            "maxReplicaCount": replicas.max,
            "triggers": [trigger],
        },
    }
