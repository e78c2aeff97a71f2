"""``spec.hyperparameters`` and ``spec.checkpoint``: how training goes, and what of it lasts."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from finetune_api.meta import APIModel, AutoDecimal, DecimalString, Integer


class Hyperparameters(APIModel):
    """Training settings; `auto` values are decided by documented rules and echoed in the run."""

    epochs: DecimalString = "3"
    """Passes over the training side. Ignored when `maxSteps` is set."""
    max_steps: Annotated[Integer, Field(ge=1, le=10000000)] | None = None
    """Stop after this many optimiser steps."""
    learning_rate: AutoDecimal = "auto"
    """Peak learning rate. `auto`: for adapters 5e-4 x (2000 / hidden size)^0.78, half as much again
    below 100 steps, between 1e-4 and 2e-3 (hidden size 576: 1.3e-3, 4096: 2.9e-4), with the
    exponent 0.0775 for Qwen (4096: 4.7e-4), times 32/alpha, or 32/(alpha x sqrt(rank)) for
    `RsLoRA` (at most doubled), so that scaling does not change how far a step goes; a tenth for
    `Full` and for `DPO`, `KTO` and `ORPO`. `kubectl` needs quotes around a number that
    is not whole, such as `"2e-4"`."""
    global_batch_size: Annotated[Integer, Field(ge=1, le=65536)] | Literal["auto"] = "auto"
    """Examples per optimiser step over all ranks; constant whatever the world size. `auto`: 8 to
    32 by the size of the training side (adapters lose quality above 32), rounded up to a multiple
    of the ranks and of `microBatchSize`. A number must be a multiple of the ranks."""
    micro_batch_size: Annotated[Integer, Field(ge=1, le=4096)] | Literal["auto"] = "auto"
    """Examples per rank and forward pass. `auto`: the most that memory and a token budget allow
    (2,048 tokens on CPU, 16,384 on GPU). A number must divide what a rank takes per step."""
    max_sequence_length: Annotated[Integer, Field(ge=16, le=1048576)] = 1024
    """Longest example in tokens; longer ones are cut at the end and counted in the report."""
    warmup_ratio: DecimalString = "0.03"
    """Share of the steps over which the learning rate rises. It rises for at least 5 steps, or a
    tenth of a shorter run; with 0 for none."""
    scheduler: Literal["Cosine", "Linear", "Constant", "WSD"] = "Cosine"
    """Shape of the learning rate after the warm-up. `WSD` (warm-up, stable, decay) keeps it at its
    peak and lets it fall to 0 over the last fifth of the steps."""
    optimizer: Literal["AdamW", "AdamW8bit", "Adafactor"] = "AdamW"
    """What turns gradients into updates, and its memory for each trained weight. `AdamW`: 8 bytes.
    `AdamW8bit`: the same in 2 bytes, embeddings in 8; needs bitsandbytes. `Adafactor`: next to
    nothing, without momentum; `Full` training of an 8B model then fits one GPU of 80 GB. The last
    two need `resources.strategy` `Auto` or `DDP`."""
    weight_decay: DecimalString = "0"
    """Weight decay, apart from the gradient."""
    max_grad_norm: DecimalString = "1"
    """Gradients are scaled down to this norm."""
    precision: Literal["Auto", "BFloat16", "Float32"] = "Auto"
    """Type of the frozen base weights. `Auto`: bfloat16 where the hardware computes in it, else
    float32. Adapter weights are float32, except those of `QLoRA` under `FSDP2`."""
    activation_checkpointing: Literal["Auto", "On", "Off"] = "Auto"
    """Recompute activations in the backward pass. `Auto`: only when memory would not suffice."""
    attention: Literal["Auto", "Flash", "Varlen", "Flex", "SDPA", "Eager"] = "Auto"
    """How attention is computed. `Auto`: the fastest exact one that is installed and that the
    architecture knows: FlashAttention (package flash-attn, GPU, bfloat16), else on joined rows
    `Varlen`, else PyTorch's SDPA, else eager. `Varlen` is PyTorch's FlashAttention kernel without
    a mask (GPU, bfloat16, common families), taken where it equals SDPA on the GPU at hand. All of
    them compute the same up to rounding; `Flex` compiles first, which pays in long runs."""
    kernels: Literal["Auto", "Liger", "Off"] = "Auto"
    """Fused kernels for norms, rotary positions and gated activations, the same up to rounding.
    `Auto`: Liger on GPUs, for the families that were compared with the model's own code. `Liger`:
    for every architecture that it knows. `Off`: the model's own code."""
    compile: Literal["Off", "On"] = "Off"
    """Compile the model's repeated blocks with torch.compile, on GPUs: the same up to rounding.
    Blocks share their code, which also takes rows of other lengths. Worth it in long runs, which
    gain more than compiling takes."""
    seed: Annotated[Integer, Field(ge=0, le=2147483647)] = 42
    """Seed of initialisation, order and dropout. The same job gives the same adapter on the same
    hardware."""
    logging_steps: Annotated[Integer, Field(ge=1, le=1000)] = 1
    """Optimiser steps between two points of the training curve."""
    neftune_noise_alpha: DecimalString | None = None
    """NEFTune: uniform noise of this strength on the embeddings while training (Jain et al. 2023;
    5 is their start). Rows are then padded, for the noise depends on a row's length. Default:
    none."""
    lora_plus_ratio: DecimalString | None = None
    """LoRA+: the adapter's B matrices learn this many times as fast as its A matrices, which take
    `learningRate` (Hayou et al. 2024; 16 is their start); at least 1. `learningRate: auto` is
    divided by the square root of the ratio. Default: both learn alike."""


class EarlyStopping(APIModel):
    """Ends training once the validation loss no longer falls."""

    patience: Annotated[Integer, Field(ge=1, le=1000)]
    """Validations in a row without an improvement before training ends."""
    min_delta: DecimalString = "0"
    """How much lower than the best so far a validation loss must be to count as an improvement."""


CHECKPOINT_STEPS = 50
"""Optimiser steps between two cheap checkpoints where ``checkpoint.everySteps`` is not set."""


class Checkpoint(APIModel):
    """Durable progress: what a preempted or crashed run resumes from."""

    every_steps: Annotated[Integer, Field(ge=1, le=1000000)] | None = None
    """Optimiser steps between two checkpoints in object storage. Default: 50; training stands still
    for at most 5 % of the time, so a checkpoint that takes long to write is made less often, but
    at least once an hour."""
    keep_last: Annotated[Integer, Field(ge=1, le=20)] = 2
    """Complete checkpoints kept."""
    after_training: Literal["Delete", "Keep"] = "Delete"
    """What becomes of the checkpoints, and of the weights of the best step, once the adapter is
    stored. `Keep`: they stay where they are, for `initFrom`; who needs the room has to
    delete them."""
    validate_every_steps: Annotated[Integer, Field(ge=1, le=1000000)] | Literal["auto"] = "auto"
    """Optimiser steps between two measurements of the validation loss; the last step is always
    measured. `auto`: six in a run; where they are more than `everySteps` apart, at a checkpoint.
    All of them measure the same rows: the whole validation side, or a fixed sample of at least 100
    rows where the side would cost more than a tenth of training. A number measures all rows."""
    select: Literal["Best", "Last"] = "Best"
    """Whose weights are published: those of the step with the lowest validation loss, or those of
    the last step. Without validation rows it is the last step."""
    early_stopping: EarlyStopping | None = None
    """Ends training early; it needs validation rows. Default: all steps are trained."""

    @property
    def interval(self) -> int:
        """Optimiser steps between two checkpoints that cost little."""
        return self.every_steps or CHECKPOINT_STEPS
