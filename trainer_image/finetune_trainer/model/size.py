"""How large a model's weights are in memory, from the headers of its files: nothing is loaded."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from finetune_trainer.errors import UserError
from finetune_trainer.model.load import read_config
from finetune_trainer.planning.headers import read_headers
from finetune_trainer.planning.setup import NF4_BYTES

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
    try:
        tensors = read_headers(folder)
    except (OSError, ValueError) as error:
        raise UserError(
            "ModelUnreadable",
            f"{folder}: {error}; the base model must have safetensors weights",
        ) from error
    for name, stored in tensors.items():
        values = math.prod(stored.shape)
        if stored.dtype not in _FLOATS:
            total += values * _BYTES.get(stored.dtype, 1)
        elif quantize and _becomes_4_bits(name, stored.shape, has_experts=has_experts):
            total += values * NF4_BYTES
        else:
            total += values * value_bytes
    return round(total)


def _becomes_4_bits(name: str, shape: Sequence[int], *, has_experts: bool) -> bool:
    is_linear = len(shape) == 2 and name.endswith(".weight")
    is_embedding = any(part in name for part in ("embed", "lm_head", "wte", "wpe"))
    return is_linear and not is_embedding and not (has_experts and ".experts." in name)
