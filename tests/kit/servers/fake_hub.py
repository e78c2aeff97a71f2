"""A Hugging Face Hub on loopback: one repository per name, ranges, tokens, cut connections.

Large files are redirected to a second server, as the real Hub does to its CDN, so that a test can
see that the token does not go there. With ``add_xet_storage`` they lie in Xet storage as well,
which is a folder here.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

LARGE_BYTES = 1000


@dataclass(kw_only=True)
class Repository:
    """Commits by id and names for them; ``gated`` and ``private`` want a token."""

    commits: dict[str, dict[str, bytes]]
    refs: dict[str, str]
    gated: bool = False
    private: bool = False


@dataclass(kw_only=True)
class Request:
    """What the server was asked."""

    path: str
    range: str | None
    token: str | None
    on_cdn: bool


@dataclass(kw_only=True)
class FakeHub:
    """A running server. ``cut_bytes``: bytes of each large answer before the line is cut."""

    token: str = "hf_good"
    repositories: dict[str, Repository] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    cut_bytes: int | None = None
    damage: bool = False
    url: str = ""
    cdn_url: str = ""
    xet_url: str = ""
    xet_hashes: dict[str, str] = field(default_factory=dict)
    """Hash in Xet storage by the SHA-256 of a file."""

    def add(self, name: str, files: dict[str, bytes], **options: bool) -> str:
        """Commit files to ``main`` of a repository (``datasets/org/name`` for data); return it."""
        body = repr(sorted((key, hashlib.sha1(data).hexdigest()) for key, data in files.items()))
        commit = hashlib.sha1(body.encode()).hexdigest()
        repository = self.repositories.setdefault(name, Repository(commits={}, refs={}, **options))
        repository.commits[commit] = files
        repository.refs["main"] = commit
        return commit

    def add_xet_storage(self, folder: Path, *files: bytes) -> None:
        """Put files into Xet storage in an empty folder, and offer it from now on."""
        from hf_xet import XetSession

        self.xet_url = f"local://{folder}"
        with XetSession().new_upload_commit(endpoint=self.xet_url) as commit:
            uploads = [commit.start_upload_bytes(data) for data in files]
        for data, upload in zip(files, uploads, strict=True):
            stored = upload.result().xet_info.hash
            self.xet_hashes[hashlib.sha256(data).hexdigest()] = stored

    def downloads(self, name: str) -> list[Request]:
        """Requests for the bytes of a file, in order."""
        return [
            request
            for request in self.requests
            if request.path.endswith(f"/{name}")
            and request.on_cdn == (len(self._any_file(name)) > LARGE_BYTES)
        ]

    def _any_file(self, name: str) -> bytes:
        for repository in self.repositories.values():
            for files in repository.commits.values():
                if name in files:
                    return files[name]
        return b""


def describe_file(name: str, data: bytes) -> dict[str, Any]:
    blob = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    entry: dict[str, Any] = {"rfilename": name, "size": len(data), "blobId": blob}
    if len(data) > LARGE_BYTES:
        sha256 = hashlib.sha256(data).hexdigest()
        entry["lfs"] = {"size": len(data), "sha256": sha256, "pointerSize": 134}
    return entry


class _Handler(BaseHTTPRequestHandler):
    hub: FakeHub
    on_cdn = False
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ") or None
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(
            Request(path=path, range=self.headers.get("Range"), token=token, on_cdn=self.on_cdn)
        )
        parts = path.strip("/").split("/")
        if "xet-read-token" in parts:
            self._answer_xet_token()
        elif parts[:2] == ["api", "models"]:
            self._answer_info("/".join(parts[2:4]), "/".join(parts[5:]), token)
        elif parts[:2] == ["api", "datasets"]:
            self._answer_info("/".join(parts[1:4]), "/".join(parts[5:]), token)
        elif "resolve" in parts:
            at = parts.index("resolve")
            self._answer_file("/".join(parts[:at]), parts[at + 1], "/".join(parts[at + 2 :]), token)
        else:
            self._fail(404, "EntryNotFound")

    def _find(self, name: str, token: str | None) -> Repository | None:
        repository = self.hub.repositories.get(name)
        if repository is None or (repository.private and token != self.hub.token):
            self._fail(401 if token is None else 404, "RepoNotFound")
        elif repository.gated and token != self.hub.token:
            self._fail(403, "GatedRepo")
        else:
            return repository
        return None

    def _answer_info(self, name: str, revision: str, token: str | None) -> None:
        repository = self._find(name, token)
        if repository is None:
            return
        commit = repository.refs.get(revision, revision)
        if commit not in repository.commits:
            self._fail(404, "RevisionNotFound")
            return
        files = repository.commits[commit]
        body = {
            "id": name.removeprefix("datasets/"),
            "modelId": name,
            "sha": commit,
            "private": False,
            "tags": [],
            "downloads": 0,
            "likes": 0,
            "siblings": [describe_file(key, data) for key, data in files.items()],
        }
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _answer_file(self, name: str, commit: str, key: str, token: str | None) -> None:
        repository = self.hub.repositories[name] if self.on_cdn else self._find(name, token)
        if repository is None:
            return
        data = repository.commits.get(commit, {}).get(key)
        if data is None:
            self._fail(404, "EntryNotFound")
        elif len(data) > LARGE_BYTES and not self.on_cdn:
            self._send(
                302, b"", {"Location": f"{self.hub.cdn_url}{self.path}"} | self._xet(name, data)
            )
        else:
            self._send_file(data)

    def _xet(self, name: str, data: bytes) -> dict[str, str]:
        stored = self.hub.xet_hashes.get(hashlib.sha256(data).hexdigest())
        route = f"{self.hub.url}/api/models/{name}/xet-read-token/main"
        return {"X-Xet-Hash": stored, "Link": f'<{route}>; rel="xet-auth"'} if stored else {}

    def _answer_xet_token(self) -> None:
        body = {"accessToken": "xet", "exp": 4_000_000_000, "casUrl": self.hub.xet_url}
        self._send(200, json.dumps(body).encode(), {"Content-Type": "application/json"})

    def _send_file(self, data: bytes) -> None:
        first = 0
        headers = {}
        if asked := self.headers.get("Range"):
            first = int(asked.removeprefix("bytes=").partition("-")[0])
            headers["Content-Range"] = f"bytes {first}-{len(data) - 1}/{len(data)}"
        rest = data[first:]
        if self.hub.damage:
            rest = bytes(len(rest))
        cut = self.hub.cut_bytes
        if cut is not None and len(data) > LARGE_BYTES and len(rest) > cut:
            self._send(206 if headers else 200, rest[:cut], headers, length=len(rest))
            self.close_connection = True
        else:
            self._send(206 if headers else 200, rest, headers)

    def _fail(self, status: int, code: str) -> None:
        self._send(status, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def _send(
        self, status: int, body: bytes, headers: dict[str, str], length: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in headers.items():
            self.send_header(key, value)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


@contextmanager
def fake_hub() -> Iterator[FakeHub]:
    """Run the Hub and its CDN."""
    hub = FakeHub()
    servers = []
    for on_cdn in (False, True):
        handler = type("Handler", (_Handler,), {"hub": hub, "on_cdn": on_cdn})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        server.daemon_threads = True
        # Another host name for the CDN: the same one with another port might share credentials.
        host = "localhost" if on_cdn else "127.0.0.1"
        url = f"http://{host}:{server.server_address[1]}"
        if on_cdn:
            hub.cdn_url = url
        else:
            hub.url = url
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        servers.append(server)
    try:
        yield hub
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
