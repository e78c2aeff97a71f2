"""One of two ranks that train an adapter over a narrow base; prints what became of its weights.

Arguments: a scratch folder, and the base: ``bfloat16``, or the folder of a model to load in 4 bits.
Learning rates may follow. torchrun's variables name the rank.
"""

from __future__ import annotations

import hashlib
import json
import sys
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import transformers

from finetune_trainer.planning.setup import Setup
from finetune_trainer.train.ranks import whole
from kit.models.measured_trainer import Case, make_trainer

SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def make_base(kind: str) -> Any:
    """Return the frozen base."""
    if kind != "bfloat16":
        from finetune_trainer.model.load import load_model

        place = {"": "cpu"}
        return load_model(Path(kind), dtype=torch.bfloat16, quantize=True, device_map=place)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZE)
    return transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)


def train(base: Any, scratch: Path, *, is_widened: bool, rate: float = 2.9e-5) -> dict[str, Any]:
    """Train two steps at a small rate; return what became of the adapter."""
    is_quantized = getattr(base, "hf_quantizer", None) is not None
    base.is_loaded_in_4bit = True  # so that TRL makes the adapter bfloat16
    setup = Setup(use_gpu=False, adapter="QLoRA", rank=4, dropout=False)
    with nullcontext() if is_widened else patch.object(whole, "train_in_float32"):
        case = Case(family="llama", rows=2, length=8, setup=setup)
        trainer = make_trainer(case, base, scratch)
    base.is_loaded_in_4bit = is_quantized  # else transformers asks bitsandbytes for its size
    trainer.args.learning_rate, trainer.args.warmup_steps = rate, 0
    weights = {n: p for n, p in trainer.model.named_parameters() if p.requires_grad}
    torch.manual_seed(1)
    for weight in weights.values():
        torch.nn.init.normal_(weight, std=0.02)  # as after some training: B begins at 0
    before = {name: weight.detach().clone() for name, weight in weights.items()}
    trainer.train()
    num_unmoved = sum(int((weights[name] == old).sum()) for name, old in before.items())
    digest = hashlib.sha256()
    for weight in weights.values():
        digest.update(weight.detach().float().numpy().tobytes())
    return {
        "rate": rate,
        "num_ranks": trainer.args.world_size,
        "types": sorted({str(weight.dtype) for weight in weights.values()}),
        "unmoved": num_unmoved / sum(old.numel() for old in before.values()),
        "sha256": digest.hexdigest(),
    }


def main() -> None:
    """Train once with the adapter in float32, and once in the type that TRL chooses."""
    warnings.simplefilter("ignore")
    scratch, kind = Path(sys.argv[1]), sys.argv[2]
    found = [
        train(make_base(kind), scratch, is_widened=widened, rate=float(rate))
        for rate in sys.argv[3:] or ["2.9e-5"]
        for widened in (True, False)
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main()
