"""Address and identity for the API server: kubeconfig or the pod's service account.

The official client's loader takes 0.6 s and 30 MiB to import. Users of a kubeconfig that get their
credentials from a program (``exec``, ``auth-provider``) are refused with an error.
"""

from __future__ import annotations

import base64
import contextlib
import os
import ssl
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import aiohttp
import yaml

from finetune_operator.kube.api.paging import BoundedPages, PagedResponse
from finetune_operator.kube.clock import Clock, SystemClock

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
TOKEN_REREAD_SECONDS = 60.0


class ConnectionConfigError(Exception):
    """No usable way to an API server was configured; the message says what is missing where."""


class Credentials(Protocol):
    """Source of the Authorization header."""

    async def authorization(self, *, refresh: bool = False) -> str:
        """Return the header's value, empty if there is none; ``refresh`` drops what is cached."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class StaticCredentials:
    """A fixed header, or none (client certificates)."""

    value: str = ""

    async def authorization(self, *, refresh: bool = False) -> str:
        """Return the fixed header."""
        return self.value


class TokenFileCredentials:
    """A token file that the kubelet rotates; re-read at most once a minute."""

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self._path = path
        self._clock = clock or SystemClock()
        self._value = ""
        self._read_at = float("-inf")

    async def authorization(self, *, refresh: bool = False) -> str:
        """Return ``Bearer <token>``; an unreadable file keeps the last token."""
        now = self._clock.monotonic()
        if refresh or now - self._read_at >= TOKEN_REREAD_SECONDS:
            try:
                # A few hundred bytes from tmpfs: a thread costs more than the read.
                self._value = f"Bearer {self._path.read_text(encoding='utf-8').strip()}"
            except OSError as error:
                if not self._value:
                    raise ConnectionConfigError(
                        f"cannot read the token file {self._path}: {error}"
                    ) from error
            self._read_at = now
        return self._value


@dataclass(frozen=True, kw_only=True, slots=True)
class Connection:
    """One API server and one identity.

    Attributes:
        server: Base address without a trailing slash.
        ssl: TLS settings; None for plain HTTP.
        proxy: HTTP proxy from the kubeconfig; the environment's proxies are not used.
        server_hostname: Name to verify the certificate against; None for the host of ``server``.
    """

    server: str
    ssl: ssl.SSLContext | None = field(default=None, repr=False)
    credentials: Credentials = field(default_factory=StaticCredentials, repr=False)
    namespace: str = "default"
    proxy: str | None = None
    server_hostname: str | None = None

    def open_session(
        self, *, max_connections: int, user_agent: str, attach_credentials: bool = False
    ) -> aiohttp.ClientSession:
        """Open a session with its own bounded connection pool; needs a running loop.

        Pages of lists are bounded in bytes (``paging.py``). ``max_connections`` is 0 for no limit.
        ``attach_credentials`` sets the Authorization header on every request, for a session that a
        library uses; ``KubeClient`` sets the header itself, which is cheaper.
        """

        async def authorize(
            request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
        ) -> aiohttp.ClientResponse:
            if value := await self.credentials.authorization():
                request.headers["Authorization"] = value
            return await handler(request)

        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=max_connections,
                ttl_dns_cache=300,
                ssl=self.ssl if self.ssl is not None else True,
            ),
            headers={"User-Agent": user_agent},
            cookie_jar=aiohttp.DummyCookieJar(),
            # Compression costs both sides more CPU than it saves on a cluster network.
            skip_auto_headers=("Accept-Encoding",),
            middlewares=(BoundedPages(), *((authorize,) if attach_credentials else ())),
            response_class=PagedResponse,
            read_bufsize=1 << 20,
            trust_env=False,
        )


def load_connection(path: str | None = None, *, context: str | None = None) -> Connection:
    """Find the API server: an explicit kubeconfig, KUBECONFIG, in-cluster, ``~/.kube/config``.

    ``context`` replaces ``current-context``.

    Raises:
        ConnectionConfigError: No configuration was found, or it is incomplete.
    """
    if path is None and not os.environ.get("KUBECONFIG"):
        if (SERVICE_ACCOUNT_DIR / "token").exists():
            return load_in_cluster()
        path = str(Path.home() / ".kube" / "config")
    paths = [path] if path else os.environ["KUBECONFIG"].split(os.pathsep)
    return load_kubeconfig([Path(item).expanduser() for item in paths if item], context=context)


def load_in_cluster(folder: Path = SERVICE_ACCOUNT_DIR) -> Connection:
    """Connect as the pod's service account.

    Raises:
        ConnectionConfigError: Not inside a pod with a service-account token.
    """
    host = os.environ.get("KUBERNETES_SERVICE_HOST")
    port = os.environ.get("KUBERNETES_SERVICE_PORT", "443")
    if not host:
        raise ConnectionConfigError("KUBERNETES_SERVICE_HOST is not set: not inside a cluster")
    namespace_file = folder / "namespace"
    return Connection(
        server=f"https://{f'[{host}]' if ':' in host else host}:{port}",
        ssl=_ssl_context({"certificate-authority": str(folder / "ca.crt")}, {}, folder),
        credentials=TokenFileCredentials(folder / "token"),
        namespace=namespace_file.read_text().strip() if namespace_file.exists() else "default",
    )


def load_kubeconfig(paths: list[Path], *, context: str | None = None) -> Connection:
    """Read kubeconfig files; as in kubectl, the first file to name an entry wins.

    Raises:
        ConnectionConfigError: No file exists, or context, cluster or user are not in them.
    """
    found = [path for path in paths if path.exists()]
    if not found:
        raise ConnectionConfigError(f"no kubeconfig at {', '.join(map(str, paths))}")
    entries: dict[str, dict[str, tuple[dict[str, Any], Path]]] = {}
    current = ""
    for path in found:
        try:
            document = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
        except (OSError, yaml.YAMLError) as error:
            raise ConnectionConfigError(f"cannot read the kubeconfig {path}: {error}") from error
        current = current or document.get("current-context") or ""
        for section in ("clusters", "users", "contexts"):
            named = entries.setdefault(section, {})
            for item in document.get(section) or []:
                named.setdefault(item["name"], (item.get(section[:-1]) or {}, path.parent))

    def look_up(section: str, name: str) -> tuple[dict[str, Any], Path]:
        try:
            return entries[section][name]
        except KeyError as error:
            known = ", ".join(sorted(entries.get(section, {}))) or "none"
            raise ConnectionConfigError(
                f"no {section[:-1]} {name!r} in {', '.join(map(str, found))}; there are: {known}"
            ) from error

    chosen, _ = look_up("contexts", context or current)
    cluster, cluster_folder = look_up("clusters", chosen.get("cluster", ""))
    user, user_folder = look_up("users", chosen["user"]) if chosen.get("user") else ({}, found[0])
    server = str(cluster.get("server", "")).rstrip("/")
    secure = server.startswith("https://")
    return Connection(
        server=server,
        ssl=_ssl_context(cluster, user, cluster_folder, user_folder) if secure else None,
        credentials=_credentials(user, user_folder),
        namespace=chosen.get("namespace") or "default",
        proxy=cluster.get("proxy-url"),
        server_hostname=cluster.get("tls-server-name"),
    )


def _credentials(user: Mapping[str, Any], folder: Path) -> Credentials:
    if user.get("tokenFile"):
        return TokenFileCredentials(folder / user["tokenFile"])
    if user.get("token"):
        return StaticCredentials(value=f"Bearer {user['token']}")
    if user.get("username"):
        pair = f"{user['username']}:{user.get('password', '')}"
        return StaticCredentials(value=f"Basic {base64.b64encode(pair.encode()).decode()}")
    for field_name in ("exec", "auth-provider"):
        if user.get(field_name):
            raise ConnectionConfigError(
                f"the kubeconfig's user gets its credentials from a program ({field_name}), which"
                " the operator does not run: give it token, tokenFile or a client certificate, or"
                " run the operator in the cluster with its service account"
            )
    return StaticCredentials()


def _ssl_context(
    cluster: Mapping[str, Any],
    user: Mapping[str, Any],
    cluster_folder: Path,
    user_folder: Path | None = None,
) -> ssl.SSLContext:
    """Build TLS settings from the inline data or files of a kubeconfig's cluster and user."""
    context = ssl.create_default_context()
    if cluster.get("insecure-skip-tls-verify"):
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    try:
        if data := cluster.get("certificate-authority-data"):
            context.load_verify_locations(cadata=base64.b64decode(data).decode("ascii"))
        elif name := cluster.get("certificate-authority"):
            context.load_verify_locations(cafile=cluster_folder / name)
        folder = user_folder or cluster_folder
        with contextlib.ExitStack() as stack:
            certificate = _file_of(user, "client-certificate", folder, stack)
            key = _file_of(user, "client-key", folder, stack)
            if certificate:
                context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError, ValueError) as error:
        raise ConnectionConfigError(
            f"cannot load the certificates for {cluster.get('server', 'the API server')}: {error}"
        ) from error
    return context


def _file_of(
    user: Mapping[str, Any], name: str, folder: Path, stack: contextlib.ExitStack
) -> Path | None:
    """Return a file for the ssl module, which takes no bytes; inline data lives as long as it."""
    if data := user.get(f"{name}-data"):
        file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="kube-"))  # noqa: SIM115
        file.write(base64.b64decode(data))
        file.flush()
        return Path(file.name)
    return folder / user[name] if user.get(name) else None
