"""Follows every tensor that a training step allocates: what is alive, and what autograd saved.

The count is of tensors' storages, as torch's allocator hands them out on a GPU: exact, the same on
every machine, and free of what Python, libraries and ``malloc`` add. Scratch memory inside a kernel
is not seen.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class AllocationMeter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of living storages, and their peak, while it is entered.

    Args:
        known: Tensors that exist already and count from the start, such as weights.
    """

    def __init__(self, known: Iterable[torch.Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = 0
        self.peak = 0
        self._sizes: dict[int, int] = {}
        for tensor in known:
            self._note(tensor)

    def __torch_dispatch__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run the operation and note what it returns."""
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._note(leaf)
        return out

    def _note(self, tensor: torch.Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self._sizes:
            return
        self._sizes[key] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self.live -= self._sizes.pop(key, 0)


class SavedMeter:
    """Adds up what autograd saves in one forward pass, each storage once.

    Args:
        weights: Tensors that exist anyway.
    """

    def __init__(self, weights: Iterable[torch.Tensor]) -> None:
        self._weights = {tensor.untyped_storage()._cdata for tensor in weights}
        self._sizes: dict[int, int] = {}
        self.largest = 0

    def hooks(self) -> Any:
        """Return the context to run the forward pass in."""
        self._sizes.clear()
        return torch.autograd.graph.saved_tensors_hooks(self._pack, lambda tensor: tensor)

    def close(self) -> None:
        """End a forward pass."""
        self.largest = max(self.largest, sum(self._sizes.values()))

    def _pack(self, tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in self._weights:
            self._sizes[storage._cdata] = storage.nbytes()
        return tensor
