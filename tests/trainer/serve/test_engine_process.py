"""The engine as a process: it drains when it is stopped, and names a port in use."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from kit.processes.eventually import eventually
from kit.servers.ports import free_port

ROOT = Path(__file__).parents[3]
START_SECONDS = 100


def start(model: Path, port: int) -> subprocess.Popen[str]:
    roots = [str(ROOT / "operator"), str(ROOT / "trainer_image")]
    options = ["--model", str(model), "--served-model-name", "base", "--port", str(port)]
    return subprocess.Popen(
        [sys.executable, "-m", "finetune_trainer.serve", "engine", *options],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(roots), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.PIPE,
        text=True,
    )


def is_healthy(port: int, process: subprocess.Popen[str]) -> bool:
    if process.poll() is not None:
        pytest.fail(process.communicate()[1])
    urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
    return True


def test_a_request_in_progress_ends_before_the_process_does(tiny_model: Path) -> None:
    port = free_port()
    process = start(tiny_model, port)
    eventually(lambda: is_healthy(port, process), START_SECONDS)
    body = {"model": "base", "prompt": "What", "max_tokens": 300, "temperature": 2, "seed": 1}
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/completions",
        data=json.dumps({**body, "stream": True}).encode(),
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        first = reply.readline()
        process.send_signal(signal.SIGTERM)
        rest = reply.read()
    assert first.startswith(b"data: ")
    assert rest.endswith(b"data: [DONE]\n\n")
    assert process.wait(60) == 0
    process.communicate()


def test_a_port_in_use_is_named_with_the_option(tiny_model: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        process = start(tiny_model, taken.getsockname()[1])
        _, errors = process.communicate(timeout=4 * START_SECONDS)
    assert process.returncode == 64
    assert "PortInUse" in errors
    assert "another --port" in errors


def test_a_model_that_is_not_there_is_a_user_error(tmp_path: Path) -> None:
    process = start(tmp_path / "nowhere", free_port())
    _, errors = process.communicate(timeout=4 * START_SECONDS)
    assert process.returncode == 64
    assert "ModelNotFound" in errors
