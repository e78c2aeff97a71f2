"""A four-layer random Llama with the byte tokenizer: trains in milliseconds per step."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kit.models.tiny_tokenizer import make_tokenizer


def make_model(folder: Path, *, seed: int = 0, dtype: Any = None, num_heads: int = 4) -> Path:
    """Write the model and its tokenizer to ``folder``; float32 unless another type is given."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = make_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=num_heads,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=0,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).to(dtype or torch.float32).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_eager_model(folder: Path, *, num_heads: int = 4) -> Path:
    """Write the model with ten times larger embeddings: its logits move, so it learns in steps.

    vLLM on a CPU takes no heads smaller than 32: give it two of them.
    """
    import torch
    from transformers import AutoModelForCausalLM

    make_model(folder, num_heads=num_heads)
    model = AutoModelForCausalLM.from_pretrained(folder)
    with torch.no_grad():
        model.get_input_embeddings().weight.mul_(10)
    model.save_pretrained(folder)
    return folder
