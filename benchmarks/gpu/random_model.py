"""Random weights of a real architecture with a byte tokenizer, and rows of uneven length."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

SIZES: dict[str, dict[str, Any]] = {
    "llama3-8b": {
        "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
        "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    },
    "qwen3-30b-a3b": {
        "vocab_size": 151936, "hidden_size": 2048, "intermediate_size": 6144,
        "moe_intermediate_size": 768, "num_hidden_layers": 48, "num_attention_heads": 32,
        "num_key_value_heads": 4, "head_dim": 128, "num_experts": 128, "num_experts_per_tok": 8,
    },
    "llama3-70b": {
        "vocab_size": 128256, "hidden_size": 8192, "intermediate_size": 28672,
        "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    },
    "tiny": {
        "vocab_size": 512, "hidden_size": 64, "intermediate_size": 128,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    },
}  # fmt: skip
ROW_TOKENS = 480
"""Mean tokens of the generated rows, template included."""
SHARD_BYTES = 4 * 2**30
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SPECIAL = ("<|pad|>", "<|im_start|>", "<|im_end|>")


def config_of(size: str) -> Any:
    """Return the configuration of a random model."""
    from transformers import LlamaConfig, Qwen3MoeConfig

    kind = Qwen3MoeConfig if "num_experts" in SIZES[size] else LlamaConfig
    return kind(**SIZES[size], max_position_embeddings=8192, tie_word_embeddings=False)


def make_model(folder: Path, size: str) -> int:
    """Write model and tokenizer, unless they are there; returns the number of parameters.

    Memory holds one file of the weights at a time. They are drawn on the GPU if there is one.
    """
    import torch
    from safetensors.torch import save_file

    config, tokenizer = config_of(size), make_tokenizer()
    config.bos_token_id = config.eos_token_id = tokenizer.eos_token_id
    config.pad_token_id = tokenizer.pad_token_id
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config.dtype = dtype = torch.bfloat16 if device == "cuda" else torch.float32
    shapes = list(_weights_of(config))
    num_parameters = sum(math.prod(shape) for _, shape in shapes)
    if (folder / "model.safetensors.index.json").exists():
        return num_parameters
    folder.mkdir(parents=True, exist_ok=True)
    config.architectures = [
        "Qwen3MoeForCausalLM" if "moe" in config.model_type else "LlamaForCausalLM"
    ]
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    places: dict[str, str] = {}
    for number, names in enumerate(_split(shapes, dtype.itemsize)):
        file = f"model-{number:05}.safetensors"
        tensors = {
            name: torch.ones(shape, dtype=dtype)
            if len(shape) == 1
            else (0.02 * torch.randn(shape, dtype=dtype, device=device)).cpu()
            for name, shape in names
        }
        save_file(tensors, folder / file, metadata={"format": "pt"})
        places |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return num_parameters


def _weights_of(config: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name every weight as the Hub's files do: each expert apart."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for name, weight in model.named_parameters():
        shape = tuple(weight.shape)
        before, _, part = name.partition("experts.")
        if not part:
            yield name, shape
            continue
        halves = ("gate_proj", "up_proj") if part == "gate_up_proj" else (part,)
        for number, half in product(range(shape[0]), halves):
            expert = (shape[1] // len(halves), shape[2])
            yield f"{before}experts.{number}.{half}.weight", expert


def _split(
    shapes: list[tuple[str, tuple[int, ...]]], num_bytes: int
) -> Iterator[list[tuple[str, tuple[int, ...]]]]:
    """Divide weights into files of at most ``SHARD_BYTES``, where none alone is larger."""
    part: list[tuple[str, tuple[int, ...]]] = []
    held = 0
    for name, shape in shapes:
        size = math.prod(shape) * num_bytes
        if part and held + size > SHARD_BYTES:
            yield part
            part, held = [], 0
        part.append((name, shape))
        held += size
    yield part


def make_tokenizer() -> Any:
    """Return a tokenizer with one token per byte: no vocabulary to ship."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    tokenizer = Tokenizer(BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|im_end|>",
        additional_special_tokens=["<|im_start|>"],
    )  # fmt: skip
    fast.chat_template = CHATML
    return fast


def make_rows(path: Path, *, num_rows: int) -> None:
    """Write question and answer pairs whose lengths spread as chat rows do (bytes = tokens)."""
    rng = random.Random(0)
    words = ["alpha", "beta", "gamma", "delta", "epsilon", "zeta", "eta", "theta"]

    def text(mean: float) -> str:
        size = min(1200, int(rng.lognormvariate(0.0, 0.6) * mean))
        return " ".join(rng.choice(words) for _ in range(max(1, size // 6)))

    with path.open("w") as file:
        for i in range(num_rows):
            row = {"prompt": f"{i} {text(180)}", "completion": text(220)}
            file.write(json.dumps(row) + "\n")
