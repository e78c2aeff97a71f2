"""Holds the weights that are trained beside a frozen base in float32.

A bfloat16 weight cannot move by less than about a 256th of itself. PEFT copies ``modulesToSave`` in
their own type, and TRL makes the adapter of a 4-bit base bfloat16: at an adapter's rate a norm's
weights would never move, and half of the adapter's would not. Computation stays in bfloat16 under
autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper

from finetune_trainer.planning.setup import trains_in_float32

NARROW = (torch.bfloat16, torch.float16)


def train_in_float32(model: torch.nn.Module, *, adapter: str, strategy: str) -> int:
    """Hold trained weights beside a base in float32, before there is an optimiser.

    Returns:
        Whole modules that were of a narrower type.
    """
    if not trains_in_float32(adapter, strategy):
        return 0
    wrappers = [each for each in model.modules() if isinstance(each, ModulesToSaveWrapper)]
    num_widened = sum(_widen(wrapper) for wrapper in wrappers)
    if adapter == "QLoRA":  # PEFT itself holds every other adapter in float32
        for parameter in model.parameters():
            if parameter.requires_grad and parameter.dtype in NARROW:
                parameter.data = parameter.data.float()
    return num_widened


def _widen(wrapper: ModulesToSaveWrapper) -> bool:
    types = {parameter.dtype for parameter in wrapper.original_module.parameters()}
    narrow = next((kind for kind in NARROW if kind in types), None)
    if narrow is None:
        return False

    def cast_back(_: torch.nn.Module, __: tuple[Any, ...], output: Any) -> Any:
        return output.to(narrow) if isinstance(output, torch.Tensor) else output

    for copy in wrapper.modules_to_save.values():
        copy.float()
        copy.register_forward_hook(cast_back)
    return True


def count_trainable(model: torch.nn.Module) -> int:
    """Count the trainable parameters, also of a model that ZeRO-3 has sharded."""
    return sum(
        int(getattr(parameter, "ds_numel", parameter.numel()))
        for parameter in model.parameters()
        if parameter.requires_grad
    )
