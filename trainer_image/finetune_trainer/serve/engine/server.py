"""``python -m finetune_trainer.serve engine --model URI``: loads the base model and serves it."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import Environment
from finetune_trainer.context import cache_dir
from finetune_trainer.errors import UserError
from finetune_trainer.failures import classify
from finetune_trainer.storage import StorageAccess
from finetune_trainer.storage.models.cache import fetch_model

if TYPE_CHECKING:
    from finetune_trainer.serve.engine.model import ServedModel

DRAIN_SECONDS = 120.0
"""Time that requests have to end after SIGTERM."""


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options; their names are vLLM's where it has them."""
    parser.add_argument("--model", required=True, help="URI or folder of the base model")
    parser.add_argument("--revision", help="its revision, as a run records it")
    parser.add_argument("--served-model-name", help="its name in requests; default: its URI")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8001)
    parser.add_argument("--dtype", choices=("auto", "bfloat16", "float32"), default="auto")
    parser.add_argument(
        "--quantize", action="store_true", help="4-bit base, for QLoRA; needs a GPU"
    )
    parser.add_argument("--trust-remote-code", action="store_true")
    parser.add_argument("--max-adapters", type=int, default=32, help="slots for adapters")
    parser.add_argument("--max-model-len", type=int, help="tokens; default: the model's context")


def run(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code. Requests in progress end first."""
    # Process 1 of a container has no handler of its own, and loading a model takes minutes.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    try:
        _serve(arguments)
    except Exception as error:
        failure = classify(error)
        print(f"error: {failure.reason}: {failure.message}", file=sys.stderr, flush=True)
        return failure.exit_code
    return 0


def _load(options: argparse.Namespace) -> tuple[ServedModel, dict[str, str]]:
    """Return the base model, and what ``GET /version`` says."""
    import torch

    from finetune_trainer.model.hardware import detect_hardware
    from finetune_trainer.serve.engine.model import ServedModel

    credentials = os.environ.get(Environment.CREDENTIALS_DIR)
    access = StorageAccess(credentials_dir=Path(credentials) if credentials else None)
    folder, _ = fetch_model(
        options.model, options.revision, access, cache_dir(), allow_code=options.trust_remote_code
    )
    hardware = detect_hardware()
    kind = options.dtype
    if kind == "auto":
        # As training chooses the type where the job leaves it open.
        kind = "bfloat16" if hardware.supports_bfloat16 else "float32"
    gpu = 0 if hardware.num_gpus else None
    is_quantized = options.quantize and gpu is not None
    model = ServedModel(
        folder,
        name=options.served_model_name or options.model,
        dtype=getattr(torch, kind),
        gpu=gpu,
        quantize=is_quantized,
        trust_remote_code=options.trust_remote_code,
        max_adapters=options.max_adapters,
    )
    return model, {
        "version": version("transformers"),
        "engine": "Transformers",
        "dtype": kind,
        "device": "cpu" if gpu is None else hardware.kind,
        "quantized": is_quantized,
    }


def _serve(options: argparse.Namespace) -> None:
    from aiohttp import web

    from finetune_trainer.serve.engine.routes import make_app
    from finetune_trainer.serve.engine.worker import Worker

    model, about = _load(options)
    context = min(filter(None, (model.context, options.max_model_len)), default=None)
    worker = Worker(model)
    app = make_app(worker, context=context, version=about)
    try:
        web.run_app(
            app,
            host=options.host,
            port=options.port,
            print=None,
            access_log=None,
            handler_cancellation=True,
            shutdown_timeout=DRAIN_SECONDS,
        )
    except OSError as error:
        raise UserError(
            "PortInUse",
            f"{options.host}:{options.port} cannot be listened on ({error.strerror}): stop what "
            "listens there, or give another --port",
        ) from error
    finally:
        worker.stop()
