"""The shortest TRL script, or the same by Unsloth: their own defaults; prints one JSON line."""

from __future__ import annotations

import argparse
import importlib
import json
import os
import resource
import tempfile
import time
from typing import Any

LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
"""What Unsloth's notebooks adapt."""


def main() -> None:
    """Train and print tokens/s and the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("--library", choices=["trl", "unsloth"], default="trl")
    parser.add_argument("--method", choices=["LoRA", "QLoRA", "Full"], default="LoRA")
    parser.add_argument("--packed", action="store_true", help="pack rows to --length tokens")
    parser.add_argument("--length", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        measured = train(arguments, scratch)
    if int(os.environ.get("RANK", "0")) == 0:
        print(json.dumps(measured))


def train(arguments: argparse.Namespace, scratch: str) -> dict[str, Any]:
    """Train and return what was measured, tokens over all ranks."""
    began = time.perf_counter()
    options = make_model(arguments)  # first: Unsloth patches what is imported after it
    import torch
    from datasets import Dataset
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    marks: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.append(time.perf_counter())

    has_gpu = torch.cuda.is_available()
    trainer = SFTTrainer(
        args=SFTConfig(
            output_dir=scratch, max_steps=arguments.steps, save_strategy="no", report_to="none",
            disable_tqdm=True, use_cpu=not has_gpu, logging_steps=1, packing=arguments.packed,
            max_length=arguments.length, model_init_kwargs=init_options(arguments),
        ),
        train_dataset=Dataset.from_list(read_messages(arguments.rows)),
        callbacks=[Watch()],
        **options,
    )  # fmt: skip
    trainer.train()
    logged = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    warmup = min(arguments.warmup, len(marks) - 1)
    tokens = logged[-1] * (len(marks) - warmup) / len(marks)
    peak = (
        torch.cuda.max_memory_allocated()
        if has_gpu
        else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    )
    return {
        "startup_seconds": marks[0] - began,
        "tokens_per_second": tokens / (marks[-1] - marks[warmup - 1]),
        "peak_bytes": peak,
        "what": "the defaults of " + {"trl": "TRL", "unsloth": "Unsloth"}[arguments.library],
    }


def init_options(arguments: argparse.Namespace) -> dict[str, Any] | None:
    """Return how TRL loads a frozen base: in bfloat16, not in its default of float32.

    All weights train in float32 under autocast, as ours do.
    """
    is_named = arguments.library == "trl" and arguments.method == "LoRA"
    return {"dtype": "bfloat16"} if is_named else None


def read_messages(path: str) -> list[dict[str, Any]]:
    """Return the rows as TRL reads pairs of chat messages."""
    with open(path) as file:
        rows = [json.loads(line) for line in file]
    return [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]


def make_model(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the trainer's arguments that say what is trained."""
    if arguments.library == "unsloth":
        return make_unsloth(arguments)
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    lora = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear")
    if arguments.method == "Full":
        return {"model": arguments.model}
    if arguments.method == "LoRA":
        return {"model": arguments.model, "peft_config": lora}
    quantized = AutoModelForCausalLM.from_pretrained(
        arguments.model,
        device_map={"": int(os.environ.get("LOCAL_RANK", "0"))},
        quantization_config=BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        ),
    )  # fmt: skip
    return {"model": quantized, "peft_config": lora}


def make_unsloth(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the same by Unsloth, as its notebooks do it. Never run: no GPU was at hand."""
    language_models = importlib.import_module("unsloth").FastLanguageModel
    is_full = arguments.method == "Full"
    model, tokenizer = language_models.from_pretrained(
        model_name=arguments.model,
        max_seq_length=arguments.length,
        load_in_4bit=arguments.method == "QLoRA",
        full_finetuning=is_full,
    )
    if not is_full:
        model = language_models.get_peft_model(
            model, r=16, lora_alpha=32, lora_dropout=0, target_modules=LINEAR,
            use_gradient_checkpointing="unsloth",
        )  # fmt: skip
    return {"model": model, "processing_class": tokenizer}


if __name__ == "__main__":
    main()
