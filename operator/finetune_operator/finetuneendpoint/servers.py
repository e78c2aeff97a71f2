"""Which server a version runs on: named by its content, so that equal needs share one. Pure.

The content includes the administrator's settings. So a new engine image is another server, on which
versions are verified before they leave the present one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from finetune_api.names import server_name
from finetune_api.v1alpha1.spec.serving import Serve
from finetune_api.v1alpha1.status.endpoint import Published, ServedStorage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.render.resources import default_cpu, default_memory

_NOT_IN_THE_NAME = frozenset({"replicas", "dedicated"})
"""Settings that change without a new server: how many pods it has, and who shares them."""
_IN_ALL_PODS = frozenset(
    {
        *("trainer_image", "trainer_image_pull_policy", "image_pull_secrets", "agent_cpu"),
        *("agent_memory", "scratch_size", "cache_claim", "trainer_environment"),
        *("allow_trust_remote_code", "default_node_selector", "default_tolerations"),
    }
)
"""The administrator's settings that all servers have; :func:`_settings_of` adds the others."""
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
        settings: The administrator's settings that its pods are made from.
    """

    namespace: str
    base_model: str
    base_model_secret: str | None = None
    storage: ServedStorage
    serve: Serve
    settings: Mapping[str, Any] = field(default_factory=dict)
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
            "settings": self.settings,
        }


def server_of(
    served: Published, serve: Serve, config: OperatorConfig, *, namespace: str, endpoint_uid: str
) -> Server:
    """Return the server that a version runs on under an endpoint's settings.

    Args:
        served: The version.
        serve: ``spec.serve`` of the endpoint.
        config: The administrator's settings for the namespace.
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
        settings=_settings_of(serve, config),
        max_rank=SMALLEST_RANK if is_whole else rank_class(served.rank or 0),
        manifest_uri=served.manifest_uri if is_whole else "",
        endpoint_uid=endpoint_uid if serve.dedicated else "",
    )


def engine_image(serve: Serve, config: OperatorConfig) -> str:
    """Return the image of a server's engine."""
    own = config.vllm_image if serve.engine == "VLLM" else config.trainer_image
    return serve.image or own


def engine_limits(serve: Serve, config: OperatorConfig) -> dict[str, str]:
    """Return CPU and memory of a server's engine."""
    return {
        "cpu": serve.resources.cpu or default_cpu(config, serve.num_gpus),
        "memory": serve.resources.memory or default_memory(config, serve.num_gpus),
    }


def _settings_of(serve: Serve, config: OperatorConfig) -> dict[str, Any]:
    """Return the settings of the administrator that change a server's pods."""
    return {
        **config.model_dump(mode="json", include=set(_IN_ALL_PODS)),
        **engine_limits(serve, config),
        "image": engine_image(serve, config),
        "arguments": config.vllm_arguments if serve.engine == "VLLM" else [],
        "shared_memory": serve.resources.shared_memory or config.default_shared_memory,
    }


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
