"""Starts vLLM on a CPU as people serve an adapter, and asks it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from finetune_operator.finetunejob.render.engine import SERVE
from kit.cluster.sidecar import named_program, run_sidecar
from kit.servers.ports import free_port

PYTHON = named_program("FINETUNE_VLLM_PYTHON")
"""Only where it is asked for: these tests take a quarter of an hour, whatever a cache may hold."""
NEEDS_VLLM = pytest.mark.skipif(
    PYTHON is None,
    reason="takes a quarter of an hour: make vllm-test, or FINETUNE_VLLM_PYTHON=a Python with it",
)
LEAST_EQUAL = 0.99
"""Share of the answers that are to be those of Transformers."""
START_SECONDS = 600
ASK_SECONDS = 900
NUM_AT_ONCE = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class VllmServer:
    """A running server.

    Attributes:
        address: ``http://host:port``.
        log: What the server prints.
    """

    address: str
    log: Path

    def ask_all(
        self, model: str, prompts: Sequence[Any], *, max_tokens: int, num_at_once: int = NUM_AT_ONCE
    ) -> list[str]:
        """Return the greedy answer to every prompt, stripped, in their order."""

        def ask(prompt: Any) -> str:
            return self._ask(model, prompt, max_tokens)

        with ThreadPoolExecutor(num_at_once) as pool:
            return list(pool.map(ask, prompts))

    def _ask(self, model: str, prompt: Any, max_tokens: int) -> str:
        settings = {"model": model, "temperature": 0.0, "max_tokens": max_tokens}
        if isinstance(prompt, str):
            reply = self._post("/v1/completions", {**settings, "prompt": prompt})
            return str(reply["choices"][0]["text"]).strip()
        reply = self._post("/v1/chat/completions", {**settings, "messages": prompt})
        return str(reply["choices"][0]["message"]["content"]).strip()

    def _post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(
            self.address + path,
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ASK_SECONDS) as reply:
            return json.load(reply)


@contextmanager
def serve(
    python: Path, base: Path, adapters: dict[str, Path], *, name: str, dtype: str, log: Path
) -> Iterator[VllmServer]:
    """Serve a base model with adapters until the end of the block.

    Args:
        python: Python of the environment that has vLLM.
        base: Folder of the base model.
        adapters: Folders of the adapters by the name they are asked by, served unchanged.
        name: Name of the base model: an adapter must say the same one.
        dtype: ``bfloat16`` or ``float32``, as in training.
        log: File for what the server prints.
    """
    port = free_port()
    modules = [f"{key}={folder}" for key, folder in adapters.items()]
    lora = ["--enable-lora", "--max-lora-rank", "64", "--lora-modules", *modules]
    command = [
        str(python), "-m", "vllm.entrypoints.openai.api_server", "--model", str(base),
        "--served-model-name", name, *(lora if adapters else ()), "--dtype", dtype,
        "--max-model-len", "1024", "--enforce-eager", "--host", "127.0.0.1", "--port", str(port),
    ]  # fmt: skip
    with log.open("w") as output:
        process = subprocess.Popen(
            command,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=_environment(python),
            start_new_session=True,
        )
        try:
            server = VllmServer(address=f"http://127.0.0.1:{port}", log=log)
            _wait_until_ready(server, process)
            yield server
        finally:
            _stop(process)


@contextmanager
def stand_beside(python: Path, folder: Path, port: int) -> Iterator[dict[str, str]]:
    """Run what the container beside a stage runs; yield what the stage is told of it.

    Args:
        python: Python of the environment that has vLLM.
        folder: What stage and server share; it must not exist.
        port: The server's.
    """
    folder.mkdir(parents=True)
    env = {**_environment(python), "FINETUNE_ENGINE_DIR": str(folder)}
    # What it says lies in the folder, too.
    with run_sidecar(
        SERVE, "serve", "--enforce-eager", env=env, output=subprocess.DEVNULL
    ) as shell:
        yield {"FINETUNE_ENGINE_DIR": str(folder), "FINETUNE_ENGINE_PORT": str(port)}
        shell.terminate()
        assert shell.wait(60) == 0


def _environment(python: Path) -> dict[str, str]:
    return {
        **{key: value for key, value in os.environ.items() if key != "PYTHONPATH"},
        "PATH": f"{python.parent}:{os.environ['PATH']}",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        # A step takes minutes beside much other work.
        "VLLM_EXECUTE_MODEL_TIMEOUT_SECONDS": "3000",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
    }


def _wait_until_ready(server: VllmServer, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, f"vLLM ended:\n{server.log.read_text()[-3000:]}"
        try:
            with urllib.request.urlopen(server.address + "/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(f"vLLM not ready in {START_SECONDS} s:\n{server.log.read_text()[-3000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
