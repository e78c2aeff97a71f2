"""LoRA of a frozen linear layer, whose matrix products also scale and add.

PEFT scales the low-rank product and adds it in kernels of their own, forward and backward.
"""

from __future__ import annotations

from typing import Any

import torch
from peft.tuners.lora import Linear
from torch import Tensor, nn


def fuse_lora(model: nn.Module) -> int:
    """Let adapters compute by :class:`FusedLinear`, in place, where they are plain LoRA.

    Dropout, DoRA, biases of adapters, 4-bit weights and fused experts keep PEFT's computation.

    Returns:
        Layers that changed.
    """
    found = [each for each in model.modules() if type(each) is Linear and _is_plain(each)]
    for layer in found:
        layer.__class__ = FusedLinear
    return len(found)


def _is_plain(layer: Linear) -> bool:
    return (
        type(layer.base_layer) is nn.Linear
        and not layer.lora_variant
        and not any(layer.lora_bias.values())
        and not any(getattr(drop, "p", 0.0) for drop in layer.lora_dropout.values())
    )


class FusedLinear(Linear):  # type: ignore[misc]
    """PEFT's layer with a shorter computation, equal up to rounding.

    It holds for one active adapter on a frozen base, in one type of values; otherwise PEFT
    computes.
    """

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Return the base's output with the scaled update."""
        (name, *others), weight, device = self.lora_A, self.base_layer.weight, x.device.type
        a, b = self.lora_A[name].weight, self.lora_B[name].weight
        is_cast = torch.is_autocast_enabled(device)
        kind = torch.get_autocast_dtype(device) if is_cast else a.dtype
        is_alone = not others and self.active_adapters == [name]
        is_active = is_alone and not (self.disable_adapters or self.merged)
        is_frozen = x.dtype == weight.dtype == kind and not weight.requires_grad
        out: Tensor
        if is_active and is_frozen and not (args or kwargs):
            bias, scale = self.base_layer.bias, self.scaling[name]
            rows = x.reshape(-1, x.shape[-1])
            added = _Fused.apply(rows, weight, bias, a.to(kind), b.to(kind), scale)  # type: ignore[no-untyped-call]
            # A view made inside the function could not be changed in place by a model.
            out = added.view(*x.shape[:-1], weight.shape[0])
        else:
            out = super().forward(x, *args, **kwargs)
        return out


class _Fused(torch.autograd.Function):
    """``x W' + bias + scaling (x A') B'`` of rows x, with gradients of x, A and B only."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, a: Tensor, b: Tensor, scale: float
    ) -> Tensor:
        inner = x @ a.t()
        out = nn.functional.linear(x, weight, bias).addmm_(inner, b.t(), alpha=scale)
        ctx.save_for_backward(x, weight, a, b, inner)
        ctx.scale = scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, weight, a, b, inner = ctx.saved_tensors
        (grad,) = grads
        inner_grad = grad @ b
        # With beta 0 the first matrix is not read.
        a_grad = torch.addmm(a, inner_grad.t(), x, beta=0, alpha=ctx.scale)
        b_grad = torch.addmm(b, grad.t(), inner, beta=0, alpha=ctx.scale)
        x_grad = None
        if ctx.needs_input_grad[0]:
            x_grad = (grad @ weight).addmm_(inner_grad, a, alpha=ctx.scale)
        return x_grad, None, None, a_grad, b_grad, None
