"""The headless Service through which the ranks of a job of several nodes find rank 0."""

from __future__ import annotations

from typing import Any

from finetune_api.names import JOB_LABEL, STAGE_LABEL, child_metadata, service_name
from finetune_api.trainer import Stage
from finetune_operator.config import OperatorConfig


def render_service(
    name: str, *, namespace: str, uid: str, config: OperatorConfig
) -> dict[str, Any]:
    """Render the Service; addresses are published before pods are ready.

    Ranks meet before any of them could be called ready.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": child_metadata(
            service_name(name), namespace=namespace, job=name, uid=uid, stage=Stage.TRAIN
        ),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_LABEL: name, STAGE_LABEL: Stage.TRAIN.value},
            "ports": [{"name": "rendezvous", "port": config.rendezvous_port, "protocol": "TCP"}],
        },
    }


def rendezvous_host(name: str, namespace: str) -> str:
    """Return the DNS name of rank 0's pod."""
    service = service_name(name)
    return f"{service}-0.{service}.{namespace}.svc"
