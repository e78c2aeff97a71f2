"""Loads tokenizer and base model from a local folder."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.errors import UserError
from finetune_trainer.model.kernels.attention import (
    AttentionSupport,
    explain_missing,
    explain_varlen,
    list_attention,
)
from finetune_trainer.model.kernels.varlen_attention import find_fault, register_varlen
from finetune_trainer.planning.architecture import Architecture, read_architecture

if TYPE_CHECKING:
    import torch
    from transformers import BitsAndBytesConfig, PreTrainedModel, PreTrainedTokenizerBase

_REFUSED_ATTENTION = re.compile(
    r"attention implementation|scaled_dot_product_attention|flash.?attention|flex.?attention",
    re.IGNORECASE,
)
"""How transformers says that an architecture does not know an attention implementation."""


QUANTIZATION_OF = {"QLoRA": "NF4"}
"""How the base is quantised in training, by type of adapter; others leave it as it is."""


def load_tokenizer(folder: Path, *, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """Load the tokenizer in ``folder``, with a padding token. Raise ``UserError`` without one."""
    from transformers import AutoTokenizer

    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise UserError(
            "TokenizerUnreadable",
            f"the model folder {folder} has no tokenizer that loads: {_first_line(error)}",
        ) from error
    if tokenizer.eos_token_id is None:
        raise UserError(
            "TokenizerWithoutEnd",
            f"the tokenizer in {folder} names no end-of-sequence token, so a tuned model would "
            "never stop; add eos_token to tokenizer_config.json",
        )
    if tokenizer.pad_token_id is None:
        # Padding is masked out everywhere, so the end token can stand in.
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def read_config(folder: Path) -> dict[str, Any]:
    """Read ``config.json`` of a model folder. Raise ``UserError`` if it is missing or no JSON."""
    try:
        config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError) as error:
        raise UserError(
            "ModelUnreadable",
            f"{folder} is not a model folder: config.json: {_first_line(error)}",
        ) from error
    return config


def read_model_architecture(folder: Path) -> Architecture:
    """Describe the model in a folder without loading it.

    Raise ``UserError`` if it is unreadable.
    """
    config = read_config(folder)
    try:
        return read_architecture(folder, config)
    except (OSError, ValueError) as error:
        raise UserError(
            "ModelUnreadable", f"{folder} is not a model folder: {_first_line(error)}"
        ) from error


def load_model(
    folder: Path,
    *,
    dtype: torch.dtype,
    computes: torch.dtype | None = None,
    trust_remote_code: bool = False,
    quantize: bool = False,
    shardable: bool = False,
    device_map: Mapping[str, int | str] | str | None = None,
    max_memory: Mapping[int, int] | None = None,
    attention: str = "Auto",
    joins_rows: bool = False,
    agree: Callable[[str], str] = str,
) -> PreTrainedModel:
    """Load the causal language model in ``folder``.

    Args:
        folder: Local model folder with safetensors weights.
        dtype: Type of the weights; TRL's own loading would choose float32.
        computes: Type that attention computes in, where autocast or FSDP2 make it another one.
        trust_remote_code: Run code that ships with the model.
        quantize: Load in 4 bits (NF4, double quantisation), for QLoRA.
        shardable: Keep 4-bit weights in tensors of ``dtype`` for FSDP2.
        device_map: As in accelerate; None leaves the model on the CPU.
        max_memory: Bytes by GPU that ``auto`` may take.
        attention: ``hyperparameters.attention``.
        joins_rows: Training joins the rows of a batch without padding.
        agree: Returns what keeps any rank from attention by boundaries, by what keeps this one.

    Raises:
        UserError: The model does not load, does not know the attention, or 4 bits need a missing
            library.
    """
    options: dict[str, Any] = {"dtype": dtype, "trust_remote_code": trust_remote_code}
    if quantize:
        options["quantization_config"] = _quantization(dtype, shardable=shardable)
    if device_map is not None:
        options["device_map"] = device_map
    if max_memory is not None:
        options["max_memory"] = dict(max_memory)
    try:
        support = detect_attention_support(computes or dtype)
        if attention == "Varlen" or (attention == "Auto" and joins_rows):
            fault = agree(_varlen_fault(support, folder, runs_own_code=trust_remote_code))
            support = _with_varlen(support, fault, joins_rows=joins_rows)
        return _load_with_attention(partial(_load, folder, options), folder, attention, support)
    except (OSError, ValueError) as error:
        raise UserError(
            "ModelUnreadable",
            f"the base model in {folder} does not load: {_first_line(error)}; it must be a causal "
            "language model with safetensors weights",
        ) from error


def _with_varlen(support: AttentionSupport, fault: str, *, joins_rows: bool) -> AttentionSupport:
    """Return the support with attention by boundaries; register that unless it has a fault."""
    if not fault:
        register_varlen()
    return replace(support, joins_rows=joins_rows, varlen_fault=fault)


def _load(folder: Path, options: Mapping[str, Any], attention: str) -> PreTrainedModel:
    """Load the model with one implementation of attention, in the words of transformers."""
    from transformers import AutoModelForCausalLM

    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        folder,
        local_files_only=True,
        use_safetensors=True,
        attn_implementation=attention,
        **options,
    )
    if "quantization_config" in options:
        _keep_packing(model)
    return model


def _quantization(dtype: torch.dtype, *, shardable: bool) -> BitsAndBytesConfig:
    require_bitsandbytes()
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
        **({"bnb_4bit_quant_storage": dtype} if shardable else {}),
    )


def _keep_packing(model: PreTrainedModel) -> None:
    """Keep 4-bit weights on a CPU as they are when the model is evaluated.

    bitsandbytes packs them anew for bfloat16 kernels there, and rounds their scales: a run that
    validates would train on with another base than one that resumes after the validation.
    Source: bitsandbytes ``Linear4bit.forward``.
    """
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "support_avx512bf16_for_cpu"):
            layer.support_avx512bf16_for_cpu = False


def require_bitsandbytes(
    image: str | None = None,
    *,
    reason: str = "QuantizationUnavailable",
    setting: str = "method.adapter.type QLoRA",
    instead: str = "LoRA",
) -> None:
    """Raise ``UserError`` if bitsandbytes is missing.

    Args:
        image: The job's trainer image.
        reason: Reason of the error.
        setting: Field and value that need it.
        instead: Value that does without.
    """
    import importlib.util

    if importlib.util.find_spec("bitsandbytes") is None:
        where = f"trainer.image {image}" if image else "this trainer image or environment"
        raise UserError(
            reason,
            f"{setting} needs bitsandbytes, which {where} does not have; use the operator's own "
            "trainer image, add bitsandbytes to yours (locally: pip install "
            f"'finetune-operator[quantization]'), or use {instead}",
        )


def _load_with_attention(
    load: Callable[[str], PreTrainedModel], folder: Path, asked: str, support: AttentionSupport
) -> PreTrainedModel:
    missing = explain_missing(asked, support)
    if missing is not None:
        raise UserError(
            "AttentionUnsupported",
            f"hyperparameters.attention {asked}: {missing}; use Auto or another one",
        )
    candidates = list_attention(asked, support)
    for implementation in candidates:
        try:
            return load(implementation)
        except (ValueError, ImportError) as error:
            if not _REFUSED_ATTENTION.search(str(error)):
                raise
            refusal = error
    raise UserError(
        "AttentionUnsupported",
        f"hyperparameters.attention {asked}: the model in {folder} does not run with "
        f"{' or '.join(candidates)}: {_first_line(refusal)}; use Auto",
    ) from refusal


def detect_attention_support(dtype: torch.dtype) -> AttentionSupport:
    """Return the attention support of this process for a type of computation."""
    import importlib.util

    import torch

    return AttentionSupport(
        has_gpu=torch.cuda.is_available(),
        has_flash=importlib.util.find_spec("flash_attn") is not None,
        is_half_precision=dtype in (torch.bfloat16, torch.float16),
    )


def _varlen_fault(support: AttentionSupport, folder: Path, *, runs_own_code: bool) -> str:
    """Return why attention by boundaries does not suit the model or run here; empty if it does."""
    if runs_own_code and "auto_map" in read_config(folder):
        return "the model brings code of its own"
    model = read_model_architecture(folder)
    fault = explain_varlen(model)
    if fault or not (support.has_gpu and support.is_half_precision):
        return fault
    return find_fault(model.num_heads, model.num_kv_heads, model.head_dim)


def expected_attention(asked: str, *, use_gpu: bool) -> str:
    """Return the attention that the ranks most likely load, in the planner's words.

    Imports torch only for GPUs. ``varlen`` holds for models and rows that suit it.
    """
    import importlib.util

    if asked != "Auto":
        return {"Eager": "eager", "SDPA": "sdpa", "Varlen": "varlen"}.get(asked, "flash")
    if not use_gpu:
        return "sdpa"
    if importlib.util.find_spec("flash_attn") is not None:
        return "flash"
    import torch

    # FlashAttention in torch begins with Ampere.
    is_new = torch.cuda.is_available() and torch.cuda.get_device_capability() >= (8, 0)
    return "varlen" if is_new else "sdpa"


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
