"""Runs rendered serving pods as processes: the same commands and variables, elsewhere.

Folders that a container mounts lie below one folder of this machine, and ports are free ones. Two
fields are not the operator's: the file of endpoints that stands for the cluster, and the address.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.names import AGENT_CONTAINER, FRONT_CONTAINER, SERVING_ENGINE_CONTAINER
from finetune_api.protocol.serving import FrontReport, ServerReport, parse_report
from finetune_operator.finetuneendpoint.render.pods import HOME, TOKEN_DIR
from finetune_operator.finetuneendpoint.render.server import ENGINE_PORT
from kit.servers.ports import free_port

HOST = "127.0.0.1"
TOKEN = "front-token"
STOP_SECONDS = 30.0
_STAYS = frozenset({HOME, "/dev/shm"})
"""Mounts without content of ours; every path may begin with the first."""


@dataclass(kw_only=True)
class Machine:
    """Where pods run.

    Attributes:
        folder: Holds a folder for each pod.
        vllm: Python that has vLLM.
        variables: Further environment of engines.
    """

    folder: Path
    vllm: Path
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def endpoints(self) -> Path:
        """The file that fronts and agents follow."""
        return self.folder / "endpoints.json"

    @property
    def keys(self) -> Path:
        """Holds a folder for each Secret with keys."""
        return self.folder / "keys"


class Pod:
    """The containers of one rendered Deployment, as processes."""

    def __init__(self, machine: Machine, manifest: Mapping[str, Any]) -> None:
        self.name = str(manifest["metadata"]["name"])
        self.folder = machine.folder / self.name
        self.folder.mkdir(parents=True)
        self.port, self.report_port, self.engine_port = (free_port() for _ in range(3))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self._machine = machine
        self._manifest = manifest

    def start(self, *, server_url: str = "") -> None:
        """Start all containers; a front sends requests to ``server_url``."""
        pod = self._manifest["spec"]["template"]["spec"]
        for container in (*pod.get("initContainers", ()), *pod["containers"]):
            self._start(container, server_url)

    def restart(self, name: str) -> None:
        """Kill a container and start it again, as the kubelet does."""
        self.kill(name)
        pod = self._manifest["spec"]["template"]["spec"]
        named = [*pod.get("initContainers", ()), *pod["containers"]]
        self._start(next(each for each in named if each["name"] == name), "")

    def kill(self, name: str) -> None:
        """Kill a container with all its processes."""
        with suppress(ProcessLookupError):
            os.killpg(self.processes[name].pid, signal.SIGKILL)
        self.processes[name].wait()

    def stop(self) -> None:
        """End all containers, the agent before its engine."""
        for process in reversed(self.processes.values()):
            if process.poll() is None:
                process.terminate()
            with suppress(subprocess.TimeoutExpired):
                process.wait(STOP_SECONDS)
        for name in self.processes:
            self.kill(name)

    def read_log(self, name: str) -> str:
        """Return what a container has printed."""
        return (self.folder / f"{name}.log").read_text(errors="replace")

    def report(self) -> FrontReport | ServerReport | None:
        """Return its report as the operator reads it; None if it gives none."""
        text = self._get("/report")
        return None if text is None else parse_report(text)

    @property
    def is_ready(self) -> bool:
        """Whether its readiness probe succeeds."""
        return self._get("/readyz") is not None

    def _get(self, path: str) -> str | None:
        try:
            with urllib.request.urlopen(
                f"http://{HOST}:{self.report_port}{path}", timeout=20
            ) as reply:
                return str(reply.read().decode())
        except (urllib.error.URLError, OSError):
            return None

    def _start(self, container: Mapping[str, Any], server_url: str) -> None:
        name = container["name"]
        given = {each["name"]: each["value"] for each in container["env"]}
        text = json.dumps([container["command"], given])
        for mount in sorted(container["volumeMounts"], key=lambda each: -len(each["mountPath"])):
            if mount["mountPath"] not in _STAYS:
                place = self._place_of(mount["mountPath"], mount["name"])
                text = text.replace(mount["mountPath"], str(place))
        command, environment = json.loads(text.replace(str(ENGINE_PORT), str(self.engine_port)))
        environment["HOME"] = str(self._place_of(HOME, f"home-{name}"))
        program = Path(sys.executable)
        if name == SERVING_ENGINE_CONTAINER:
            program = self._machine.vllm
            environment |= self._machine.variables
        else:
            environment["FINETUNE_ENDPOINTS"] = self._machine.endpoints.as_uri()
            address = ("--port", str(self.port), "--report-port", str(self.report_port))
            command += ["--host", HOST, *address]
            if paths := os.environ.get("PYTHONPATH"):
                environment["PYTHONPATH"] = paths
        if name == FRONT_CONTAINER:
            environment["FINETUNE_SERVER_URL"] = server_url
            environment["FINETUNE_KEYS_DIR"] = str(self._machine.keys)
        environment["PATH"] = f"{program.parent}:/usr/local/bin:/usr/bin:/bin"
        with (self.folder / f"{name}.log").open("ab") as output:
            self.processes[name] = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _place_of(self, path: str, volume: str) -> Path:
        place = self.folder / volume
        place.mkdir(exist_ok=True)
        if path == TOKEN_DIR:
            (place / "token").write_text(TOKEN)
        return place


__all__ = ["AGENT_CONTAINER", "HOST", "SERVING_ENGINE_CONTAINER", "Machine", "Pod"]
