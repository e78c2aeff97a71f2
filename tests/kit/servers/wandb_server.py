"""A server for the client of Weights & Biases: what its run needs of one, and what can ail it.

Written from what the client asks for, and no proof that the service itself would answer so: it
stands for what a client is told when it begins again, and for the ways in which it is not answered.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from kit.servers.ports import free_port
from kit.servers.quiet_handler import QuietHandler

ENTITY = "team"


class WandbServer:
    """Runs by name, each with ``config``, ``summary``, ``history``, ``exit_code`` and ``group``.

    Attributes:
        ill: What every call is answered with instead: an HTTP status, ``silent``.
        bodies: All that was sent, for looking for what should not leave.
        headers: Authorization headers that were seen.
    """

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.ill: int | str = ""
        self.bodies: list[str] = []
        self.headers: set[str] = set()
        self.lock = threading.Lock()
        self.released = threading.Event()
        port = free_port()
        self.uri = f"http://127.0.0.1:{port}"
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """Return the answer to a call."""
        if path.endswith("/file_stream"):
            self._take(path.split("/")[-2], body)
            return {}
        asked, variables = body.get("operationName"), body.get("variables", {})
        if asked == "RunResumeStatus":
            run = self.runs.get(variables["name"])
            project = {"id": "p", "name": variables["project"], "entity": _entity()}
            bucket = self._resumed(run) if run else None
            return {"data": {"model": {**project, "bucket": bucket}}}
        if asked == "UpsertBucket":
            return {"data": {"upsertBucket": self._upsert(variables)}}
        if asked == "CreateRunFiles":
            files = [{"name": n, "uploadUrl": f"{self.uri}/put/{n}"} for n in variables["files"]]
            return {"data": {"createRunFiles": {"runID": "x", "uploadHeaders": [], "files": files}}}
        return {"data": {}}

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        name = variables["name"]
        is_new = name not in self.runs
        run = self.runs.setdefault(name, {"history": [], "summary": {}, "config": {}})
        if variables.get("config"):
            told = json.loads(variables["config"])
            run["config"] = {key: item["value"] for key, item in told.items()}
        for key, field in (
            ("project", "project"),
            ("groupName", "group"),
            ("displayName", "title"),
        ):
            if variables.get(key):
                run[field] = variables[key]
        project = {"id": "p", "name": run["project"], "entity": _entity()}
        bucket = {"id": name, "name": name, "displayName": run.get("title"), "project": project}
        lines = len(run["history"])
        return {"bucket": {**bucket, "historyLineCount": lines}, "inserted": is_new}

    def _resumed(self, run: dict[str, Any]) -> dict[str, Any]:
        config = {key: {"value": value} for key, value in run["config"].items()}
        return {
            "id": "x",
            "name": "x",
            "summaryMetrics": json.dumps(run["summary"]),
            "displayName": run.get("title"),
            "logLineCount": 0,
            "historyLineCount": len(run["history"]),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in run["history"][-1:]]),
            "eventsTail": "[]",
            "config": json.dumps(config),
            "tags": [],
            "notes": None,
            "wandbConfig": json.dumps({"t": 1}),
        }

    def _take(self, name: str, body: dict[str, Any]) -> None:
        run = self.runs[name]
        for file, piece in (body.get("files") or {}).items():
            lines = [json.loads(line) for line in piece["content"]]
            if file == "wandb-history.jsonl":
                run["history"][piece["offset"] :] = lines
            elif file == "wandb-summary.json":
                run["summary"] = lines[-1]
        if body.get("complete"):
            run["exit_code"] = body.get("exitcode")


def _entity() -> dict[str, str]:
    return {"id": "e", "name": ENTITY}


def _handler(server: WandbServer) -> type[BaseHTTPRequestHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            self._send(404, b"{}")

        def do_PUT(self) -> None:
            self.read_body()
            self._send(200, b"")

        def do_POST(self) -> None:
            text = self.read_body().decode()
            server.headers.add(self.headers.get("Authorization", ""))
            if server.ill == "silent":
                server.released.wait()
                return
            if server.ill:
                self._send(int(server.ill), b"{}")
                return
            with server.lock:
                server.bodies.append(text)
                answer = server.answer(self.path, json.loads(text))
            self._send(200, json.dumps(answer).encode())

        def _send(self, status: int, text: bytes) -> None:
            self.send_body(status, text, Content_Type="application/json")

    return Handler
