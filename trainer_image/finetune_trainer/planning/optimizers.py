"""Memory of an optimiser's states, and of its step, in bytes."""

from __future__ import annotations

from finetune_trainer.planning.activations import is_target
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.setup import FLOAT32, Setup

ADAM_STATES = 2
"""AdamW keeps two values for every trained weight, in the type of the weight."""
ADAM_8BIT_BYTES = 2 * (1 + FLOAT32 / 256)
"""Two bytes, and for each a float32 scale per block of 256 values.

Source: bitsandbytes, ``Optimizer2State.init_state``.
"""
STEP_COPIES = 2
"""Copies of the largest tensor that a step of transformers' ``Adafactor`` holds at once."""
EMBEDDINGS = ("embed_tokens", "wte", "embed_in", "word_embeddings")
"""Last parts of the names of input embeddings, whose states transformers leaves in 32 bits."""


def state_bytes(model: Architecture, setup: Setup, *, trained: int, num_embedded: int) -> float:
    """Return the bytes of all states.

    Args:
        model: The base model.
        setup: How it is trained.
        trained: Bytes of the trained weights.
        num_embedded: Trained weights of input embeddings.
    """
    if setup.optimizer == "AdamW8bit":
        num_others = trained // FLOAT32 - num_embedded
        return ADAM_8BIT_BYTES * num_others + ADAM_STATES * FLOAT32 * num_embedded
    if setup.optimizer == "Adafactor":
        return FLOAT32 * _num_factors(model, setup)
    return ADAM_STATES * trained


def step_bytes(model: Architecture, setup: Setup) -> int:
    """Return the bytes that a step needs beside weights, gradients and states."""
    if setup.optimizer != "Adafactor" or not setup.is_full:
        return 0  # other steps work in place, and the tensors of adapters are small
    # Gate and up projections of all experts of a layer are one tensor.
    experts = model.num_expert_parameters * 2 // (3 * model.num_layers)
    return STEP_COPIES * FLOAT32 * max(model.vocab_size * model.hidden_size, experts)


def _num_factors(model: Architecture, setup: Setup) -> int:
    """Count a value per row and column of every trained matrix, and one per weight of a norm."""
    if setup.is_full:
        ends = 1 if model.tied else 2
        norms = model.norms_per_layer * model.num_layers + 1
        layers = sum(each.count * (each.width_in + each.width_out) for each in model.linears)
        return layers + ends * (model.vocab_size + model.hidden_size) + norms * model.hidden_size
    # An adapter has two matrices. Modules that are trained whole add next to nothing.
    return sum(
        each.count * (each.width_in + each.width_out + 2 * setup.rank)
        for each in model.linears
        if is_target(each.name, setup)
    )
