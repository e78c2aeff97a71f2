"""HTTP to one API server: pools, credentials, limits, retries and counting.

Short requests and watches have separate connection pools.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Mapping
from functools import partial
from typing import Any, TypeAlias
from urllib.parse import urlencode

import aiohttp
import orjson
from yarl import URL

from finetune_operator.kube.api.connection import Connection
from finetune_operator.kube.api.errors import (
    Invalid,
    TransportError,
    error_from_response,
    retry_after_seconds,
)
from finetune_operator.kube.api.gated_body import Gate, GatedBody
from finetune_operator.kube.api.resource import Object, Resource
from finetune_operator.kube.clock import Clock, ServerClock, SystemClock
from finetune_operator.kube.metrics import KubeMetrics
from finetune_operator.kube.ratelimit import TokenBucket

logger = logging.getLogger(__name__)

RequestRecorder: TypeAlias = Callable[[str, str, str, str], None]
"""Called with (RBAC verb, group, resource, subresource) for every request sent."""

APPLY_PATCH = "application/apply-patch+yaml"
MERGE_PATCH = "application/merge-patch+json"
JSON = "application/json"
_MAX_THROTTLED_TRIES = 4
_MAX_RETRY_AFTER_SECONDS = 30.0
TURNS_OF_TLS = 3
GOODBYE_SECONDS = 0.05
BUSY_BYTES = 32 * 1024
"""A watch that has brought so much at once is read on without a rest."""


class Transport:
    """Sends requests to one API server. Event loop only; create it inside a running loop.

    Args:
        user_agent: Product and version for the server's audit log.
        qps: Requests per second before the client waits. The default is far above client-go's 5,
            because the server limits clients itself (priority and fairness) since Kubernetes 1.20.
        burst: Requests above ``qps`` that pass at once.
        max_connections: Pool size of short requests.
        request_timeout_seconds: Whole time of one short request.
        on_request: Called with every request, for the RBAC test.
        clock: Time for the token bucket.
        server_clock: Takes the server's time from each answer.
    """

    def __init__(
        self,
        connection: Connection,
        *,
        user_agent: str = "kube-runtime",
        qps: float = 500.0,
        burst: int = 1000,
        max_connections: int = 64,
        request_timeout_seconds: float = 30.0,
        metrics: KubeMetrics | None = None,
        on_request: RequestRecorder | None = None,
        clock: Clock | None = None,
        server_clock: ServerClock | None = None,
        rng: random.Random | None = None,
    ) -> None:
        self.connection = connection
        self.metrics = metrics or KubeMetrics()
        self.on_request = on_request
        self._clock = clock or SystemClock()
        self._server_clock = server_clock
        self._rng = rng or random.Random()  # noqa: S311 - jitter, not a secret
        self._bucket = TokenBucket(self._clock, rate=qps, burst=burst)
        self._timeout = aiohttp.ClientTimeout(total=request_timeout_seconds, sock_connect=5.0)
        self._session = connection.open_session(
            max_connections=max_connections, user_agent=user_agent
        )
        self._watch_session = connection.open_session(max_connections=0, user_agent=user_agent)
        self._routing: dict[str, Any] = {}
        if connection.proxy:
            self._routing["proxy"] = connection.proxy
        if connection.server_hostname:
            self._routing["server_hostname"] = connection.server_hostname
        self._counters: dict[tuple[Any, ...], Any] = {}
        self._warned: set[str] = set()

    def new_budget(self, *, qps: float, burst: int) -> TokenBucket:
        """Return a rate of its own, for requests that must not compete with all others."""
        return TokenBucket(self._clock, rate=qps, burst=burst)

    async def aclose(self) -> None:
        """Close all connections; requests in flight fail with ``TransportError``."""
        await self._session.close()
        await self._watch_session.close()
        # aiohttp does not wait until all TLS connections are closed. A loop that ends earlier
        # leaves sockets open.
        await asyncio.sleep(GOODBYE_SECONDS)

    async def request(
        self,
        verb: str,
        method: str,
        resource: Resource,
        path: str,
        query: Mapping[str, str] | None = None,
        *,
        body: Object | None = None,
        content: str = JSON,
        accept: str = JSON,
        subresource: str = "",
        gate: Gate | None = None,
        budget: TokenBucket | None = None,
    ) -> Object:
        """Send one short request; wait and retry on 429 + Retry-After, renew a token on 401.

        Args:
            verb: The RBAC verb, for metrics and the recorder.
            method: HTTP method.
            resource: The resource type.
            path: Path of the collection or object.
            query: Query parameters.
            body: Sent as JSON.
            content: Content type of ``body``; it also names the kind of a patch.
            accept: Media type wanted.
            subresource: For metrics and the recorder; the path holds it already.
            gate: Called when a write has its connection, right before its bytes leave.
            budget: Request rate; the transport's own if None.

        Raises:
            KubeError: The server refused the request or could not be reached.
        """
        url = self._url(path, query)
        data = orjson.dumps(body) if body is not None else None
        what = partial(describe_request, verb, content, resource, path)
        tries, refreshed = 0, False
        while True:
            await self._wait_for(budget or self._bucket)
            headers = await self._headers(content if data else None, accept, refresh=refreshed)
            sent = _open_gate(data, gate, content)
            self._count_request(verb, resource, subresource)
            started = self._clock.monotonic()
            status, answered, payload = await self._exchange(method, url, sent, headers, what)
            if self._server_clock is not None:
                self._server_clock.hear(answered.get("Date"), asked=started)
            seconds = self._clock.monotonic() - started
            self._child(self.metrics.request_seconds, verb).observe(seconds)
            if status < 400:
                return _parse(payload)
            if status == 401 and not refreshed:
                refreshed = True
                continue
            delay = retry_after_seconds(answered)
            # The server refuses before it acts when it sends 429, so that any verb may retry.
            if status == 429 and delay is not None and tries < _MAX_THROTTLED_TRIES:
                tries += 1
                jitter = self._rng.uniform(0.0, 0.5 * tries)
                await asyncio.sleep(min(delay, _MAX_RETRY_AFTER_SECONDS) + jitter)
                continue
            error = error_from_response(what(), status, payload, answered)
            if isinstance(error, Invalid) and method != "GET":
                self._child(
                    self.metrics.rejected_writes, verb, _name_of(resource, subresource)
                ).inc()
            raise error

    async def _wait_for(self, budget: TokenBucket) -> None:
        if wait := budget.reserve():
            self.metrics.rate_limiter_seconds.inc(wait)
            await asyncio.sleep(wait)

    async def _exchange(
        self,
        method: str,
        url: URL,
        sent: bytes | GatedBody | None,
        headers: Mapping[str, str],
        what: Callable[[], str],
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Send and return the answer's status, headers and body; counts it and tells warnings.

        Raises:
            TransportError: There was none.
        """
        try:
            async with self._session.request(
                method, url, data=sent, headers=headers, timeout=self._timeout, **self._routing
            ) as response:
                payload = await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
            # RuntimeError: the session was closed under a request at shutdown.
            if isinstance(sent, GatedBody) and sent.refusal is not None:
                raise sent.refusal from None
            self._count_answer("<error>", method)
            raise TransportError(what(), message=describe(error)) from error
        self._count_answer(str(response.status), method)
        if "Warning" in response.headers:
            self._warn(response.headers["Warning"])
        return response.status, response.headers, payload

    async def stream(
        self,
        resource: Resource,
        path: str,
        query: Mapping[str, str],
        *,
        silence_seconds: float,
        rest_seconds: float = 0.0,
    ) -> AsyncGenerator[bytes, None]:
        """Open a watch and yield its lines; ends when the server ends it.

        Args:
            resource: What it is about.
            path: Path of the collection.
            query: Query parameters.
            silence_seconds: Give up when not a byte came for so long.
            rest_seconds: Read nothing for so long after each read. What comes meanwhile wakes the
                process once instead of one by one.

        Raises:
            KubeError: The server refused it.
            TransportError: The connection broke or fell silent.
        """
        what = describe_request("watch", JSON, resource, path)
        self._count_request("watch", resource, "")
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=5.0, sock_read=silence_seconds)
        headers = await self._headers(None, JSON)
        try:
            async with self._watch_session.get(
                self._url(path, query), headers=headers, timeout=timeout, **self._routing
            ) as response:
                self._count_answer(str(response.status), "GET")
                if response.status == 401:
                    await self.connection.credentials.authorization(refresh=True)
                if response.status >= 400:
                    payload = await response.read()
                    raise error_from_response(what, response.status, payload, response.headers)
                begun = b""
                async for chunk in response.content.iter_any():
                    *lines, begun = (begun + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield line
                    if rest_seconds and len(chunk) < BUSY_BYTES:
                        await _rest(response, rest_seconds)
        except (aiohttp.ClientError, TimeoutError, OSError, RuntimeError) as error:
            raise TransportError(what, message=describe(error)) from error

    def _url(self, path: str, query: Mapping[str, str] | None) -> URL:
        address = f"{self.connection.server}{path}"
        return URL(f"{address}?{urlencode(query)}" if query else address, encoded=True)

    async def _headers(
        self, content: str | None, accept: str, *, refresh: bool = False
    ) -> dict[str, str]:
        headers = {"Accept": accept}
        if content is not None:
            headers["Content-Type"] = content
        if value := await self.connection.credentials.authorization(refresh=refresh):
            headers["Authorization"] = value
        return headers

    def _count_request(self, verb: str, resource: Resource, subresource: str) -> None:
        name = _name_of(resource, subresource)
        self._child(self.metrics.resource_requests, verb, resource.group, name).inc()
        if self.on_request is not None:
            self.on_request(verb, resource.group, resource.plural, subresource)

    def _count_answer(self, code: str, method: str) -> None:
        self._child(self.metrics.requests, code, method).inc()

    def _child(self, metric: Any, *labels: str) -> Any:
        """Return a metric's child; cached, because ``labels()`` takes a lock and costs more."""
        key = (metric, *labels)
        child = self._counters.get(key)
        if child is None:
            child = self._counters[key] = metric.labels(*labels)
        return child

    def _warn(self, text: str) -> None:
        """Log a warning of the server (deprecated API, unknown field) once."""
        if text not in self._warned and len(self._warned) < 100:
            self._warned.add(text)
            logger.warning("the API server warns: %s", text)


async def _rest(response: aiohttp.ClientResponse, seconds: float) -> None:
    """Leave input in the kernel for a while; no-op once the stream has ended."""
    transport = response.connection.transport if response.connection else None
    if not isinstance(transport, asyncio.Transport):
        return
    # A TLS transport reads ahead of its reader, by half a MiB by default.
    limit_reading_ahead = getattr(transport, "set_read_buffer_limits", None)
    if limit_reading_ahead is not None:
        limit_reading_ahead(high=1, low=0)
    transport.pause_reading()
    try:
        await asyncio.sleep(seconds)
    finally:
        transport.resume_reading()
    # The transport first returns what it had read ahead, then reads the rest: take both at once.
    for _ in range(TURNS_OF_TLS):
        await asyncio.sleep(0)


def _name_of(resource: Resource, subresource: str) -> str:
    return f"{resource.plural}/{subresource}" if subresource else resource.plural


def describe_request(verb: str, content: str, resource: Resource, path: str) -> str:
    """Say what was tried, for errors: ``apply Job team-a/x-train``."""
    rest = path.removeprefix(resource.root).strip("/").split("/")
    in_namespace = len(rest) > 2 and rest[0] == "namespaces"
    name = "/".join(rest[3:] if in_namespace else rest[1:])
    word = "apply" if content == APPLY_PATCH else verb
    if not name:
        return f"{word} {resource.kind}" + (f" in {rest[1]}" if in_namespace else "")
    return f"{word} {resource.kind} {f'{rest[1]}/' if in_namespace else ''}{name}"


def describe(error: BaseException) -> str:
    """Name an exception that may have no text (TimeoutError)."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _open_gate(data: bytes | None, gate: Gate | None, content: str) -> bytes | GatedBody | None:
    """Call the gate before there is a connection, and again when there is one."""
    if gate is None or data is None:
        return data
    gate()
    return GatedBody(data, gate=gate, content_type=content)


def _parse(payload: bytes) -> Object:
    body: Object = orjson.loads(payload)
    return body
