"""The kinds of inference gateways on a test's API server.

Their CustomResourceDefinitions are other projects' and are not in this repository. A folder with
copies of them can be named in ``FINETUNE_GATEWAY_CRDS``. Without it, stand-ins take any spec, so
that names, rights and the life of the objects are tested, but not their schemas.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from finetune_operator.kube.api.resource import (
    AI_GATEWAY_ROUTES,
    AI_SERVICE_BACKENDS,
    GATEWAY_BACKENDS,
    MODEL_REWRITES,
    Resource,
)
from kit.cluster.devcluster import Cluster
from kit.processes.eventually import eventually

RESOURCES = (AI_GATEWAY_ROUTES, AI_SERVICE_BACKENDS, GATEWAY_BACKENDS, MODEL_REWRITES)


def real_crds() -> Path | None:
    """Return the folder with the projects' own CRDs, if there is one."""
    folder = os.environ.get("FINETUNE_GATEWAY_CRDS")
    return Path(folder) if folder else None


def install_gateway_crds(cluster: Cluster) -> None:
    """Install the real CRDs, or stand-ins, and wait until all kinds are served."""
    if folder := real_crds():
        cluster.kubectl("apply", "--server-side", "-f", str(folder))
    else:
        items = [_stand_in(resource) for resource in RESOURCES]
        document = json.dumps({"apiVersion": "v1", "kind": "List", "items": items})
        cluster.kubectl("apply", "--server-side", "-f", "-", stdin=document)

    def are_served() -> bool:
        for resource in RESOURCES:
            cluster.kubectl("get", f"{resource.plural}.{resource.version}.{resource.group}")
        return True

    eventually(are_served, timeout=60)


def _stand_in(resource: Resource) -> dict[str, Any]:
    spec = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
    version = {
        "name": resource.version,
        "served": True,
        "storage": True,
        "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": spec}}},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{resource.plural}.{resource.group}"},
        "spec": {
            "group": resource.group,
            "names": {"kind": resource.kind, "plural": resource.plural},
            "scope": "Namespaced",
            "versions": [version],
        },
    }
