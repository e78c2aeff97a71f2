"""The headers of a model's weight files, without the weights."""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HEADER_LIMIT = 100_000_000
"""Largest header a safetensors file may have. Source: safetensors, ``MAX_HEADER_SIZE``."""
INDEX_NAME = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class Stored:
    """Shape and type of a stored tensor, as safetensors names it."""

    shape: tuple[int, ...]
    dtype: str


def weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers loads. Raise ``ValueError`` for a damaged index."""
    index = folder / INDEX_NAME
    if index.is_file():
        try:
            names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{INDEX_NAME} is no index of weight files: {error}") from error
        return [folder / str(name) for name in names]
    whole = folder / "model.safetensors"
    return [whole] if whole.is_file() else sorted(folder.glob("*.safetensors"))


def read_headers(folder: Path) -> dict[str, Stored]:
    """Return type and shape of every tensor that transformers loads from a folder.

    Raises:
        OSError: A file of the index is missing.
        ValueError: The index, or a file, is damaged; the message names it.
    """
    found: dict[str, Stored] = {}
    for path in weight_files(folder):
        found |= read_header(path)
    return found


def read_header(path: Path) -> dict[str, Stored]:
    """Return type and shape of every tensor in a safetensors file.

    Format: 8 bytes little-endian length, then JSON.

    Raises:
        OSError: There is no such file.
        ValueError: The file does not begin with such a header.
    """
    with path.open("rb") as file:
        try:
            (size,) = struct.unpack("<Q", file.read(8))
            if size > HEADER_LIMIT:
                raise ValueError(f"a header of {size} bytes")
            header = json.loads(file.read(size))
            return {
                name: Stored(tuple(entry["shape"]), str(entry["dtype"]))
                for name, entry in header.items()
                if name != "__metadata__"
            }
        except (struct.error, ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path.name} is no safetensors file: {error}") from error


def usual_type(stored: Mapping[str, Stored]) -> str:
    """Return the type of most weights."""
    sizes: dict[str, int] = {}
    for each in stored.values():
        sizes[each.dtype] = sizes.get(each.dtype, 0) + math.prod(each.shape)
    return max(sizes, key=lambda name: sizes[name])


def values_per_element(name: str, dtype: str) -> float:
    """Return how many weights an element of a tensor holds: packed ones several, scales none."""
    if name.endswith(("_scales", "weight_scale_inv", ".scales", ".qzeros", ".g_idx", "_scale")):
        return 0.0
    if name.endswith("_blocks") and dtype == "U8":
        return 2.0
    if name.endswith(".qweight"):
        return 8.0
    return 1.0
