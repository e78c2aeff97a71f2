"""Counts what one micro batch of a line allocates beside its weights, without memory for it.

The real model of transformers, PEFT's adapter and TRL's loss run forward and backward on fake
tensors: they have shapes, types and storages, and no bytes. Two small numbers of layers are run,
and each moment is continued to all layers: it grows by the same bytes per layer.

Stand-ins take the place of what needs a GPU: dropout keeps a mask of bytes, the Triton kernels of
TRL's loss do nothing, and a layer in 4 bits makes its weight for a moment.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any
from unittest import mock

from finetune_trainer.planning.setup import Batch, Setup

if TYPE_CHECKING:
    import torch

NUM_LAYERS = (2, 4)
"""Layers of the models that are run: the first and the last one have to be two."""
MOMENTS = ("forward", "head", "first", "last")


@dataclass(frozen=True, kw_only=True, slots=True)
class Moments:
    """Bytes beside weights and optimiser.

    Attributes:
        saved: Storages that autograd holds after the forward pass, without weights.
        forward: Largest in the forward pass.
        head: In the backward pass of head and last norm.
        first: Of the block that goes backward first, which is the last one.
        last: Of the block that goes backward last, and of the embedding.
    """

    saved: float
    forward: float
    head: float
    first: float
    last: float

    @property
    def peak(self) -> float:
        """The largest moment. Blocks between first and last lie between these two."""
        return max(self.forward, self.head, self.first, self.last)


def count_moments(config: Any, setup: Setup, batch: Batch) -> Moments:
    """Count the moments of a model of this configuration, by two smaller ones."""
    few, many = NUM_LAYERS
    one, other = (run_micro_batch(config, setup, batch, num_layers=n) for n in NUM_LAYERS)
    steps = (config.num_hidden_layers - few) / (many - few)
    return Moments(
        **{
            each.name: getattr(one, each.name)
            + steps * (getattr(other, each.name) - getattr(one, each.name))
            for each in fields(Moments)
        }
    )


def run_micro_batch(
    config: Any, setup: Setup, batch: Batch, *, num_layers: int, is_real: bool = False
) -> Moments:
    """Run a micro batch forward and backward, and count.

    ``is_real`` takes memory for it, to compare with; then a model has to be small.
    """
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode

    with torch.device("cpu" if is_real else "meta"):
        model = build_model(config, setup, num_layers)
    with _without_triton():
        if is_real:
            return _count(model, setup, batch)
        mode = FakeTensorMode()
        fake_tensors_of(model, mode)
        with mode:
            return _count(model, setup, batch)


def fake_tensors_of(model: torch.nn.Module, mode: Any, device: str = "cpu") -> None:
    """Turn the tensors of a model on the meta device into fake ones on another."""
    import torch

    made: dict[torch.Tensor, Any] = {}  # a tied weight stays one

    def fake(tensor: torch.Tensor) -> Any:
        if tensor not in made:
            made[tensor] = mode.fake_tensor_converter.from_meta_and_device(
                mode, tensor.detach(), torch.device(device)
            )
        return made[tensor]

    for module in model.modules():
        for name, weight in module._parameters.items():
            if weight is not None:
                held = torch.nn.Parameter(fake(weight), requires_grad=weight.requires_grad)
                module._parameters[name] = held
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = fake(buffer)


def build_model(config: Any, setup: Setup, num_layers: int) -> torch.nn.Module:
    """Build the model as a rank of this setup trains it, with fewer layers."""
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForCausalLM
    from trl.trainer.utils import add_fused_lm_head

    from finetune_api.v1alpha1.spec.method import Adapter
    from finetune_trainer.model.adapters import build_lora_config
    from finetune_trainer.train.ranks.whole import train_in_float32

    small = shorten(config, num_layers)
    small._attn_implementation = _name_attention(setup)
    # FSDP2 gathers float32 weights as bfloat16.
    is_narrow = setup.bfloat16 and (not setup.is_full or setup.strategy == "FSDP2")
    dtype = torch.bfloat16 if is_narrow else torch.float32
    model = AutoModelForCausalLM.from_config(small, dtype=dtype)
    add_fused_lm_head(model, outputs=("log_probs", "entropy", "is_top1"))
    if setup.adapter == "QLoRA":
        _quantize(model)
    if not setup.is_full:
        adapter = Adapter(
            type=setup.adapter,
            rank=setup.rank,
            dropout="0.05" if setup.dropout else "0",
            target_modules=list(setup.targets),
        )
        model = get_peft_model(model, build_lora_config(adapter, model))
        train_in_float32(model, adapter=setup.adapter, strategy=setup.strategy)
        _adapt_types(model, setup)
    if setup.checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        if not setup.is_full and setup.strategy != "FSDP2":
            model.enable_input_require_grads()
    model.train()
    found: torch.nn.Module = model
    return found


def shorten(config: Any, num_layers: int) -> Any:
    """Return a configuration with so many layers."""
    by_layer = ("layer_types", "moe_layers", "no_rope_layers")
    kept = {name: value for name, value in config.to_dict().items() if name not in by_layer}
    return type(config)(**{**kept, "num_hidden_layers": num_layers})


def make_inputs(setup: Setup, batch: Batch) -> dict[str, Any]:
    """Return a micro batch as the collator makes it, with the mask that transformers builds."""
    import torch

    shape = (1, batch.tokens) if setup.padding_free else (batch.rows, batch.longest)
    ids = torch.zeros(shape, dtype=torch.long)
    inputs: dict[str, Any] = {"input_ids": ids, "labels": torch.zeros_like(ids)}
    positions = torch.arange(shape[1])[None].expand(shape)
    inputs["position_ids"] = positions
    if setup.attention == "flash":
        offsets = torch.arange(batch.rows + 1, dtype=torch.int32) * (batch.tokens // batch.rows)
        inputs |= {"cu_seq_lens_q": offsets, "cu_seq_lens_k": offsets}
        inputs |= {"max_length_q": batch.longest, "max_length_k": batch.longest}
    elif batch.rows > 1:
        mask = torch.ones((shape[0], 1, shape[1], shape[1]), dtype=torch.bool)
        inputs["attention_mask"] = mask
    return inputs


def _name_attention(setup: Setup) -> str:
    if setup.attention != "flash":
        return setup.attention
    from finetune_trainer.model.kernels.varlen_attention import NAME, register_varlen

    register_varlen()
    return NAME


def _quantize(model: torch.nn.Module) -> None:
    """Put a stand-in in the place of each layer that bitsandbytes would hold in 4 bits."""
    import torch

    class InFourBits(torch.autograd.Function):
        """bitsandbytes' ``MatMul4Bit``: the weight is whole for each product, and not saved."""

        @staticmethod
        def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
            ctx.weight = weight
            return x.to(weight.dtype) @ torch.empty_like(weight).t()

        @staticmethod
        def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None]:
            return grads[0] @ torch.empty_like(ctx.weight), None

    class Quantized(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            # PEFT copies the result of a layer in 4 bits.
            product: torch.Tensor = InFourBits.apply(x, self.weight)  # type: ignore[no-untyped-call]
            return product.clone()

    for name, layer in model.named_modules():
        if isinstance(layer, torch.nn.Linear) and not name.endswith("lm_head"):
            layer.__class__ = Quantized


def _adapt_types(model: torch.nn.Module, setup: Setup) -> None:
    """Set what a strategy changes of adapters, and let dropout keep what a GPU's keeps."""
    import torch
    from peft.tuners.lora import Linear

    from finetune_trainer.model.adapters import keep_input_types
    from finetune_trainer.model.kernels.lora import fuse_lora

    class Dropout(torch.nn.Dropout):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.native_dropout(x, self.p, True)[0]

    for layer in model.modules():
        if isinstance(layer, torch.nn.Dropout) and layer.p:
            layer.__class__ = Dropout
        elif isinstance(layer, Linear) and setup.adapter == "QLoRA":
            # Under autocast PEFT hands its input to the adapter of a layer in 4 bits as it comes.
            layer.cast_input_dtype_enabled = False
    if setup.bfloat16 and setup.strategy == "DDP":
        keep_input_types(model)
    fuse_lora(model)
    if setup.strategy == "FSDP2" and setup.bfloat16:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)


@contextmanager
def _without_triton() -> Iterator[None]:
    """Let TRL's loss allocate as with Triton, and compute nothing."""
    from trl.kernels import chunked_logprob

    class Nothing:
        def __getitem__(self, _: Any) -> Callable[..., None]:
            return lambda *_, **__: None

    changes: dict[str, Any] = {
        "_use_triton": lambda _: True,
        "_forward_kernel": Nothing(),
        "_backward_kernel": Nothing(),
        "_addmm_fp32": lambda *_: None,
    }
    with mock.patch.multiple(chunked_logprob, **changes):
        yield


def _count(model: torch.nn.Module, setup: Setup, batch: Batch) -> Moments:
    import torch
    from allocations import AllocationMeter, SavedMeter

    tensors = [*model.parameters(), *model.buffers()]
    peaks: dict[str, int] = {}
    with AllocationMeter(tensors) as meter:
        weights, saved = meter.live, SavedMeter(tensors)

        def end(moment: str) -> None:
            peaks[moment] = meter.peak - weights
            meter.peak = meter.live

        inputs = make_inputs(setup, batch)
        buckets = _make_gradients(model, setup)
        hooks = _watch(model, end)
        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=setup.bfloat16)
        with autocast, saved.hooks():
            loss = model(**inputs, use_cache=False, fused_lm_head=True).loss
        saved.close()
        for hook in hooks:
            hook.remove()
        end("forward")
        loss.backward()
        end("last")
        del buckets
    return Moments(saved=saved.largest, **{name: peaks[name] for name in MOMENTS})


def _make_gradients(model: torch.nn.Module, setup: Setup) -> list[Any]:
    """Make the gradients that are there before a backward pass; returns what holds others.

    FSDP2 shares each gradient out as soon as it is there: none stays whole.
    """
    import torch

    trained = [each for each in model.parameters() if each.requires_grad]
    if setup.strategy == "FSDP2":
        for parameter in trained:
            watch: Any = parameter.register_post_accumulate_grad_hook
            watch(_drop_gradient)
        return []
    if not (setup.accumulation or setup.world_size > 1):
        return []
    for parameter in trained:
        parameter.grad = torch.zeros_like(parameter)
    # The buckets of DDP's exchange.
    return [torch.zeros_like(each) for each in trained] if setup.world_size > 1 else []


def _drop_gradient(parameter: torch.Tensor) -> None:
    parameter.grad = None


def _watch(model: torch.nn.Module, end: Callable[[str], None]) -> list[Any]:
    """Call ``end`` in the backward pass, where it leaves the head, a last and a second block."""
    backbone: Any = next(each for each in model.modules() if hasattr(each, "layers"))

    def mark(module: torch.nn.Module, moment: str) -> Any:
        def note(_: Any, arguments: tuple[Any, ...]) -> None:
            arguments[0].register_hook(lambda _: end(moment))

        return module.register_forward_pre_hook(note)

    layers = backbone.layers
    hooks = [mark(backbone.norm, "head"), mark(layers[-1], "first")]
    return [*hooks, mark(layers[1], "middle")] if len(layers) > 2 else hooks
