"""Serves a version on this machine: engine, agent and front as processes on loopback.

The file that front and agent follow stands for the cluster. The version is a candidate without
requests until the agent has verified it; then it is active.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.names import adapter_name
from finetune_api.protocol.trainer import Environment, ExitCode
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.local.job import cache_root
from finetune_cli.local.serving.engines import HOST, base_of, engine_command, serve_command
from finetune_cli.local.serving.monitoring import note_active, note_rejected
from finetune_cli.local.serving.version import PublishedVersion
from finetune_cli.local.stages import die_with_parent, read_tail

SERVER = "local"
"""Name of the one server, where a cluster would have a Deployment's."""
LOOK_SECONDS = 0.3
STOP_SECONDS = {"front": 15.0, "recorder": 15.0, "agent": 3.0, "engine": 3.0}
"""Time to end by itself. The front ends first; the recorder then stores what is left."""

Tell = Callable[[str], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class Ports:
    """Ports on loopback; only the front's is for users."""

    front: int
    front_report: int
    agent: int
    agent_report: int
    engine: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Serving:
    """A version that answers.

    Attributes:
        url: Base URL for OpenAI clients.
        model: Its name in requests.
        verification: What the agent found, as in its report.
    """

    url: str
    model: str
    verification: Mapping[str, Any]
    processes: Mapping[str, LocalProcess]

    def wait(self) -> None:
        """Wait for a process to end.

        Raises:
            CliError: One has ended.
        """
        while True:
            for process in self.processes.values():
                process.check()
            time.sleep(LOOK_SECONDS)


@dataclass(kw_only=True)
class LocalProcess:
    """One process that serves, with its log."""

    name: str
    command: Sequence[str]
    environment: Mapping[str, str]
    log: Path
    process: subprocess.Popen[bytes] = field(init=False)

    def start(self) -> None:
        """Start it in a session of its own, so that Ctrl-C reaches this program alone.

        Raises:
            CliError: Its program is not installed.
        """
        with self.log.open("ab") as output:
            try:
                self.process = subprocess.Popen(
                    self.command,
                    env=dict(self.environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    preexec_fn=die_with_parent if sys.platform == "linux" else None,
                )
            except OSError as error:
                raise CliError(f"the {self.name} does not start: {error}") from error

    def check(self) -> None:
        """Raise ``CliError`` with the end of its log if it has ended."""
        code = self.process.poll()
        if code is not None:
            raise CliError(
                f"the {self.name} ended with exit code {code}:\n{read_tail(self.log)}",
                exit_code=code if code > 0 else ExitCode.INTERNAL,
            )

    def stop(self) -> None:
        """End it: with patience, then at once."""
        if self.process.poll() is None:
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(STOP_SECONDS[self.name])
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


@contextmanager
def serve_version(
    version: PublishedVersion,
    *,
    engine: str,
    port: int,
    folder: Path,
    tell: Tell,
    capture: Path | None = None,
) -> Iterator[Serving]:
    """Serve a version until the end of the block.

    Args:
        version: The version.
        engine: ``Transformers`` or ``vllm``.
        port: Port for users.
        folder: Scratch folder of the processes; it has their logs.
        tell: Called with each line of progress.
        capture: Folder for all answers and the feedback on them; None stores nothing.

    Raises:
        CliError: The port is in use, a process ended, or the version is not what was evaluated.
    """
    check_port(port)
    if not version.has_adapter:
        raise CliError(
            f"{version.manifest_uri} has whole weights and no adapter: serve the folder of its "
            "weights with an engine of your own, or on a cluster with a FineTuneEndpoint"
        )
    free = [_free_port() for _ in range(5)]
    ports = Ports(
        front=port, front_report=free[0], agent=free[1], agent_report=free[2], engine=free[3]
    )
    endpoints = folder / "endpoints.json"
    _write(endpoints, endpoint_of(version, is_verified=False, capture=capture))
    token = _token_file(capture or folder)
    commands = {
        "engine": engine_command(version, engine, ports.engine, folder),
        "agent": _listening("agent", ports.agent, ports.agent_report),
        "front": _listening("front", ports.front, ports.front_report),
    }
    environment = {**_environment(version, ports, folder), "FINETUNE_TOKEN_FILE": str(token)}
    if capture is not None:
        recorder = serve_command("recorder", "--host", HOST, "--report-port", str(free[4]))
        commands = {"recorder": recorder, **commands}
        environment["FINETUNE_RECORDER_SOCKET"] = str(folder / "recorder.sock")
        environment["FINETUNE_SPOOL_DIR"] = str(capture / "spool")
    with _running(commands, environment, folder) as processes:
        verification = _wait_until_verified(version, ports, processes, tell, capture)
        active = endpoint_of(version, is_verified=True, capture=capture)
        _write(endpoints, active)
        if capture is not None:
            note_active(capture, active)
        _wait_until_active(version, ports, processes)
        url = f"http://{HOST}:{port}/v1"
        yield Serving(url=url, model=version.job, verification=verification, processes=processes)


@contextmanager
def _running(
    commands: Mapping[str, Sequence[str]], environment: Mapping[str, str], folder: Path
) -> Iterator[dict[str, LocalProcess]]:
    """Run the processes in their order until the end of the block, then stop the last one first."""
    with ExitStack() as stack:
        processes: dict[str, LocalProcess] = {}
        for name, command in commands.items():
            process = LocalProcess(
                name=name, command=command, environment=environment, log=folder / f"{name}.log"
            )
            process.start()
            stack.callback(process.stop)
            processes[name] = process
        yield processes


def _listening(name: str, port: int, report_port: int) -> list[str]:
    options = ("--host", HOST, "--port", str(port), "--report-port", str(report_port))
    return serve_command(name, *options)


def check_port(port: int) -> None:
    """Make sure that a port is free.

    Raises:
        CliError: It is in use, or this user may not listen on it.
    """
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError as error:
            raise CliError(
                f"--port {port}: {HOST}:{port} cannot be listened on ({error.strerror}); stop what "
                "listens there, or give another --port"
            ) from error


def _token_file(folder: Path) -> Path:
    """Return a file with a token; one that is there stays, or earlier ids were worth nothing."""
    token = folder / "token"
    if not token.exists():
        folder.mkdir(parents=True, exist_ok=True)
        token.touch(mode=0o600)
        token.write_text(secrets.token_urlsafe(32))
    return token


def endpoint_of(
    version: PublishedVersion, *, is_verified: bool, capture: Path | None = None
) -> dict[str, Any]:
    """Return the FineTuneEndpoint that front, recorder and agent follow."""
    spec: dict[str, Any] = {"jobRef": {"name": version.job}}
    if capture is not None:
        uri = capture.absolute().as_uri()
        spec["capture"] = {"include": "All", "sample": "1", "uri": uri, "openToAll": True}
    served: dict[str, Any] = {
        "version": version.number,
        "adapter": adapter_name(version.namespace, version.job, version.number),
        "manifestUri": version.manifest_uri,
        "sha256": version.sha256,
        "server": SERVER,
        "baseModel": base_of(version),
        "format": "Adapter",
        "storage": {
            "uri": version.root,
            **({"endpoint": version.access.endpoint} if version.access.endpoint else {}),
            **({"region": version.access.region} if version.access.region else {}),
        },
        "jobUid": version.uid,
    }
    status = {"active": served} if is_verified else {"candidate": {**served, "weight": 0}}
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": version.job, "namespace": version.namespace},
        "spec": spec,
        "status": status,
    }


def _environment(version: PublishedVersion, ports: Ports, folder: Path) -> dict[str, str]:
    (folder / "adapters").mkdir()
    environment = {
        **os.environ,
        "FINETUNE_NAMESPACE": version.namespace,
        "FINETUNE_SERVER": SERVER,
        "FINETUNE_SERVER_URL": f"http://{HOST}:{ports.agent}",
        "FINETUNE_ENGINE_URL": f"http://{HOST}:{ports.engine}",
        "FINETUNE_ENDPOINTS": (folder / "endpoints.json").as_uri(),
        "FINETUNE_ADAPTERS_DIR": str(folder / "adapters"),
        "FINETUNE_KEYS_DIR": str(folder / "keys"),
        "FINETUNE_LINGER_SECONDS": "0",
        "FINETUNE_GRACE_SECONDS": str(STOP_SECONDS["front"]),
        "VLLM_ALLOW_RUNTIME_LORA_UPDATING": "True",
        "VLLM_NO_USAGE_STATS": "1",
    }
    environment.pop(Environment.ENGINE_DIR, None)
    environment.setdefault(Environment.CACHE_DIR, str(cache_root()))
    return environment


def _wait_until_verified(
    version: PublishedVersion,
    ports: Ports,
    processes: Mapping[str, LocalProcess],
    tell: Tell,
    capture: Path | None,
) -> Mapping[str, Any]:
    """Wait for the agent's verdict and return what it found; a no is noted in ``capture``.

    Raises:
        CliError: The version is not what was evaluated, or a process has ended.
    """
    name = adapter_name(version.namespace, version.job, version.number)
    told = ""
    while True:
        for process in processes.values():
            process.check()
        report = _get(f"http://{HOST}:{ports.agent_report}/report") or {}
        found = next((a for a in report.get("adapters", ()) if a["name"] == name), None)
        state = "Starting" if found is None else str(found["state"])
        if found is not None and state == "Verified":
            return found.get("verification") or {}
        if found is not None and state == "Failed":
            if capture is not None:
                note_rejected(capture, version.number, found)
            raise CliError(_describe_failure(version, found), exit_code=NOT_MET)
        words = f"{state.lower()}: {found['message']}" if found and found.get("message") else state
        if words != told:
            told = words
            tell(words.lower() if words == state else words)
        time.sleep(LOOK_SECONDS)


def _describe_failure(version: PublishedVersion, found: Mapping[str, Any]) -> str:
    lines = [
        f"version {version.number} of {version.job} is not served: {found.get('reason')}: "
        f"{found.get('message')}"
    ]
    for number in (found.get("verification") or {}).get("differing", ()):
        lines.append(f"  line {number} of samples.jsonl is answered otherwise than evaluated")
    return "\n".join(lines)


def _wait_until_active(
    version: PublishedVersion, ports: Ports, processes: Mapping[str, LocalProcess]
) -> None:
    name = adapter_name(version.namespace, version.job, version.number)
    while True:
        for process in processes.values():
            process.check()
        report = _get(f"http://{HOST}:{ports.front_report}/report") or {}
        if any(each.get("active") == name for each in report.get("endpoints", ())):
            return
        time.sleep(LOOK_SECONDS)


def _get(url: str) -> Any:
    try:
        with urllib.request.urlopen(url, timeout=5) as reply:  # noqa: S310 - loopback
            return json.load(reply)
    except (OSError, ValueError, urllib.error.URLError):
        return None


def _write(path: Path, endpoint: Mapping[str, Any]) -> None:
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps([endpoint], indent=1))
    beside.replace(path)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
