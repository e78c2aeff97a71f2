"""The API client: dict in, dict out, one ``orjson`` parse, typed errors.

A client with typed models needs nine times the CPU for lists.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeAlias

import orjson

from finetune_operator.kube.api.errors import TransportError, error_from_status
from finetune_operator.kube.api.gated_body import Gate
from finetune_operator.kube.api.resource import Object, Resource
from finetune_operator.kube.api.transport import APPLY_PATCH, JSON, MERGE_PATCH, Transport
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.ratelimit import TokenBucket

WatchEvent: TypeAlias = tuple[str, Object]
"""(ADDED | MODIFIED | DELETED | BOOKMARK, object)."""

METADATA_ONLY = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


@dataclass(frozen=True, kw_only=True, slots=True)
class ObjectList:
    """A list, or one page of it.

    Attributes:
        items: The objects as the server sent them: items of a list carry no kind.
        resource_version: Version of the whole list; a watch may start from it.
    """

    items: list[Object]
    resource_version: str


class KubeClient:
    """The verbs of one API server. Event loop only.

    Args:
        gate: Called before every write; raises to stop it.
        budget: Request rate of this client; None for the transport's.
    """

    def __init__(
        self, transport: Transport, *, gate: Gate | None = None, budget: TokenBucket | None = None
    ) -> None:
        self._transport = transport
        self._gate = gate
        self._budget = budget

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def metrics(self) -> KubeMetrics:
        """Where the client counts."""
        return self._transport.metrics

    async def aclose(self) -> None:
        """Close all connections. Requests in flight fail with ``TransportError``."""
        await self._transport.aclose()

    def fenced(self, gate: Gate) -> KubeClient:
        """Return a client on the same transport that calls ``gate`` before every write.

        The gate raises to stop the write (``LeaderElector.fence``). A process that was paused
        beyond its lease can wake up in the middle of a reconcile.
        """
        return KubeClient(self._transport, gate=gate, budget=self._budget)

    def budgeted(self, *, qps: float, burst: int) -> KubeClient:
        """Return a client on the same connections with a request rate of its own.

        Watches are not limited.

        Args:
            qps: Requests per second before this client waits.
            burst: Requests above ``qps`` that pass at once.
        """
        budget = self._transport.new_budget(qps=qps, burst=burst)
        return KubeClient(self._transport, gate=self._gate, budget=budget)

    async def get(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        subresource: str = "",
        query: Mapping[str, str] | None = None,
    ) -> Object:
        """Read one object, or a subresource of it, from the server."""
        path = resource.object_path(namespace, name, subresource)
        return await self._request("get", "GET", resource, path, query, subresource=subresource)

    async def list(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        metadata_only: bool = False,
    ) -> ObjectList:
        """List a whole collection, all pages; see ``list_pages``."""
        items: list[Object] = []
        version = ""
        async for page in self.list_pages(
            resource,
            namespace,
            label_selector=label_selector,
            field_selector=field_selector,
            limit=limit,
            metadata_only=metadata_only,
        ):
            items += page.items
            version = page.resource_version
        return ObjectList(items=items, resource_version=version)

    async def list_pages(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        label_selector: str = "",
        field_selector: str = "",
        limit: int = 500,
        metadata_only: bool = False,
    ) -> AsyncIterator[ObjectList]:
        """List page by page, so that a caller that trims objects never holds the whole list.

        With ``metadata_only`` the items are PartialObjectMetadata.

        Raises:
            Gone: A continue token expired between two pages; list again from the start.
        """
        query = _selectors(label_selector, field_selector) | {"limit": str(limit)}
        path = resource.collection_path(namespace)
        accept = METADATA_ONLY if metadata_only else JSON
        while True:
            body = await self._request("list", "GET", resource, path, query, accept=accept)
            metadata = body["metadata"]
            yield ObjectList(
                items=body.get("items") or [], resource_version=metadata["resourceVersion"]
            )
            if not metadata.get("continue"):
                return
            query["continue"] = metadata["continue"]

    async def watch(
        self,
        resource: Resource,
        namespace: str = "",
        *,
        resource_version: str,
        label_selector: str = "",
        field_selector: str = "",
        timeout_seconds: int = 300,
        silence_seconds: float = 90.0,
        rest_seconds: float = 0.0,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Stream changes after ``resource_version``; ends when the server ends the stream.

        The server ends the stream after ``timeout_seconds``. Bookmarks come once a minute, so a
        stream without a byte for ``silence_seconds`` is a dead connection. Changes within
        ``rest_seconds`` of the last ones are read together.

        Raises:
            Gone: The version is too old; list again.
            KubeError: The server refused, or sent another error inside the stream.
            TransportError: The connection broke or fell silent.
        """
        query = _selectors(label_selector, field_selector) | {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(timeout_seconds),
        }
        path = resource.collection_path(namespace)
        lines = self._transport.stream(
            resource, path, query, silence_seconds=silence_seconds, rest_seconds=rest_seconds
        )
        what = f"watch {resource.kind} in {namespace or 'all namespaces'}"
        # Close here: a failed watch must not leave its connection to the garbage collector.
        async with contextlib.aclosing(lines):
            async for line in lines:
                try:
                    event = orjson.loads(line)
                except orjson.JSONDecodeError as error:
                    raise TransportError(what, message=f"malformed event: {error}") from error
                kind, body = event["type"], event["object"]
                if kind == "ERROR":
                    raise error_from_status(what, int(body.get("code") or 500), body)
                yield kind, body

    async def create(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str = "",
        strict: bool = False,
        dry_run: bool = False,
    ) -> Object:
        """Create an object or a review (such as TokenReview) and return the server's answer.

        ``strict`` refuses fields that are not in the server's schema; the server drops them
        otherwise. With ``dry_run`` nothing is stored.

        Raises:
            AlreadyExists: The name is taken.
            Invalid: The server will never accept it.
        """
        metadata = obj.get("metadata") or {}
        path = resource.collection_path(metadata.get("namespace", ""))
        query = {"fieldManager": field_manager} if field_manager else {}
        if strict:
            query["fieldValidation"] = "Strict"
        if dry_run:
            query["dryRun"] = "All"
        return await self._request("create", "POST", resource, path, query or None, body=obj)

    async def replace(self, resource: Resource, obj: Object, *, field_manager: str = "") -> Object:
        """Put a whole object; with a resourceVersion in it, only over that version.

        Raises:
            Conflict: The object was changed in between.
        """
        metadata = obj["metadata"]
        path = resource.object_path(metadata.get("namespace", ""), metadata["name"])
        query = {"fieldManager": field_manager} if field_manager else None
        return await self._request("update", "PUT", resource, path, query, body=obj)

    async def apply(
        self,
        resource: Resource,
        obj: Object,
        *,
        field_manager: str,
        force: bool = True,
        subresource: str = "",
    ) -> Object:
        """Server-side apply: own exactly the fields in ``obj``, create the object if missing.

        ``apiVersion`` and ``kind`` are filled in if absent. ``force`` takes fields that another
        manager owns. With a ``subresource`` the object must exist. Returns the object as stored.
        """
        metadata = obj["metadata"]
        path = resource.object_path(metadata.get("namespace", ""), metadata["name"], subresource)
        if "kind" not in obj:
            obj = {"apiVersion": resource.api_version, "kind": resource.kind, **obj}
        query = {"fieldManager": field_manager, "force": "true" if force else "false"}
        return await self._request(
            "patch",
            "PATCH",
            resource,
            path,
            query,
            body=obj,
            content=APPLY_PATCH,
            subresource=subresource,
        )

    async def apply_status(
        self, resource: Resource, obj: Object, *, field_manager: str, force: bool = True
    ) -> Object:
        """Server-side apply of the ``status`` subresource; ``obj`` holds metadata and status."""
        return await self.apply(
            resource, obj, field_manager=field_manager, force=force, subresource="status"
        )

    async def merge_patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        patch: Object,
        *,
        subresource: str = "",
        field_manager: str = "",
    ) -> Object:
        """JSON merge patch, for the few fields of objects that belong to somebody else."""
        path = resource.object_path(namespace, name, subresource)
        query = {"fieldManager": field_manager} if field_manager else None
        return await self._request(
            "patch",
            "PATCH",
            resource,
            path,
            query,
            body=patch,
            content=MERGE_PATCH,
            subresource=subresource,
        )

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        uid: str = "",
        resource_version: str = "",
        propagation: str = "Background",
    ) -> None:
        """Delete one object, if its UID and version are the given ones.

        ``propagation`` is Background, Foreground or Orphan.

        Raises:
            NotFound: The object does not exist.
            Conflict: A precondition did not hold.
        """
        preconditions = {"uid": uid, "resourceVersion": resource_version}
        options: Object = {
            "apiVersion": "v1",
            "kind": "DeleteOptions",
            "propagationPolicy": propagation,
            "preconditions": {key: value for key, value in preconditions.items() if value},
        }
        path = resource.object_path(namespace, name)
        await self._request("delete", "DELETE", resource, path, body=options)

    async def _request(
        self,
        verb: str,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str] | None = None,
        **options: Any,
    ) -> Object:
        return await self._transport.request(
            verb, method, resource, path, query, gate=self._gate, budget=self._budget, **options
        )


def _selectors(label_selector: str, field_selector: str) -> dict[str, str]:
    pairs = {"labelSelector": label_selector, "fieldSelector": field_selector}
    return {key: value for key, value in pairs.items() if value}
