"""Which versions a server must hold, from the endpoints of its namespace. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from finetune_api.names import adapter_name
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_api.v1alpha1.status.endpoint import Candidate, Served, ServedStorage


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A version that a server must hold.

    Attributes:
        name: Name that it is loaded under.
        sha256: Digest that the status pins it by.
        job: Name of the job that published it.
        version: Its number.
        has_traffic: Requests go to it: it is active, or a candidate with a share.
    """

    name: str
    sha256: str
    namespace: str
    job: str
    version: int
    manifest_uri: str
    base_model: str
    storage: ServedStorage
    job_uid: str = ""
    is_whole: bool = False
    has_traffic: bool = False

    @property
    def key(self) -> tuple[str, str]:
        """Name and digest: the same name with another digest is another version."""
        return self.name, self.sha256


def find_wanted(
    endpoints: Mapping[str, Mapping[str, Any]], *, namespace: str, server: str
) -> dict[tuple[str, str], Wanted]:
    """Return the versions that the endpoints serve from one server, by name and digest.

    An endpoint that cannot be parsed, and a version under a name that is not its own, are left out.
    """
    found: dict[tuple[str, str], Wanted] = {}
    for body in endpoints.values():
        try:
            endpoint = FineTuneEndpoint.from_stored(dict(body))
        except ValidationError:
            continue
        status, job = endpoint.status, endpoint.spec.job_ref.name
        if status is None or endpoint.metadata.namespace not in (None, namespace):
            continue
        for served in (status.active, status.candidate, status.previous):
            if served is None or served.server != server:
                continue
            if served.adapter != adapter_name(namespace, job, served.version):
                continue
            has_traffic = served is status.active or (
                isinstance(served, Candidate) and served.weight > 0
            )
            wanted = _wanted(served, namespace, job, has_traffic=has_traffic)
            known = found.get(wanted.key)
            if known is None or not known.has_traffic:
                found[wanted.key] = wanted
    return found


def _wanted(served: Served, namespace: str, job: str, *, has_traffic: bool) -> Wanted:
    return Wanted(
        name=served.adapter,
        sha256=served.sha256,
        namespace=namespace,
        job=job,
        version=served.version,
        manifest_uri=served.manifest_uri,
        base_model=served.base_model,
        storage=served.storage,
        job_uid=served.job_uid or "",
        is_whole=served.format == "Merged",
        has_traffic=has_traffic,
    )
