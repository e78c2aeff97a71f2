"""MLflow servers for tests: one of our own in a thread, and a real one beside the project.

Both are read back in the same shape: the real one through MLflow's own client.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qs, urlsplit

from kit.servers.ports import free_port
from kit.servers.quiet_handler import QuietHandler

START_SECONDS = 600
_PREFIX = "/api/2.0/mlflow"
_ARTIFACTS = "/api/2.0/mlflow-artifacts/artifacts/"

_READ_BACK = """
import json, sys
from mlflow import MlflowClient
client = MlflowClient(sys.argv[1], sys.argv[1])
runs = []
for experiment in client.search_experiments():
    for run in client.search_runs([experiment.experiment_id]):
        info, data = run.info, run.data
        points = {key: client.get_metric_history(info.run_id, key) for key in data.metrics}
        runs.append({
            "experiment": experiment.name, "id": info.run_id, "name": info.run_name,
            "status": info.status, "params": data.params, "tags": data.tags,
            "metrics": {k: sorted([p.step, p.value] for p in v) for k, v in points.items()},
            "artifacts": [f.path for f in client.list_artifacts(info.run_id)],
        })
versions = [
    {"name": v.name, "version": str(v.version), "source": v.source, "run_id": v.run_id,
     "tags": v.tags}
    for v in client.search_model_versions()
]
print(json.dumps({"runs": runs, "versions": versions}))
"""


class Server(Protocol):
    """A server that tests may read back, stop and start again."""

    uri: str

    def read(self) -> dict[str, Any]:
        """Return ``runs`` and ``versions``."""

    def stop(self) -> None:
        """Stop answering; what is stored stays."""

    def start(self) -> None:
        """Answer again, at the same address."""


class OwnServer:
    """Enough of MLflow's REST API, written from its documentation.

    Attributes:
        ill: What every call is answered with instead: an HTTP status, ``silent``, ``garbage``.
        headers: Authorization headers that were seen.
    """

    def __init__(self) -> None:
        self.experiments: list[str] = []
        self.runs: list[dict[str, Any]] = []
        self.versions: list[dict[str, Any]] = []
        self.ill: int | str = ""
        self.headers: set[str] = set()
        self.num_calls = 0
        self._lock = threading.Lock()
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.released = threading.Event()
        self.start()

    def start(self) -> None:
        """Answer from now on."""
        self._http = ThreadingHTTPServer(("127.0.0.1", self._port), _handler(self))
        self._http.daemon_threads = True
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Stop answering."""
        self.released.set()
        self._http.shutdown()
        self._http.server_close()

    def read(self) -> dict[str, Any]:
        """Return ``runs`` and ``versions``."""
        with self._lock:
            runs = [run for run in self.runs if not run["deleted"]]
            shown = json.loads(json.dumps({"runs": runs, "versions": self.versions}))
        for run in shown["runs"]:
            run["metrics"] = {k: sorted(v) for k, v in run["metrics"].items()}
        return shown

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and body for a call below ``/api/2.0/mlflow``."""
        with self._lock:
            return getattr(self, "_" + path.replace("/", "_").replace("-", "_"))(body)

    def _experiments_get_by_name(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = body["experiment_name"]
        if name not in self.experiments:
            return 404, {"error_code": "RESOURCE_DOES_NOT_EXIST", "message": f"no {name}"}
        return 200, {"experiment": {"experiment_id": str(self.experiments.index(name))}}

    def _experiments_create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.experiments.append(body["name"])
        return 200, {"experiment_id": str(len(self.experiments) - 1)}

    def _runs_search(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        _, tag, _, value = body["filter"].replace("'", "`").split("`")[:4]
        ids = body["experiment_ids"]
        found = [
            run
            for run in self.runs
            if not run["deleted"]
            and run["tags"].get(tag) == value
            and str(self.experiments.index(run["experiment"])) in ids
        ]
        return 200, {"runs": [self._wire(run) for run in found[: body["max_results"]]]}

    def _runs_create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = {
            "experiment": self.experiments[int(body["experiment_id"])],
            "id": f"r{len(self.runs)}",
            "name": body["run_name"],
            "status": "RUNNING",
            "params": {},
            "tags": {each["key"]: each["value"] for each in body["tags"]},
            "metrics": {},
            "artifacts": [],
            "deleted": False,
        }
        self.runs.append(run)
        return 200, {"run": self._wire(run)}

    def _runs_update(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._run(body)["status"] = body["status"]
        return 200, {}

    def _runs_delete(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self._run(body)["deleted"] = True
        return 200, {}

    def _runs_log_batch(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        run = self._run(body)
        for each in body.get("params", []):
            if run["params"].get(each["key"], each["value"]) != each["value"]:
                return 400, {"error_code": "INVALID_PARAMETER_VALUE", "message": "changed"}
            run["params"][each["key"]] = each["value"]
        for each in body.get("tags", []):
            run["tags"][each["key"]] = each["value"]
        for each in body.get("metrics", []):
            run["metrics"].setdefault(each["key"], []).append([each["step"], each["value"]])
        return 200, {}

    def _registered_models_create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if any(each["name"] == body["name"] for each in self.versions):
            return 400, {"error_code": "RESOURCE_ALREADY_EXISTS", "message": body["name"]}
        return 200, {}

    def _model_versions_search(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        name = body["filter"].split("'")[1]
        return 200, {"model_versions": [v for v in self.versions if v["name"] == name]}

    def _model_versions_create(self, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        number = 1 + sum(each["name"] == body["name"] for each in self.versions)
        tags = {each["key"]: each["value"] for each in body["tags"]}
        self.versions.append({**body, "version": str(number), "tags": tags})
        return 200, {}

    def put(self, path: str) -> tuple[int, dict[str, Any]]:
        """Take an artefact."""
        run_id, name = path.split("/", 1)
        self._run({"run_id": run_id})["artifacts"].append(name)
        return 200, {}

    def _run(self, body: dict[str, Any]) -> dict[str, Any]:
        return next(run for run in self.runs if run["id"] == body["run_id"])

    def _wire(self, run: dict[str, Any]) -> dict[str, Any]:
        def pairs(texts: dict[str, str]) -> list[dict[str, str]]:
            return [{"key": key, "value": text} for key, text in texts.items()]

        latest = [
            {"key": key, "step": max(step for step, _ in points)}
            for key, points in run["metrics"].items()
        ]
        return {
            "info": {
                "run_id": run["id"],
                "experiment_id": str(self.experiments.index(run["experiment"])),
                "artifact_uri": f"mlflow-artifacts:/{run['id']}",
                "status": run["status"],
            },
            "data": {
                "params": pairs(run["params"]),
                "tags": pairs(run["tags"]),
                "metrics": latest,
            },
        }


def _handler(server: OwnServer) -> type[BaseHTTPRequestHandler]:
    class Handler(QuietHandler):
        def do_GET(self) -> None:
            asked = urlsplit(self.path)
            body = {key: values[0] for key, values in parse_qs(asked.query).items()}
            self._answer(asked.path, body)

        def do_POST(self) -> None:
            self._answer(self.path, json.loads(self.read_body()))

        def do_PUT(self) -> None:
            self.read_body()
            self._answer(self.path, {})

        def _answer(self, path: str, body: dict[str, Any]) -> None:
            server.num_calls += 1
            server.headers.add(self.headers.get("Authorization", ""))
            if server.ill == "silent":
                server.released.wait()
                return
            if server.ill == "garbage":
                self._send(200, b"<html>a portal</html>")
                return
            if server.ill:
                self._send(int(server.ill), b"{}")
                return
            if path.startswith(_ARTIFACTS):
                status, answer = server.put(path.removeprefix(_ARTIFACTS))
            else:
                status, answer = server.answer(path.removeprefix(f"{_PREFIX}/"), body)
            self._send(status, json.dumps(answer).encode())

        def _send(self, status: int, text: bytes) -> None:
            self.send_body(status, text, Location="http://127.0.0.1:1/elsewhere")

    return Handler


class RealServer:
    """MLflow as people run it, from a virtual environment of its own.

    Args:
        python: Of an environment that has the package ``mlflow``.
        folder: Where it keeps everything.
    """

    def __init__(self, python: Path, folder: Path) -> None:
        self._python = python
        self._folder = folder
        self._port = free_port()
        self.uri = f"http://127.0.0.1:{self._port}"
        self.start()

    def start(self) -> None:
        """Start it and wait until it answers."""
        command = [
            str(self._python), "-m", "mlflow", "server", "--host", "127.0.0.1",
            "--port", str(self._port), "--workers", "1", "--serve-artifacts",
            "--backend-store-uri", f"sqlite:///{self._folder}/mlflow.db",
            "--artifacts-destination", f"{self._folder}/artifacts",
        ]  # fmt: skip
        with (self._folder / "server.log").open("a") as log:
            self._process = subprocess.Popen(
                command, cwd=self._folder, env=_quiet(), stdout=log, stderr=log,
                start_new_session=True,
            )  # fmt: skip
        end = time.monotonic() + START_SECONDS
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > end:
                raise AssertionError((self._folder / "server.log").read_text()[-2000:])
            time.sleep(0.5)

    def stop(self) -> None:
        """Stop it; what it has stored stays."""
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def read(self) -> dict[str, Any]:
        """Return ``runs`` and ``versions``, as MLflow's own client reads them."""
        done = subprocess.run(
            [str(self._python), "-c", _READ_BACK, self.uri],
            env=_quiet(), capture_output=True, text=True, check=True,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return found

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                return True
        except OSError:
            return False


def _quiet() -> dict[str, str]:
    kept = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    return {**kept, "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "1"}


@contextmanager
def serving(folder: Path) -> Iterator[OwnServer | RealServer]:
    """Serve until the end of the block; really, if ``FINETUNE_TRACKERS_PYTHON`` names a Python."""
    python = os.environ.get("FINETUNE_TRACKERS_PYTHON")
    server = RealServer(Path(python), folder) if python else OwnServer()
    try:
        yield server
    finally:
        server.stop()
