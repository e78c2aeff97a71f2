"""Security contexts of every pod: the restricted Pod Security Standard.

Only a capability that an administrator allows goes beyond it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

USER_ID = 65532


def pod_security() -> dict[str, Any]:
    """Return the security context of a pod."""
    return {
        "runAsNonRoot": True,
        "runAsUser": USER_ID,
        "runAsGroup": USER_ID,
        "fsGroup": USER_ID,
        "fsGroupChangePolicy": "OnRootMismatch",
        "seccompProfile": {"type": "RuntimeDefault"},
    }


def container_security(added: Sequence[str] = ()) -> dict[str, Any]:
    """Return the security context of a container, with the capabilities that it is given."""
    capabilities = {"drop": ["ALL"]}
    if added:
        capabilities["add"] = list(added)
    return {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": capabilities,
    }


def without_cloud_identity(*containers: str) -> dict[str, str]:
    """Return the annotations of a pod whose named containers get no identity of the cloud.

    The webhook of EKS gives the ServiceAccount's to all containers of a pod that are not named.
    """
    return {"eks.amazonaws.com/skip-containers": ",".join(containers)} if containers else {}
