"""Lets modules that are trained whole beside an adapter learn in float32.

PEFT trains an adapter in float32 over bfloat16 weights, but copies ``modulesToSave`` as they are.
AdamW moves a weight by about the learning rate, and a bfloat16 weight cannot move by less than
about a 256th of itself: at the rates of adapters a norm's weights, near 1, would never move at all.
FSDP2 moreover takes only trained weights of one type. The model computes in bfloat16 as before:
autocast casts the weights of linear layers, and what another module returns is cast back.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.utils.other import ModulesToSaveWrapper

from finetune_trainer.planning.setup import widens_whole

NARROW = (torch.bfloat16, torch.float16)


def train_in_float32(model: torch.nn.Module, *, adapter: str, strategy: str) -> int:
    """Hold the trained copies of whole modules in float32, before there is an optimiser.

    Args:
        model: A model with its adapter; one without is left alone.
        adapter: Type of the adapter.
        strategy: How the ranks share the work.

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
