"""Who decides on the number of a server's pods: an autoscaler of Kubernetes, or KEDA."""

from __future__ import annotations

from typing import Any

from finetune_api.v1alpha1.spec.serving import Replicas
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.metadata import (
    Deployed,
    labels_of_server,
    metadata_of,
)

Manifest = dict[str, Any]

CPU_PERCENT = 70
"""Use of requested CPU above which an autoscaler adds a pod."""
KEDA_THRESHOLDS = {"waiting": 4, "running": 64}
"""Requests per pod in each state of vLLM above which KEDA adds one. Those that run count too: a
server that keeps up lets none wait, and must not lose its pods for that."""


def is_scaled(replicas: Replicas) -> bool:
    """Return whether load decides on the number of pods."""
    return replicas.max > replicas.min


def render_scaler(
    namespace: str, deployed: Deployed, replicas: Replicas, config: OperatorConfig
) -> Manifest | None:
    """Render the autoscaler of a server; None if it has none.

    Args:
        namespace: The namespace.
        deployed: The server's Deployment.
        replicas: Bounds on the number of pods.
        config: Where it names a Prometheus, KEDA scales.
    """
    if not is_scaled(replicas):
        return None
    labels = labels_of_server(deployed.name)
    metadata = metadata_of(deployed.name, namespace, labels, [deployed.reference()])
    if config.keda_prometheus_url:
        return _scaled_object(metadata, replicas, config.keda_prometheus_url)
    utilization = {"type": "Utilization", "averageUtilization": CPU_PERCENT}
    target = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"]}
    return {
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": target,
            "minReplicas": replicas.min,
            "maxReplicas": replicas.max,
            "metrics": [{"type": "Resource", "resource": {"name": "cpu", "target": utilization}}],
        },
    }


def _scaled_object(metadata: Manifest, replicas: Replicas, prometheus: str) -> Manifest:
    """Render KEDA's ScaledObject: the trigger that asks for the most pods decides."""
    selector = f'namespace="{metadata["namespace"]}", pod=~"{metadata["name"]}-.*"'
    triggers = [
        {
            "type": "prometheus",
            "metadata": {
                "serverAddress": prometheus,
                "query": f"sum(vllm:num_requests_{state}{{{selector}}})",
                "threshold": str(threshold),
            },
        }
        for state, threshold in KEDA_THRESHOLDS.items()
    ]
    return {
        "apiVersion": "keda.sh/v1alpha1",
        "kind": "ScaledObject",
        "metadata": metadata,
        "spec": {
            "scaleTargetRef": {"name": metadata["name"]},
            "minReplicaCount": replicas.min,
            "maxReplicaCount": replicas.max,
            "triggers": triggers,
        },
    }
