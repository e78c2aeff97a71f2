"""The FineTuneEndpoints of one namespace, kept up to date from Kubernetes or from a file.

The front and the agent follow them and obey their ``spec`` and ``status``.
"""

from __future__ import annotations

import asyncio
import json
import logging
import random
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import unquote, urlsplit

import aiohttp

from finetune_api.protocol.serving import STALE_SECONDS

ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
"""Where a pod's ServiceAccount is mounted: ``token``, ``ca.crt`` and ``namespace``."""
PATH = "/apis/finetune.dev/v1alpha1/namespaces/{namespace}/finetuneendpoints"
PAGE_SIZE = 500
WATCH_SECONDS = 300
"""The API server ends each watch after this time."""
MAX_LINE_BYTES = 4 * 2**20
LOOK_SECONDS = 1.0
"""Time between two looks at a file."""
FIRST_PAUSE_SECONDS = 0.2
MAX_PAUSE_SECONDS = 15.0

log = logging.getLogger(__name__)

Endpoint = Mapping[str, Any]
"""A FineTuneEndpoint as JSON: ``metadata``, ``spec``, ``status``."""
OnChange = Callable[[Mapping[str, Endpoint]], None]
"""Receives all endpoints by name: once when they are first known, then after each change."""


class Source(Protocol):
    """Where the endpoints come from."""

    async def follow(self, on_change: OnChange) -> None:
        """Report the endpoints until cancelled; retry failures without limit."""


def source_of(environment: Mapping[str, str]) -> Source:
    """Return the source that the environment names.

    Args:
        environment: ``FINETUNE_ENDPOINTS`` is a ``file://`` URL of a JSON list of endpoints.
            Without it the endpoints of ``FINETUNE_NAMESPACE`` are watched in the cluster.

    Raises:
        ValueError: The environment names no usable source.
    """
    if url := environment.get("FINETUNE_ENDPOINTS"):
        parts = urlsplit(url)
        if parts.scheme != "file":
            raise ValueError(f"FINETUNE_ENDPOINTS is {url!r}: give a file:// URL, or unset it")
        return FileSource(Path(unquote(parts.path)))
    host = environment.get("KUBERNETES_SERVICE_HOST")
    if not host:
        raise ValueError(
            "KUBERNETES_SERVICE_HOST is not set: run in a pod, or set FINETUNE_ENDPOINTS"
        )
    namespace = environment.get("FINETUNE_NAMESPACE") or _text(ACCOUNT_DIR / "namespace")
    host = f"[{host}]" if ":" in host else host
    return KubernetesSource(
        server=f"https://{host}:{environment.get('KUBERNETES_SERVICE_PORT', '443')}",
        namespace=namespace,
        token_file=ACCOUNT_DIR / "token",
        ca_file=ACCOUNT_DIR / "ca.crt",
    )


class Mirror:
    """A copy of a Kubernetes list, kept by the events of a watch.

    An event that is older than what the copy knows of the same object changes nothing.
    """

    def __init__(self) -> None:
        self.objects: dict[str, Endpoint] = {}
        self.resource_version = ""
        self._deleted: dict[str, int] = {}

    def replace(self, items: Iterable[dict[str, Any]], resource_version: str) -> bool:
        """Take over a whole list; return whether the copy differs afterwards."""
        objects = {item["metadata"]["name"]: _without_managed_fields(item) for item in items}
        differs = objects != self.objects
        self.objects, self.resource_version, self._deleted = objects, resource_version, {}
        return differs

    def apply(self, event: Mapping[str, Any]) -> bool:
        """Apply one event of a watch; return whether the copy differs afterwards.

        Raises:
            Expired: The API server says that the watch cannot go on.
        """
        item, kind = event["object"], event["type"]
        if kind == "ERROR":
            raise Expired(f"code {item.get('code')}: {item.get('message')}")
        metadata = item["metadata"]
        version = _number(metadata["resourceVersion"])
        if version > _number(self.resource_version):
            self.resource_version = metadata["resourceVersion"]
        if kind == "BOOKMARK":
            return False
        name = metadata["name"]
        known = self.objects.get(name)
        newest = _number(known["metadata"]["resourceVersion"]) if known else self._deleted.get(name)
        if newest is not None and version <= newest:
            return False
        if kind == "DELETED":
            self._deleted[name] = version
            return self.objects.pop(name, None) is not None
        self._deleted.pop(name, None)
        # A new mapping: earlier receivers keep theirs unchanged.
        self.objects = {**self.objects, name: _without_managed_fields(item)}
        return True


class Expired(Exception):  # noqa: N818 - what happened to the watch
    """The API server ended a watch with an error. Code 410 means that its history is gone."""


class KubernetesSource:
    """Lists and watches the endpoints of a namespace with the pod's ServiceAccount.

    Args:
        server: URL of the API server.
        namespace: The namespace.
        token_file: Read before each request, because Kubernetes rotates the token.
        ca_file: Certificate authority of the API server; None for plain HTTP.
        pause: Waits for some seconds.
    """

    def __init__(
        self,
        *,
        server: str,
        namespace: str,
        token_file: Path,
        ca_file: Path | None,
        pause: Callable[[float], Awaitable[object]] = asyncio.sleep,
    ) -> None:
        self._url = server + PATH.format(namespace=namespace)
        self._token_file = token_file
        self._ca_file = ca_file
        self._pause = pause
        self._num_failures = 0

    async def follow(self, on_change: OnChange) -> None:
        """Report the endpoints until cancelled."""
        context = ssl.create_default_context(cafile=self._ca_file) if self._ca_file else True
        connector = aiohttp.TCPConnector(ssl=context)
        async with (
            aiohttp.ClientSession(connector=connector, read_bufsize=MAX_LINE_BYTES) as session,
            aclosing(self._changes(session)) as changes,
        ):
            async for objects in changes:
                on_change(objects)

    async def _changes(
        self, session: aiohttp.ClientSession
    ) -> AsyncGenerator[Mapping[str, Endpoint]]:
        mirror, is_listed, is_reported = Mirror(), False, False
        while True:
            try:
                if not is_listed:
                    differs = mirror.replace(*await self._list(session))
                    is_listed = True
                    if differs or not is_reported:
                        is_reported = True
                        yield dict(mirror.objects)
                async with aclosing(self._events(session, mirror.resource_version)) as events:
                    async for event in events:
                        if mirror.apply(event):
                            yield dict(mirror.objects)
            except Expired as error:
                is_listed = False
                await self._wait(error)
            except aiohttp.ClientResponseError as error:
                is_listed = is_listed and (error.status == 429 or error.status >= 500)
                await self._wait(error)
            except (aiohttp.ClientError, OSError, TimeoutError, ValueError) as error:
                # A restored API server counts from an older version, and is silent until then.
                is_listed = is_listed and not isinstance(error, aiohttp.SocketTimeoutError)
                await self._wait(error)

    async def _list(self, session: aiohttp.ClientSession) -> tuple[list[dict[str, Any]], str]:
        items: list[dict[str, Any]] = []
        query = {"limit": str(PAGE_SIZE)}
        while True:
            timeout = aiohttp.ClientTimeout(total=60)
            async with session.get(
                self._url, params=query, headers=self._headers(), timeout=timeout
            ) as response:
                response.raise_for_status()
                page = await response.json()
            items += page["items"]
            following = page["metadata"].get("continue")
            if not following:
                return items, page["metadata"]["resourceVersion"]
            query["continue"] = following

    async def _events(
        self, session: aiohttp.ClientSession, resource_version: str
    ) -> AsyncGenerator[Mapping[str, Any]]:
        """Yield the events after a version until the API server ends the watch.

        Raises:
            ConnectionError: The watch ended without any event.
        """
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": resource_version,
            "timeoutSeconds": str(WATCH_SECONDS + random.randrange(60)),  # noqa: S311 - jitter
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=STALE_SECONDS)
        async with session.get(
            self._url, params=query, headers=self._headers(), timeout=timeout
        ) as response:
            response.raise_for_status()
            is_silent = True
            async for line in response.content:
                if not line.endswith(b"\n"):
                    # The connection broke within an event. The next watch repeats it.
                    break
                event = json.loads(line)
                if event["type"] != "ERROR":
                    is_silent, self._num_failures = False, 0
                yield event
        if is_silent:
            raise ConnectionError("the watch ended without any event")

    def _headers(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {_text(self._token_file)}"}

    async def _wait(self, error: Exception) -> None:
        """Wait before the next try: twice as long after each failure in a row, with jitter."""
        self._num_failures += 1
        seconds = min(MAX_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self._num_failures, 10))
        log.warning("Cannot follow the endpoints: %s: %s", type(error).__name__, error)
        await self._pause(random.uniform(seconds / 2, seconds))  # noqa: S311 - jitter


class FileSource:
    """Reads the endpoints from a JSON file and reads it again when it changes.

    A file that cannot be read keeps the last endpoints that could.

    Args:
        path: A JSON list of endpoints.
        pause: Waits for some seconds.
    """

    def __init__(
        self, path: Path, *, pause: Callable[[float], Awaitable[object]] = asyncio.sleep
    ) -> None:
        self._path = path
        self._pause = pause

    async def follow(self, on_change: OnChange) -> None:
        """Report the endpoints until cancelled."""
        seen: object = None
        objects: dict[str, Endpoint] | None = None
        while True:
            found = objects
            try:
                stat = self._path.stat()
                stamp: object = (stat.st_mtime_ns, stat.st_size, stat.st_ino)
                if stamp != seen:
                    items = json.loads(self._path.read_bytes())
                    found = {item["metadata"]["name"]: item for item in items}
                    seen = stamp
            except (OSError, ValueError, LookupError, TypeError) as error:
                # Log a broken file once, not at each look.
                problem = f"{type(error).__name__}: {error}"
                if problem != seen:
                    log.warning("Cannot read the endpoints of %s: %s", self._path, problem)
                seen = problem
            if found is not None and found != objects:
                objects = found
                on_change(dict(found))
            await self._pause(LOOK_SECONDS)


def _without_managed_fields(item: dict[str, Any]) -> Endpoint:
    metadata = {key: value for key, value in item["metadata"].items() if key != "managedFields"}
    return {**item, "metadata": metadata}


def _number(resource_version: str) -> int:
    """Return a resource version as a number. Kubernetes compares those of one kind so."""
    return int(resource_version or 0)


def _text(path: Path) -> str:
    return path.read_text("utf-8").strip()
