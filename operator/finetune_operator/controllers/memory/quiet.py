"""A stretch in which changes that a cache takes in wake nobody: whoever wrote has seen them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class WakeupSuppression:
    """Whether such a stretch is on. Event loop only; a stretch must not await."""

    def __init__(self) -> None:
        self.is_on = False

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Begin a stretch that ends with the block."""
        self.is_on = True
        try:
            yield
        finally:
            self.is_on = False
