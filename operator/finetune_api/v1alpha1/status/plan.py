"""What training runs: every setting that was automatic, and the memory it needs."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from finetune_api.meta import MAP_BY_NAME, APIModel
from finetune_api.v1alpha1.status.fields import Count, Number, ShortSentence


class PlanMemory(APIModel):
    """Estimated bytes of one rank at its peak, by what they are."""

    weights: Count = 0
    """Base weights."""
    adapter: Count = 0
    """Adapter weights."""
    gradients: Count = 0
    """Gradients that are there at the peak."""
    optimizer: Count = 0
    """States of `hyperparameters.optimizer`."""
    gathered: Count = 0
    """Weights that a sharding strategy holds whole for a moment."""
    activations: Count = 0
    """Saved for the backward pass, and its largest temporaries."""
    logits: Count = 0
    """The output head's tile and its gradients."""
    overhead: Count = 0
    """Process, CUDA context, fragmentation."""
    total: Count = 0
    """All of it."""
    available: Count = 0
    """What one rank has."""


class PlanReason(APIModel):
    """Why one automatic setting is as it is."""

    name: Annotated[str, Field(max_length=63)]
    """Setting, for example `learningRate`."""
    reason: ShortSentence
    """The rule that chose it."""


class PlanStatus(APIModel):
    """What training runs: every setting that was `auto`, and the memory it needs."""

    rows: Count = 0
    """Training rows."""
    tokens: Count = 0
    """Their tokens, cut to `maxSequenceLength`."""
    parameters: Count = 0
    """Weights of the base model."""
    trainable_parameters: Count = 0
    """Weights that are trained."""
    learning_rate: Number = "0"
    """Peak learning rate."""
    global_batch_size: Count = 0
    """Examples per optimiser step."""
    micro_batch_size: Count = 0
    """Examples per rank and forward pass."""
    accumulation_steps: Count = 0
    """Forward passes per optimiser step."""
    world_size: Count = 0
    """Ranks."""
    total_steps: Count = 0
    """Optimiser steps of the run."""
    strategy: Annotated[str, Field(max_length=16)] = ""
    """DDP, ZeRO2, ZeRO3 or FSDP2."""
    precision: Annotated[str, Field(max_length=16)] = ""
    """BFloat16 or Float32."""
    layout: Annotated[str, Field(max_length=16)] = ""
    """PaddingFree, Padded or Packed."""
    activation_checkpointing: bool = False
    """Whether activations are recomputed."""
    memory: PlanMemory | None = None
    """Estimated memory of one rank."""
    reasons: Annotated[
        list[PlanReason],
        Field(
            max_length=8,
            json_schema_extra=MAP_BY_NAME,
        ),
    ] = []
    """Why each automatic setting was chosen."""
