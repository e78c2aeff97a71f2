"""Resource types of the API server: group, version, plural, kind, scope.

A controller knows its kinds when it is written, so they are constants and need no discovery.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, TypeAlias

Object: TypeAlias = dict[str, Any]
"""A Kubernetes object as parsed from JSON. Read-only once it came out of a cache."""

ObjectKey: TypeAlias = tuple[str, str]
"""(namespace, name); the namespace of a cluster-scoped object is the empty string."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Resource:
    """One resource type of the API server.

    Attributes:
        group: API group; empty for the core group.
        version: API version, such as ``v1``.
        plural: Name in paths and RBAC rules, such as ``jobs``.
        kind: Name in manifests, such as ``Job``.
        namespaced: Whether objects live in namespaces.
        api_version: ``group/version`` as manifests write it.
        root: Path prefix, ``/api/v1`` or ``/apis/<group>/<version>``.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    api_version: str = field(init=False)
    root: str = field(init=False)

    def __post_init__(self) -> None:
        api_version = f"{self.group}/{self.version}" if self.group else self.version
        object.__setattr__(self, "api_version", api_version)
        object.__setattr__(self, "root", f"/{'apis' if self.group else 'api'}/{api_version}")

    def collection_path(self, namespace: str = "") -> str:
        """Return the path of the collection in ``namespace``, or over all namespaces if empty."""
        if namespace and self.namespaced:
            return f"{self.root}/namespaces/{namespace}/{self.plural}"
        return f"{self.root}/{self.plural}"

    def object_path(self, namespace: str, name: str, subresource: str = "") -> str:
        """Return the path of one object, or of its ``subresource``.

        Raises:
            ValueError: The name or a needed namespace is empty; the path would be the collection's.
        """
        if not name or "/" in name:
            raise ValueError(f"{self.kind} needs a name without slashes, got {name!r}")
        if self.namespaced and not namespace:
            raise ValueError(f"{self.kind} {name} is namespaced: name its namespace")
        path = f"{self.collection_path(namespace)}/{name}"
        return f"{path}/{subresource}" if subresource else path


PODS = Resource(group="", version="v1", plural="pods", kind="Pod")
SERVICES = Resource(group="", version="v1", plural="services", kind="Service")
CONFIG_MAPS = Resource(group="", version="v1", plural="configmaps", kind="ConfigMap")
EVENTS = Resource(group="", version="v1", plural="events", kind="Event")
JOBS = Resource(group="batch", version="v1", plural="jobs", kind="Job")
DEPLOYMENTS = Resource(group="apps", version="v1", plural="deployments", kind="Deployment")
AUTOSCALERS = Resource(
    group="autoscaling",
    version="v2",
    plural="horizontalpodautoscalers",
    kind="HorizontalPodAutoscaler",
)
SECRETS = Resource(group="", version="v1", plural="secrets", kind="Secret")
SERVICE_ACCOUNTS = Resource(group="", version="v1", plural="serviceaccounts", kind="ServiceAccount")
ROLES = Resource(group="rbac.authorization.k8s.io", version="v1", plural="roles", kind="Role")
ROLE_BINDINGS = Resource(
    group="rbac.authorization.k8s.io", version="v1", plural="rolebindings", kind="RoleBinding"
)
DISRUPTION_BUDGETS = Resource(
    group="policy", version="v1", plural="poddisruptionbudgets", kind="PodDisruptionBudget"
)
NETWORK_POLICIES = Resource(
    group="networking.k8s.io", version="v1", plural="networkpolicies", kind="NetworkPolicy"
)
SCALED_OBJECTS = Resource(
    group="keda.sh", version="v1alpha1", plural="scaledobjects", kind="ScaledObject"
)
LEASES = Resource(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease")
TOKEN_REVIEWS = Resource(
    group="authentication.k8s.io",
    version="v1",
    plural="tokenreviews",
    kind="TokenReview",
    namespaced=False,
)


def key_of(obj: Object) -> ObjectKey:
    """Return (namespace, name) of an object."""
    metadata = obj["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


def version_of(obj: Object) -> int:
    """Return ``resourceVersion`` as a number; 0 if there is none.

    Versions of one resource compare as integers since Kubernetes 1.35 (KEP-5504), and did before on
    every etcd-backed server.
    """
    try:
        return int(obj["metadata"]["resourceVersion"])
    except (KeyError, ValueError, TypeError):
        return 0
