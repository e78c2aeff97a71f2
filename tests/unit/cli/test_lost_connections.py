"""Waiting and following go on when the API server, or the way to it, goes away for a while."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from finetune_cli.cluster import client as cluster_module
from finetune_cli.cluster import follow
from finetune_cli.cluster import waiting as cluster_waiting
from finetune_cli.cluster.client import Cluster
from finetune_cli.cluster.errors import ApiError
from finetune_cli.cluster.follow import watch_until
from finetune_cli.cluster.waiting import follow_log
from finetune_cli.views.state import is_terminal

BREAK, HANG, END = "break", "hang", "end"


class FakeApi:
    """Answers each kind of request with the next of its script; its last answer stays.

    An answer is a status with a body, or what a stream says with how it ends, or None: silence.
    """

    def __init__(self) -> None:
        self.script: dict[str, list[tuple[Any, Any]]] = {}
        self.queries: dict[str, list[dict[str, str]]] = {}
        self.is_over = threading.Event()
        api = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                api.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,))
        self.thread.start()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        url = urlsplit(handler.path)
        query = {key: values[0] for key, values in parse_qs(url.query).items()}
        kind = "watch" if "watch" in query else "log" if url.path.endswith("/log") else "job"
        self.queries.setdefault(kind, []).append(query)
        script = self.script[kind]
        first, second = script.pop(0) if len(script) > 1 else script[0]
        if first is None:
            self.is_over.wait(30)
            handler.close_connection = True
            return
        if isinstance(first, int):
            body = json.dumps(second).encode()
            handler.send_response(first)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
            return
        handler.send_response(200)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        handler.wfile.write(b"%x\r\n%s\r\n" % (len(first), first) if first else b"")
        if second == END:
            handler.wfile.write(b"0\r\n\r\n")
            return
        handler.wfile.flush()
        if second == HANG:
            self.is_over.wait(30)
        handler.close_connection = True

    def close(self) -> None:
        self.is_over.set()
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeApi]:
    monkeypatch.setattr(cluster_module, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(cluster_module, "WATCH_GRACE_SECONDS", 0.1)
    monkeypatch.setattr(cluster_module, "LOG_SILENCE_SECONDS", 0.2)
    monkeypatch.setattr(cluster_waiting, "RETRY_SECONDS", 0.01)
    monkeypatch.setattr(follow, "RETRY_SECONDS", 0.01)
    api = FakeApi()
    yield api
    api.close()


@pytest.fixture
def cluster(api: FakeApi, tmp_path: Path) -> Iterator[Cluster]:
    server = f"http://127.0.0.1:{api.server.server_port}"
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "a",
        "contexts": [{"name": "a", "context": {"cluster": "a", "user": "a", "namespace": "ns"}}],
        "clusters": [{"name": "a", "cluster": {"server": server}}],
        "users": [{"name": "a", "user": {}}],
    }
    (tmp_path / "config").write_text(yaml.safe_dump(config))
    cluster = Cluster.connect(context=None, namespace=None, kubeconfig=tmp_path / "config")
    yield cluster
    cluster._client.rest_client.pool_manager.clear()


def job(phase: str, *, version: str = "1", **condition: str) -> dict[str, Any]:
    status = {"phase": phase, "conditions": [condition] if condition else []}
    return {"metadata": {"name": "a", "resourceVersion": version}, "status": status}


RUNNING = (200, job("Training"))
DONE = (200, job("Succeeded", type="Complete", status="True"))
UNWELL = (503, {"kind": "Status", "message": "etcd is away"})
CHANGE = json.dumps({"type": "MODIFIED", "object": job("Training", version="2")}).encode() + b"\n"


@pytest.mark.parametrize(
    "watch",
    [
        pytest.param((CHANGE + b'{"type": "MOD', BREAK), id="broken in the middle of a change"),
        pytest.param((None, HANG), id="dead before an answer"),
        pytest.param((b"", HANG), id="dead from the start"),
        pytest.param((CHANGE, HANG), id="dead after a change"),
        pytest.param((CHANGE, END), id="ended by the server"),
        pytest.param((410, {"message": "too old resource version"}), id="outdated"),
        pytest.param(UNWELL, id="refused for now"),
    ],
)
def test_wait_reads_again_after_a_watch_is_lost(
    api: FakeApi, cluster: Cluster, watch: tuple[Any, Any]
) -> None:
    api.script = {"job": [RUNNING, UNWELL, DONE], "watch": [watch]}
    phases: list[str] = []

    def note(body: dict[str, Any]) -> None:
        phases.append(body["status"]["phase"])

    watch_until(cluster, "a", is_terminal, on_change=note)
    assert (phases[0], phases[-1]) == ("Training", "Succeeded")
    assert len(api.queries["watch"]) == 1


def test_wait_gives_up_when_the_server_stays_away(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_waiting, "PATIENCE_SECONDS", 0.1)
    api.script = {"job": [RUNNING, UNWELL], "watch": [UNWELL]}
    with pytest.raises(ApiError, match="cannot read FineTuneJob ns/a: etcd is away"):
        watch_until(cluster, "a", is_terminal, on_change=lambda _: None)


def test_what_is_wrong_from_the_start_is_told_at_once(api: FakeApi, cluster: Cluster) -> None:
    api.script = {"job": [UNWELL]}
    with pytest.raises(ApiError):
        watch_until(cluster, "a", is_terminal, on_change=lambda _: None)
    assert len(api.queries["job"]) == 1


def lines(*numbers: int) -> bytes:
    return b"".join(b"2026-01-01T00:00:01.%09dZ line %d\n" % (n, n) for n in numbers)


def test_a_followed_log_shows_each_line_once_over_lost_connections(
    api: FakeApi, cluster: Cluster
) -> None:
    api.script["log"] = [
        (lines(1, 2) + lines(3)[:-4], BREAK),  # the third only in part
        UNWELL,
        (lines(1, 2, 3, 4), HANG),
        (b"", HANG),  # silent, and no reason to give up
        (lines(1, 2, 3, 4, 5) + b"unable to retrieve container logs\n", END),
    ]
    shown = list(follow_log(cluster, "pod"))
    assert shown == [*(f"line {n}" for n in range(1, 6)), "unable to retrieve container logs"]
    since = [query.get("sinceTime") for query in api.queries["log"]]
    second, fourth = (f"2026-01-01T00:00:01.00000000{n}Z" for n in (2, 4))
    assert since == [None, second, second, fourth, fourth]


def test_a_log_that_is_silent_for_long_is_not_given_up(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_waiting, "PATIENCE_SECONDS", 0.0)
    late = (lines(2) + lines(1) + lines(3), END)  # stderr a little before stdout
    api.script["log"] = [(None, HANG), (None, HANG), (b"", HANG), late]
    assert list(follow_log(cluster, "pod")) == ["line 2", "line 1", "line 3"]


def test_a_followed_log_of_a_server_that_stays_away_is_given_up(
    api: FakeApi, cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster_waiting, "PATIENCE_SECONDS", 0.1)
    api.script["log"] = [(lines(1), BREAK), UNWELL]
    shown: list[str] = []
    with pytest.raises(ApiError, match="cannot read the log of pod pod: etcd is away"):
        shown.extend(follow_log(cluster, "pod"))


@pytest.mark.parametrize(
    "call",
    [
        pytest.param(lambda cluster: cluster.get_job("a"), id="read"),
        pytest.param(lambda cluster: cluster.apply_job({"metadata": {"name": "a"}}), id="submit"),
    ],
)
def test_a_cluster_without_the_type_is_told_so(
    api: FakeApi, cluster: Cluster, call: Callable[[Cluster], Any]
) -> None:
    api.script["job"] = [(404, "404 page not found")]  # as an API server answers
    with pytest.raises(ApiError, match="the cluster does not know FineTuneJobs; install"):
        call(cluster)
