"""The headless Service through which the ranks of a job of several nodes find rank 0."""

from __future__ import annotations

from typing import Any

from finetune_api.names import JOB_LABEL, STAGE_LABEL, Owner, service_name
from finetune_api.protocol.trainer import Stage
from finetune_operator.config import OperatorConfig


def render_service(owner: Owner, config: OperatorConfig) -> dict[str, Any]:
    """Render the Service; addresses are published before pods are ready.

    Ranks meet before any of them could be called ready.
    """
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": owner.metadata_of(service_name(owner.name), Stage.TRAIN),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {JOB_LABEL: owner.name, STAGE_LABEL: Stage.TRAIN.value},
            "ports": [{"name": "rendezvous", "port": config.rendezvous_port, "protocol": "TCP"}],
        },
    }


def rendezvous_host(owner: Owner) -> str:
    """Return the DNS name of rank 0's pod."""
    service = service_name(owner.name)
    return f"{service}-0.{service}.{owner.namespace}.svc"
