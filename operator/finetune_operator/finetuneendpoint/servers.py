"""Which server a version runs on: named by its content, so that equal needs share one. Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.names import server_name
from finetune_api.v1alpha1.spec.serving import Serve
from finetune_api.v1alpha1.status.endpoint import Served, ServedStorage

_NOT_IN_THE_NAME = frozenset({"replicas", "dedicated", "routing"})
"""Settings that change without a new server: how many pods it has, and who reaches them."""
SMALLEST_RANK = 64
"""Every server takes adapters up to this rank, so that usual ranks share one."""
_RANKS = (SMALLEST_RANK, 128, 256, 320, 512)
"""Ranks that vLLM can be started for."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Server:
    """What a server Deployment is made from.

    Attributes:
        base_model: URI of the base model, with its revision.
        base_model_secret: Secret that opens the base model; None for that of the storage.
        storage: Where the versions lie that it loads, and the Secret that opens it. Of several
            outputs in S3 that are reached in the same way, it is any one.
        serve: Settings of the endpoint. ``replicas`` are those of this endpoint alone.
        max_rank: Largest rank of an adapter that it takes.
        manifest_uri: Manifest of the one version that it serves whole; empty if it takes adapters.
        endpoint_uid: UID of the endpoint that has it alone; empty if it is shared.
    """

    namespace: str
    base_model: str
    base_model_secret: str | None = None
    storage: ServedStorage
    serve: Serve
    max_rank: int = SMALLEST_RANK
    manifest_uri: str = ""
    endpoint_uid: str = ""

    @property
    def name(self) -> str:
        """Name of its Deployment and Service. Equal servers have equal names."""
        return server_name(hashlib.sha256(_canonical(self._content()).encode()).hexdigest())

    def _content(self) -> dict[str, Any]:
        settings = _wire(self.serve)
        return {
            "namespace": self.namespace,
            "baseModel": self.base_model,
            "baseModelSecret": self.base_model_secret,
            "storage": way_of(self.storage),
            "serve": {key: settings[key] for key in settings.keys() - _NOT_IN_THE_NAME},
            "maxRank": self.max_rank,
            "manifestURI": self.manifest_uri,
            "endpointUID": self.endpoint_uid,
        }


def server_of(served: Served, serve: Serve, *, namespace: str, endpoint_uid: str) -> Server:
    """Return the server that a version runs on under an endpoint's settings.

    Args:
        served: The version. Its ``server`` is not read.
        serve: ``spec.serve`` of the endpoint.
        namespace: Namespace of the endpoint.
        endpoint_uid: UID of the endpoint.
    """
    is_whole = served.format == "Merged"
    return Server(
        namespace=namespace,
        base_model=served.base_model,
        base_model_secret=served.base_model_secret,
        storage=served.storage,
        serve=serve,
        max_rank=SMALLEST_RANK if is_whole else rank_class(served.rank or 0),
        manifest_uri=served.manifest_uri if is_whole else "",
        endpoint_uid=endpoint_uid if serve.dedicated else "",
    )


def rank_class(rank: int) -> int:
    """Return the smallest rank that a server can be started for and that holds an adapter's."""
    return next((each for each in _RANKS if each >= rank), _RANKS[-1])


def way_of(storage: ServedStorage) -> dict[str, Any]:
    """Return how a storage is reached: what a pod is given to open it."""
    scheme, _, rest = storage.uri.partition("://")
    way = _wire(storage)
    way["uri"] = {"s3": "s3://", "pvc": f"pvc://{rest.partition('/')[0]}"}.get(scheme, storage.uri)
    return way


def _wire(model: Serve | ServedStorage) -> dict[str, Any]:
    return model.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def _canonical(content: Mapping[str, Any]) -> str:
    return json.dumps(content, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
