"""Normalised prompts on disk, which any process may read by their numbers."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, kw_only=True, slots=True)
class PromptFile:
    """Distinct prompts; hashable and picklable.

    ``path`` holds UTF-8 texts. ``spans`` is a ``.npy`` file, shape ``(n, 2)``: begin and end of
    each prompt.
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
