"""Compiles the repeated blocks of a model instead of the whole model."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn


def compile_blocks(model: nn.Module, *, backend: str = "inductor") -> None:
    """Let torch compile each repeated block of a model at its first call, in place.

    Blocks of one class share their compiled code, so this takes the time of one block. From the
    first call on the code is for rows of any length, so a run that resumes computes as before.
    Names of weights and hooks of sharding stay, and adapters may still be added. Embeddings, the
    head and the loss in chunks run as they are.
    """
    from torch import nn

    stacks = [part for part in model.modules() if isinstance(part, nn.ModuleList)]
    for stack in stacks:
        if len(stack) > 1 and len({type(block) for block in stack}) == 1:
            for block in stack:
                block.compile(backend=backend, dynamic=True)
