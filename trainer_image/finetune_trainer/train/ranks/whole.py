"""Trains whole modules beside an adapter in float32.

PEFT copies ``modulesToSave`` in their own type. A bfloat16 weight cannot move by less than about a
256th of itself, so a norm's weights would never move at an adapter's rate. Computation stays in
bfloat16 under autocast.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper

from finetune_trainer.planning.setup import widens_whole

NARROW = (torch.bfloat16, torch.float16)


def train_in_float32(model: torch.nn.Module, *, adapter: str, strategy: str) -> int:
    """Hold the trained copies of whole modules in float32, before there is an optimiser.

    Returns:
        Modules that were of a narrower type.
    """
    if not widens_whole(adapter, strategy):
        return 0
    wrappers = [each for each in model.modules() if isinstance(each, ModulesToSaveWrapper)]
    return sum(_widen(wrapper) for wrapper in wrappers)


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
