"""Saved tensors of one micro batch, and the largest moment of its backward pass.

Widths are in channels; a function returns bytes per token unless it says otherwise.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from finetune_trainer.planning.architecture import Architecture, Linear
from finetune_trainer.planning.experts import reaches_experts
from finetune_trainer.planning.setup import BFLOAT16, FLOAT32, Batch, Setup

_WITH_SINKS = frozenset(("gpt_oss",))
"""Families whose scores have a learned column that takes none of the values."""

ORDERED_TOKENS = 32_768
"""Longest joined row of which FlashAttention adds gradients in a fixed order."""
MULTIPROCESSORS = 132
"""Of an H100; few GPUs have more."""


def is_target(name: str, setup: Setup) -> bool:
    """Whether a linear layer of this name gets an adapter."""
    return not setup.is_full and (
        "all-linear" in setup.targets or any(t.rsplit(".", 1)[-1] == name for t in setup.targets)
    )


def saved_per_token(model: Architecture, setup: Setup) -> float:
    """Bytes that one average block saves per token, without the attention mask."""
    norms = _norms(model, setup)
    return norms + _attention(model, setup) + _inputs(model, setup) + _mlp(model, setup)


def moment_per_token(model: Architecture, setup: Setup) -> float:
    """Bytes per token of the largest temporaries of one block's backward pass.

    The gradient of the MLP's product and of its two factors live at once with the adapter's
    float32 casts; the last norm over the residual stream needs five float32 images of it.
    """
    width, h = _mlp_width(model, setup), model.hidden_size
    if setup.is_full or not setup.bfloat16:
        per_channel = 2 * setup.value_bytes
        if not setup.is_full and setup.dropout:
            per_channel = FLOAT32
    else:
        per_channel = FLOAT32 + (BFLOAT16 if _widens_inputs(setup) else 0)
    norm = (16 if setup.is_full else 20) * h if model.rms_norm else 12 * h
    visits = 0
    if _freezes_experts(model, setup):
        # By visit: the gradients of the weighted output, of the output and of the weight before its
        # sum; and of both factors.
        channels = 3 * h + 2 * model.intermediate_size
        visits = setup.value_bytes * model.experts_per_token * channels
    return max(per_channel * width, norm, visits)


def recompute_per_token(model: Architecture, setup: Setup) -> float:
    """Bytes per token beside a block's saved tensors while it is computed anew."""
    width = _mlp_width(model, setup)
    extra = 0.0
    if not setup.is_full and setup.bfloat16:
        # The product of the MLP, and its float32 cast for the adapter, before the cast back.
        extra = (BFLOAT16 + (FLOAT32 if _widens_inputs(setup) else 0)) * width
    return moment_per_token(model, setup) + extra


def mask_bytes(setup: Setup, batch: Batch) -> int:
    """Bytes of the attention mask that one block saves: SDPA copies it in each.

    A single row and FlashAttention need none.
    """
    if setup.attention == "flash" or batch.rows == 1:
        return 0
    cells = batch.tokens**2 if setup.padding_free else batch.rows * batch.longest**2
    return cells * setup.value_bytes


def backward_bytes(model: Architecture, setup: Setup, batch: Batch) -> int:
    """Bytes of the gradients of one block in FlashAttention's backward pass.

    Queries' gradients are summed in float32. The fixed order takes as many of these sums as keep
    all multiprocessors at work. Source: flash-attn ``mha_varlen_bwd``.
    """
    if setup.attention != "flash":
        return 0
    is_ordered = batch.tokens <= ORDERED_TOKENS
    sums = math.ceil(MULTIPROCESSORS / (batch.rows * model.num_heads)) if is_ordered else 1
    gradients = setup.value_bytes * (model.query_width + 2 * model.kv_width)
    return batch.tokens * (FLOAT32 * sums * model.query_width + gradients)


def scores_bytes(model: Architecture, setup: Setup, batch: Batch) -> int:
    """Bytes that one block saves of the scores, where attention is written out."""
    cells = batch.tokens**2 if setup.padding_free else batch.rows * batch.longest**2
    if setup.attention == "eager":
        # softmax in float32, its image in the compute type, dropout's mask and result
        per_cell = FLOAT32 + (setup.value_bytes if setup.bfloat16 else 0)
        if model.model_type in _WITH_SINKS:
            # softmax in the compute type, and a copy without the sinks
            per_cell = 2 * setup.value_bytes
        if model.attention_dropout:
            per_cell += setup.noise_bytes + setup.value_bytes
        if model.caps_scores:
            per_cell += setup.value_bytes
    elif _has_plain_scores(model, setup):
        per_cell = 3 * FLOAT32
    else:
        return 0
    return cells * model.num_heads * per_cell


def expert_adapter_size(model: Architecture, setup: Setup) -> int:
    """Count the adapter's weights on routed experts.

    PEFT adapts fused experts of some families under ``all-linear`` without dropout; gate and up
    share a factor of twice the rank.
    """
    if not model.num_experts or setup.is_full or setup.dropout:
        return 0
    if not reaches_experts(model.model_type, setup.targets):
        return 0
    h, width = model.hidden_size, model.intermediate_size
    each = 2 * setup.rank * (h + 2 * width) + setup.rank * (width + h)
    return each * model.num_experts * model.num_layers


def _has_plain_scores(model: Architecture, setup: Setup) -> bool:
    """Whether SDPA falls back to written-out attention: on CPUs, if attention has dropout."""
    return setup.attention == "sdpa" and model.attention_dropout and not setup.use_gpu


def _norms(model: Architecture, setup: Setup) -> float:
    h, s = model.hidden_size, setup.value_bytes
    if not model.rms_norm:
        # One kernel: its input and two statistics; autocast runs it in float32 on GPUs.
        kept = FLOAT32 if setup.bfloat16 and setup.use_gpu else s
        noise = 2 * (1 if setup.use_gpu else s) if model.dropout else 0
        return model.norms_per_layer * (kept * h + 8) + noise * h
    width = model.norms_per_layer * h
    if model.qk_norm:
        width += model.query_width + model.kv_width
    if setup.is_fused:
        # x as it comes; the rest is computed anew.
        kept = setup.stream_bytes
    else:
        # x in float32; the normalised x as well where the norm's own weight is trained.
        weighed = FLOAT32 if model.weighs_wide else setup.stream_bytes
        kept = FLOAT32 + (weighed if setup.is_full else 0)
    return kept * width + FLOAT32 * model.norms_per_layer


def _attention(model: Architecture, setup: Setup) -> float:
    q, s = model.query_width, setup.value_bytes
    if _has_plain_scores(model, setup):
        return 3 * FLOAT32 * q
    # With a mask, SDPA takes keys and values repeated to the queries' heads.
    kv = q if setup.attention != "flash" else model.kv_width
    shares_output = setup.is_full or not setup.copies_inputs
    out = 0 if shares_output else q
    return (q + 2 * kv + out) * s + FLOAT32 * model.num_heads


def _inputs(model: Architecture, setup: Setup) -> float:
    total = 0.0
    for linears in _grouped(model):
        per_block = max(each.count for each in linears) / model.num_layers
        width = linears[0].width_in
        targets = [each for each in linears if is_target(each.name, setup)]
        # Autocast casts a float32 input anew for every layer that takes it.
        is_normed = width == model.hidden_size and not _is_out(linears)
        is_cast = is_normed and (setup.casts_weights or _casts_norms(model, setup))
        if setup.is_full:
            copies = len(linears) if is_cast else 1
            total += copies * width * setup.value_bytes * per_block
        elif targets:
            own = len(targets) if setup.copies_inputs or is_cast else 1
            each_kept = setup.value_bytes * own
            if setup.dropout:
                each_kept += setup.noise_bytes * len(targets)
            total += (each_kept * width + setup.rank * setup.value_bytes * len(targets)) * per_block
            if setup.adapter == "DoRA":
                # The base's and the update's outputs, which the magnitude scales.
                outputs = sum(each.width_out for each in targets)
                total += 2 * setup.value_bytes * outputs * per_block
    return total


def _casts_norms(model: Architecture, setup: Setup) -> bool:
    """Whether norms put out float32 that each layer after them casts to bfloat16."""
    return setup.widens_on_gpu and model.norms_widen


def _mlp(model: Architecture, setup: Setup) -> float:
    """What the activation and the product keep; the product itself is the last layer's input."""
    s, h = setup.value_bytes, model.hidden_size
    if model.num_experts:
        # Each visit of a token: its output by expert (Llama 4: its input), both factors and the
        # activated one; where experts are trained, the inputs of their products as well.
        inputs = 0 if _freezes_experts(model, setup) else model.intermediate_size + h
        visits = model.experts_per_token * (
            model.expert_images * model.intermediate_size + h + inputs
        )
        # Autocast leaves the residual stream of trained weights in float32 and casts by visit.
        casts = 10 * model.experts_per_token * h if setup.casts_weights else 0
        mixed = s * (visits + 3 * model.shared_intermediate_size) + casts + 64
        share = model.dense_layers / model.num_layers
        return (1 - share) * mixed + share * 3 * s * model.dense_intermediate_size
    width = model.intermediate_size
    if model.gated:
        # Both factors, and the activated one unless a fused kernel computes it anew.
        return (2 if setup.is_fused else 3) * s * width
    if model.relu:
        # ReLU keeps its result, which is the last layer's input unless that one is cast or dropped.
        is_shared = setup.is_full or not setup.copies_inputs
        return 0 if is_shared else s * width
    if model.composed_activation:
        # A power is float32 under a GPU's autocast, and so is what is computed with it.
        is_widened = model.cubes_activation and setup.widens_on_gpu
        return (3 * FLOAT32 + BFLOAT16 if is_widened else 4 * s) * width
    return s * width


def _widens_inputs(setup: Setup) -> bool:
    """Whether adapters drop float32 copies of their inputs.

    FSDP2 gathers adapters in bfloat16. PEFT copies no input of a layer in 4 bits under autocast; it
    asks for autocast on GPUs. Source: ``peft.tuners.lora.bnb.Linear4bit.forward``.
    """
    takes_as_is = setup.strategy == "FSDP2" or (setup.adapter == "QLoRA" and setup.use_gpu)
    return setup.dropout and not takes_as_is


def _freezes_experts(model: Architecture, setup: Setup) -> bool:
    is_trained = setup.is_full or reaches_experts(model.model_type, setup.targets)
    return model.num_experts > 0 and not is_trained


def _mlp_width(model: Architecture, setup: Setup) -> float:
    """Return the channels of the MLP that trained weights take part in."""
    if not model.num_experts:
        return model.intermediate_size
    if _freezes_experts(model, setup):
        return model.shared_intermediate_size
    return model.experts_per_token * model.intermediate_size + model.shared_intermediate_size


def _grouped(model: Architecture) -> Iterator[list[Linear]]:
    groups: dict[tuple[str, int], list[Linear]] = {}
    for linear in model.linears:
        groups.setdefault((_group(linear.name), linear.width_in), []).append(linear)
    yield from groups.values()


def _group(name: str) -> str:
    if name in ("q_proj", "k_proj", "v_proj", "qkv_proj", "c_attn", "query_key_value"):
        return "attention in"
    if name in ("gate_proj", "up_proj", "gate_up_proj", "c_fc", "fc1", "w1", "w3"):
        return "mlp in"
    return name


def _is_out(linears: list[Linear]) -> bool:
    return linears[0].name in ("o_proj", "out_proj", "dense")
