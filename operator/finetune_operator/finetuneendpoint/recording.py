"""Where the endpoints of a namespace store captured answers. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_api.v1alpha1.traffic import Capture


@dataclass(frozen=True, kw_only=True, slots=True)
class Place:
    """Where one endpoint stores them.

    Attributes:
        uri: Folder below which they are stored.
        secret: Secret that it is reached with; None for the pod's own identity.
    """

    uri: str
    secret: str | None = None

    @property
    def is_claim(self) -> bool:
        """Whether it is a claim. The pods of all endpoints mount none that one of them names."""
        return self.uri.startswith("pvc://")


def place_of(capture: Capture | None, storage: ServedStorage | None) -> Place | None:
    """Return where an endpoint stores them; None if it captures none, or has no version yet.

    ``storage`` is that of the version that answers, or of the first one, which is to answer.
    """
    if capture is None:
        return None
    uri = capture.uri or (storage.uri if storage is not None else None)
    secret = capture.secret_ref.name if capture.secret_ref is not None else None
    if secret is None and storage is not None:
        secret = storage.credentials_secret
    return None if uri is None else Place(uri=uri, secret=secret)


def read_place(endpoint: Mapping[str, Any]) -> Place | None:
    """Return where another endpoint stores them. Its spec is not validated."""
    capture = (endpoint.get("spec") or {}).get("capture")
    if not isinstance(capture, dict):
        return None
    status = endpoint.get("status") or {}
    storage = (status.get("active") or status.get("candidate") or {}).get("storage") or {}
    uri = capture.get("uri") or storage.get("uri")
    secret = (capture.get("secretRef") or {}).get("name") or storage.get("credentialsSecret")
    return Place(uri=str(uri), secret=secret) if uri else None
