"""What tells an inference gateway how to divide requests among the versions of an endpoint.

The gateway chooses a version by weight and writes its name into the request. Fronts stay behind it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from finetune_api.names import FRONT, MANAGED_BY, MANAGED_BY_LABEL, Owner
from finetune_operator.finetuneendpoint.render.metadata import (
    Deployed,
    labels_of_front,
    metadata_of,
)

Manifest = dict[str, Any]

AI_ROUTE = "AIGatewayRoute"
REWRITE = "InferenceModelRewrite"
_AI_GROUP = "aigateway.envoyproxy.io"
_BACKEND_GROUP = "gateway.envoyproxy.io"
_MODEL_HEADER = "x-ai-eg-model"
"""Header in which Envoy AI Gateway matches the model of the body."""


def kind_of(gateway: str) -> str:
    """Return the kind with the weights for a configured gateway; empty if none is configured."""
    return {"Gateway": AI_ROUTE, "InferencePool": REWRITE}.get(gateway.partition("/")[0], "")


def public_model(endpoint: Owner) -> str:
    """Return the name of an endpoint at a gateway, which namespaces may share."""
    return f"{endpoint.namespace}.{endpoint.name}"


def render_split(endpoint: Owner, weights: Iterable[tuple[int, int]], gateway: str) -> Manifest:
    """Render the object that holds the weights of one endpoint.

    All fields are written out, also those with a default, so that a stored object can be compared.

    Args:
        endpoint: The endpoint, which owns the object.
        weights: Version and percent of the requests, of each version that gets some; at least one.
        gateway: ``gateway`` of the configuration; not empty.
    """
    named = [(f"{endpoint.name}@{version}", weight) for version, weight in weights]
    render = _rewrite if kind_of(gateway) == REWRITE else _ai_route
    owners = [endpoint.reference()]
    labels = {MANAGED_BY_LABEL: MANAGED_BY}
    metadata = metadata_of(endpoint.name, endpoint.namespace, labels, owners)
    return {**render(endpoint, named, gateway), "metadata": metadata}


def _rewrite(endpoint: Owner, named: list[tuple[str, int]], gateway: str) -> Manifest:
    # A client that names a version does not choose it: its request is divided like all others.
    names = [public_model(endpoint), endpoint.name, *(model for model, _ in named)]
    rule = {
        "matches": [{"model": {"type": "Exact", "value": name}} for name in names],
        "targets": [{"modelRewrite": model, "weight": weight} for model, weight in named],
    }
    pool = {"group": "inference.networking.k8s.io", "kind": "InferencePool"}
    spec = {"poolRef": {**pool, "name": gateway.partition("/")[2]}, "rules": [rule]}
    return {"apiVersion": "llm-d.ai/v1alpha2", "kind": REWRITE, "spec": spec}


def _ai_route(endpoint: Owner, named: list[tuple[str, int]], gateway: str) -> Manifest:
    _, namespace, name = gateway.split("/")
    parent = {"group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": namespace}
    header = {"type": "Exact", "name": _MODEL_HEADER, "value": public_model(endpoint)}
    rule = {
        "matches": [{"headers": [header]}],
        "backendRefs": [
            {"name": FRONT, "modelNameOverride": model, "weight": weight, "priority": 0}
            for model, weight in named
        ],
        "modelsOwnedBy": endpoint.namespace,
        # The front ends answers that fall silent. A long one that streams goes on.
        "timeouts": {"request": "0s"},
    }
    spec = {"parentRefs": [{**parent, "name": name}], "rules": [rule]}
    return {"apiVersion": f"{_AI_GROUP}/v1beta1", "kind": AI_ROUTE, "spec": spec}


def render_gateway_parts(namespace: str, front: Deployed, gateway: str) -> list[Manifest]:
    """Render what Envoy AI Gateway needs to reach the front; a pool of llm-d needs nothing."""
    if kind_of(gateway) != AI_ROUTE:
        return []
    metadata = metadata_of(FRONT, namespace, labels_of_front(), [front.reference()])
    address = {"hostname": f"{FRONT}.{namespace}.svc", "port": 80}
    reference = {"group": _BACKEND_GROUP, "kind": "Backend", "name": FRONT}
    return [
        {
            "apiVersion": f"{_BACKEND_GROUP}/v1alpha1",
            "kind": "Backend",
            "metadata": metadata,
            "spec": {"endpoints": [{"fqdn": address}]},
        },
        {
            "apiVersion": f"{_AI_GROUP}/v1beta1",
            "kind": "AIServiceBackend",
            "metadata": metadata,
            "spec": {"schema": {"name": "OpenAI"}, "backendRef": reference},
        },
    ]
