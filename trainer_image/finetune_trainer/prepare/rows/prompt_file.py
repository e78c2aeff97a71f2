"""Normalised prompts on disk, which any process may read by their numbers."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFile:
    """Distinct prompts; hashable and picklable.

    Attributes:
        path: File of texts, UTF-8, one after the other.
        spans: File of an array in ``.npy``, shape ``(n, 2)``: where each prompt begins and ends.
    """

    path: Path
    spans: Path

    def open(self) -> Callable[[int], bytes]:
        """Return the function that reads a prompt."""
        import numpy as np

        spans = np.load(self.spans, mmap_mode="r")
        if not self.path.stat().st_size:  # there is nothing to map
            return lambda _: b""
        with self.path.open("rb") as stream:
            texts = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
        return lambda index: texts[spans[index, 0] : spans[index, 1]]
