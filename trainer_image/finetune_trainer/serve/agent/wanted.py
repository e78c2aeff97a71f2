"""Which versions a server must hold, from the endpoints of its namespace. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ValidationError

from finetune_api.names import adapter_name
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_api.v1alpha1.status.endpoint import Candidate, Served, ServedStorage

Key = tuple[str, ...]


@dataclass(frozen=True, kw_only=True, slots=True)
class Wanted:
    """A version that a server must hold.

    Attributes:
        name: Name that it is loaded under.
        sha256: Digest of its manifest that the status pins; empty before the first verification.
        weights_sha256: Digest of its weights file that the status pins; empty if nobody knows it.
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
    weights_sha256: str = ""
    is_whole: bool = False
    has_traffic: bool = False

    @property
    def key(self) -> Key:
        """Place, origin and digests: the same name with others is another version."""
        return self.name, self.manifest_uri, *self._pins

    @property
    def _pins(self) -> tuple[str, str, str]:
        return self.job_uid, self.sha256, self.weights_sha256

    def agrees_with(self, other: Wanted) -> bool:
        """Whether both are one version, as far as both say which one."""
        is_one_place = (self.name, self.manifest_uri) == (other.name, other.manifest_uri)
        pins = zip(self._pins, other._pins, strict=True)
        return is_one_place and all(not (one and two) or one == two for one, two in pins)

    def joined_with(self, other: Wanted) -> Wanted:
        """Return the version with all that both say."""
        return replace(
            self,
            job_uid=self.job_uid or other.job_uid,
            sha256=self.sha256 or other.sha256,
            weights_sha256=self.weights_sha256 or other.weights_sha256,
            has_traffic=self.has_traffic or other.has_traffic,
        )


class Finder:
    """Finds the versions of one server in the endpoints of its namespace.

    An endpoint is parsed again only when its object is another one: a namespace may have a
    thousand.
    """

    def __init__(self, *, namespace: str, server: str) -> None:
        self._namespace = namespace
        self._server = server
        self._parsed: dict[str, tuple[Mapping[str, Any], tuple[Wanted, ...]]] = {}

    def find(self, endpoints: Mapping[str, Mapping[str, Any]]) -> dict[Key, Wanted]:
        """Return the versions that the endpoints serve from this server, by key.

        An endpoint that cannot be parsed, and a version under a name that is not its own, are left
        out.
        """
        parsed = {}
        found: dict[str, list[Wanted]] = {}
        for name, body in endpoints.items():
            known = self._parsed.get(name)
            if known is None or known[0] is not body:
                known = body, tuple(self._parse(body))
            parsed[name] = known
            for wanted in known[1]:
                _add(found.setdefault(wanted.name, []), wanted)
        self._parsed = parsed
        return {wanted.key: wanted for named in found.values() for wanted in named}

    def _parse(self, body: Mapping[str, Any]) -> Iterator[Wanted]:
        try:
            endpoint = FineTuneEndpoint.from_stored(dict(body))
        except ValidationError:
            return
        status, job = endpoint.status, endpoint.spec.job_ref.name
        if status is None or endpoint.metadata.namespace not in (None, self._namespace):
            return
        for served in (status.active, status.candidate, status.previous):
            if served is None or served.server != self._server:
                continue
            if served.adapter != adapter_name(self._namespace, job, served.version):
                continue
            has_traffic = served is status.active or (
                isinstance(served, Candidate) and served.weight > 0
            )
            yield _wanted(served, self._namespace, job, has_traffic=has_traffic)


def _add(named: list[Wanted], wanted: Wanted) -> None:
    """Add a version to those of its name, or what it says to the one that it is."""
    for place, other in enumerate(named):
        if other.agrees_with(wanted):
            named[place] = other.joined_with(wanted)
            return
    named.append(wanted)


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
        weights_sha256=served.weights_sha256 or "",
        is_whole=served.format == "Merged",
        has_traffic=has_traffic,
    )
