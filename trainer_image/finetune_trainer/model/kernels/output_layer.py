"""A model's output layer, fed so that its wide matrix is multiplied once for a whole batch.

Only the last positions of a batch are turned into logits, a slice of what the layers give. torch
multiplies a slice with a matrix that needs no gradient row by row of the batch (``should_fold`` in
ATen's ``LinearAlgebra.cpp``). Where oneDNN multiplies bfloat16, on CPUs with AVX-512, the matrix
is copied for each row first: with 49,152 tokens and 56 rows 3.2 GB, and half of the time that short
answers take. Other CPUs copy nothing and read the matrix once for each row. Packing costs a copy of
the slice and is faster on all of them, so nothing here asks which one it is.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel


def pack_output_input(model: PreTrainedModel) -> None:
    """Have what a model's output layer reads lie in one piece; adapters may be put on it later."""
    layer = model.get_output_embeddings()
    if layer is not None:
        layer.register_forward_pre_hook(_pack)


def _pack(_layer: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    hidden, *others = inputs
    return hidden.contiguous(), *others
