"""How large a model's weights are in memory, from the headers of its files: nothing is loaded."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from finetune_trainer.errors import UserError
from finetune_trainer.model.load import read_config

INDEX_NAME = "model.safetensors.index.json"
NF4_BYTES = 0.5 + 1 / 64 + 4 / (64 * 256)
"""Bytes of a weight in 4 bits: its half byte, a byte of scale per 64, a float32 per 256 scales.

Source: QLoRA (arXiv 2305.14314), section 3, double quantisation."""

_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_BYTES = {"I64": 8, "U64": 8, "I32": 4, "U32": 4, "I16": 2, "U16": 2}
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


def weight_bytes(folder: Path, *, value_bytes: int, quantize: bool = False) -> int:
    """Return the bytes that the weights in ``folder`` take once loaded.

    Args:
        folder: Model folder with safetensors weights.
        value_bytes: Bytes of a floating-point value as it is loaded: 2 for bfloat16.
        quantize: The linear layers are loaded in 4 bits (NF4, double quantisation).

    Raises:
        UserError: A file of weights is not safetensors.
    """
    config = read_config(folder)
    text = config.get("text_config") or config
    # Experts are one parameter of three dimensions in memory, which bitsandbytes leaves as it is.
    has_experts = any(config.get(name) or text.get(name) for name in _EXPERTS)
    total = 0.0
    for path in weight_files(folder):
        for name, dtype, shape in _tensors_of(path):
            values = math.prod(shape)
            if dtype not in _FLOATS:
                total += values * _BYTES.get(dtype, 1)
            elif quantize and _becomes_4_bits(name, shape, has_experts=has_experts):
                total += values * NF4_BYTES
            else:
                total += values * value_bytes
    return round(total)


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads; some folders hold the weights in two layouts."""
    index = folder / INDEX_NAME
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [folder / name for name in names]
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def _becomes_4_bits(name: str, shape: list[int], *, has_experts: bool) -> bool:
    is_linear = len(shape) == 2 and name.endswith(".weight")
    is_embedding = any(part in name for part in ("embed", "lm_head", "wte", "wpe"))
    return is_linear and not is_embedding and not (has_experts and ".experts." in name)


def _tensors_of(path: Path) -> Iterator[tuple[str, str, list[int]]]:
    """Yield name, type and shape of every tensor.

    Source: github.com/huggingface/safetensors, "Format".
    """
    try:
        with path.open("rb") as file:
            (size,) = struct.unpack("<Q", file.read(8))
            header: dict[str, Any] = json.loads(file.read(size))
    except (OSError, ValueError, struct.error, MemoryError, OverflowError) as error:
        raise UserError(
            "ModelUnreadable",
            f"{path} is not a safetensors file ({type(error).__name__}); the base model must have "
            "safetensors weights",
        ) from error
    for name, entry in header.items():
        if name != "__metadata__":
            yield name, entry["dtype"], entry["shape"]
