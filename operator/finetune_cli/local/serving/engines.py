"""Command lines of the processes that serve on this machine."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from finetune_cli.errors import CliError
from finetune_cli.local.job import cache_root
from finetune_cli.local.serving.version import PublishedVersion

HOST = "127.0.0.1"
VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Ranks that vLLM makes room for. Source: vllm.config.lora.MaxLoRARanks."""


def serve_command(name: str, *options: str) -> list[str]:
    """Return the command line of one of the trainer's serving processes."""
    return [sys.executable, "-m", "finetune_trainer.serve", name, *options]


def engine_command(
    version: PublishedVersion, engine: str, port: int, folder: Path
) -> Sequence[str]:
    """Return the command line of the engine, with the base model in the type of training."""
    record = version.record
    dtype = "bfloat16" if record["recipe"]["bfloat16"] else "float32"
    address = ("--host", HOST, "--port", str(port), "--dtype", dtype)
    if record.get("trustRemoteCode"):
        raise CliError(
            f"{record['model']} runs code that ships with it; finetune serve does not run it: "
            "serve the version on a cluster, with an image that you trust"
        )
    if engine == "Transformers":
        pinned = ("--model", base_of(version), "--revision", str(record["revision"]))
        quantized = ("--quantize",) if record.get("quantization") else ()
        return serve_command("engine", *pinned, *address, *quantized)
    if shutil.which("vllm") is None:
        raise CliError(
            "--engine vllm: there is no program vllm on the PATH; install vLLM, or use "
            "--engine Transformers"
        )
    return _vllm_command(version, address, folder)


def _vllm_command(version: PublishedVersion, address: Sequence[str], folder: Path) -> Sequence[str]:
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import open_store
    from finetune_trainer.storage.models.cache import fetch_model

    record = version.record
    try:
        base, _ = fetch_model(
            base_of(version), str(record["revision"]), version.access, cache_root()
        )
        store = open_store(version.root, version.access)
        for name in ("adapter_config.json", "chat_template.jinja"):
            with suppress(KeyError):
                (folder / name).write_bytes(store.read_bytes(f"{version.run}/adapter/{name}"))
    except TrainerError as error:
        raise CliError(error.message, exit_code=error.exit_code) from error
    rank = int(json.loads((folder / "adapter_config.json").read_text())["r"])
    return [
        *("vllm", "serve", str(base), "--served-model-name", base_of(version), *address),
        *("--enable-lora", "--max-lora-rank", str(next(r for r in VLLM_RANKS if r >= rank))),
        *("--generation-config", "vllm"),
        *("--chat-template", str(folder / "chat_template.jinja")),
    ]


def base_of(version: PublishedVersion) -> str:
    """Return the URI of the base model."""
    record = version.record
    return str(record.get("modelUri") or f"hf://{record['model']}")
