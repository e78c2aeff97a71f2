"""One rank that trains an adapter; prints what a step of it shows.

Argument: a scratch folder. torchrun's variables name the rank. Two ranks share a bfloat16 base by
FSDP2. One rank alone runs plain TRL over the same rows.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import TrainerCallback

from finetune_trainer.planning.setup import Setup
from kit.models.measured_trainer import Case, draw_rows, make_trainer

STEPS = 6
NUM_RANKS = 2
SIZE: dict[str, Any] = {
    "vocab_size": 256,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "tie_word_embeddings": True,
}


class Held(TrainerCallback):  # type: ignore[misc]
    """Notes the gradients that this rank holds after the first micro batch of the first step."""

    def __init__(self) -> None:
        self.found: dict[str, Any] = {}

    def on_substep_end(self, *_: Any, model: torch.nn.Module, **__: Any) -> None:
        """Count the values in whole and held here, and those that bfloat16 could hold too."""
        if self.found:
            return
        trained = [each for each in model.parameters() if each.requires_grad]
        grads = [each.grad for each in trained if each.grad is not None]
        local = [getattr(grad, "_local_tensor", grad) for grad in grads]
        values = torch.cat([torch.zeros(0), *(grad.detach().float().flatten() for grad in local)])
        values = values[values != 0]
        narrow = values.bfloat16().float() == values
        self.found = {
            "held": sum(grad.numel() for grad in local) / sum(each.numel() for each in trained),
            "types": sorted({str(grad.dtype) for grad in local}),
            "narrow": float(narrow.float().mean()),
        }


def make_case() -> Case:
    """Return two steps of two ranks, with two micro batches each."""
    setup = Setup(
        use_gpu=False,
        rank=4,
        dropout=False,
        accumulation=True,
        strategy="FSDP2",
        world_size=NUM_RANKS,
    )
    return Case(family="llama", rows=2, length=24, setup=setup)


def make_plain(case: Case, base: Any, scratch: Path, lora: Any) -> Any:
    """Build TRL's own trainer over the case's rows, with the batches of all ranks."""
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    from kit.models.tiny_tokenizer import make_tokenizer

    rows = draw_rows(case)
    config = SFTConfig(
        output_dir=str(scratch),
        use_cpu=True,
        bf16=True,
        per_device_train_batch_size=case.rows,
        gradient_accumulation_steps=2 * NUM_RANKS,
        seed=42,
        data_seed=42,
        max_length=None,
        dataset_kwargs={"skip_prepare_dataset": True},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        gradient_checkpointing=False,
    )
    dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
    tokenizer = make_tokenizer()
    return SFTTrainer(
        base, args=config, train_dataset=dataset, processing_class=tokenizer, peft_config=lora
    )


def main() -> None:
    """Train and print."""
    from finetune_api.v1alpha1.spec.method import Adapter
    from finetune_trainer.model.adapters import build_lora_config

    warnings.simplefilter("ignore")
    scratch, case = Path(sys.argv[1]), make_case()
    torch.manual_seed(0)
    config = transformers.LlamaConfig(**SIZE)
    base = transformers.AutoModelForCausalLM.from_config(config).to(torch.bfloat16)
    if int(os.environ["WORLD_SIZE"]) > 1:
        trainer = make_trainer(case, base, scratch)
    else:
        adapter = Adapter(rank=4, alpha=32, dropout="0", target_modules=["all-linear"])
        trainer = make_plain(case, base, scratch, build_lora_config(adapter, base))
    args = trainer.args
    args.max_steps, args.logging_steps = STEPS, 1
    args.learning_rate, args.lr_scheduler_type, args.warmup_steps = 1e-4, "constant", 0
    args.weight_decay, args.max_grad_norm = 0.0, 1.0
    torch.manual_seed(1)
    for weight in trainer.model.parameters():
        if weight.requires_grad:
            torch.nn.init.normal_(weight, std=0.05)  # as after some training: B begins at 0
    held = Held()
    trainer.add_callback(held)
    trainer.train()
    lines = [line for line in trainer.state.log_history if "grad_norm" in line]
    shown = {
        "losses": [line["loss"] for line in lines],
        "norms": [line["grad_norm"] for line in lines],
        **held.found,
    }
    print(json.dumps(shown))


if __name__ == "__main__":
    main()
