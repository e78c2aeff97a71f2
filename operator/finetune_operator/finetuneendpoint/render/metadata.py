"""Names, labels and owners of the objects that endpoints share."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.meta import ENDPOINT_KIND
from finetune_api.names import MANAGED_BY, MANAGED_BY_LABEL, SERVER_LABEL, SERVING_LABEL, Owner

Manifest = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deployed:
    """A Deployment that exists.

    Attributes:
        uid: Its UID, which what belongs to it refers to.
    """

    name: str
    uid: str

    def reference(self) -> Manifest:
        """Return the reference that deletes an object with this Deployment."""
        return {
            "apiVersion": "apps/v1",
            "kind": "Deployment",
            "name": self.name,
            "uid": self.uid,
            "controller": True,
            "blockOwnerDeletion": False,
        }


def owned_by(endpoints: Iterable[Owner]) -> list[Manifest]:
    """Return the references of an object that goes with the last of several endpoints.

    None of them is the controller, of which an object has only one.
    """
    references = []
    for owner in sorted(endpoints, key=lambda each: each.uid):
        assert owner.kind == ENDPOINT_KIND
        reference = owner.reference()
        del reference["controller"]
        references.append(reference)
    return references


def labels_of_front() -> dict[str, str]:
    """Return the labels of the front's objects; they select its pods."""
    return {SERVING_LABEL: "front", MANAGED_BY_LABEL: MANAGED_BY}


def labels_of_server(name: str) -> dict[str, str]:
    """Return the labels of a server's objects; they select its pods."""
    return {SERVING_LABEL: "server", SERVER_LABEL: name, MANAGED_BY_LABEL: MANAGED_BY}


def metadata_of(
    name: str, namespace: str, labels: dict[str, str], owners: list[Manifest]
) -> Manifest:
    """Return the metadata of an object."""
    return {"name": name, "namespace": namespace, "labels": dict(labels), "ownerReferences": owners}
