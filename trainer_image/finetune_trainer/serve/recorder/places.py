"""Where the recorder stores the traffic of each endpoint. Pure."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.serve.agent.fetching import access_of, to_file_uri
from finetune_trainer.serve.desired import Endpoint
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.reading import open_traffic

logger = logging.getLogger(__name__)

RETENTION_DAYS = 30
"""Default of ``capture.retentionDays``."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where the traffic of one endpoint goes, and how long it stays."""

    namespace: str
    endpoint: str
    storage: ServedStorage
    retention_days: int

    @property
    def whose(self) -> str:
        """Namespace and name, as response ids have them."""
        return f"{self.namespace}/{self.endpoint}"

    def open(self, credentials_dir: Path | None) -> ObjectStore:
        """Open its store.

        Raises:
            UserError: The URI or the credentials are not usable.
        """
        access = access_of(self.storage, credentials_dir)
        return open_traffic(to_file_uri(self.storage.uri), self.namespace, self.endpoint, access)


def read_places(endpoints: Mapping[str, Endpoint]) -> dict[str, Place]:
    """Return the places of the endpoints that capture, by name."""
    places: dict[str, Place] = {}
    for name, endpoint in endpoints.items():
        try:
            place = _read_place(endpoint)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            logger.warning("endpoint %s cannot be read: %s: %s", name, type(error).__name__, error)
            continue
        if place is not None:
            places[name] = place
    return places


def _read_place(endpoint: Mapping[str, Any]) -> Place | None:
    """Return the place of an endpoint; None if it captures nothing, or nothing is served yet."""
    spec, status = endpoint.get("spec") or {}, endpoint.get("status") or {}
    capture = spec.get("capture")
    served: Mapping[str, Any] = status.get("active") or status.get("candidate") or {}
    storage = dict(served.get("storage") or {})
    told = status.get("capture") or {}
    uri = told.get("uri")
    if "observedGeneration" not in status:  # there is no operator, which judges the place
        uri = uri or (capture or {}).get("uri") or storage.get("uri")
    if capture is None or not uri:
        return None
    storage["uri"] = uri
    secret = (capture.get("secretRef") or {}).get("name") or told.get("credentialsSecret")
    if secret:
        storage["credentialsSecret"] = secret
    return Place(
        namespace=endpoint["metadata"]["namespace"],
        endpoint=endpoint["metadata"]["name"],
        storage=ServedStorage.model_validate(storage, by_alias=True),
        retention_days=int(capture.get("retentionDays") or RETENTION_DAYS),
    )
