"""The shortest TRL script: its own defaults, LoRA on all linear layers; prints one JSON line."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from typing import Any


def main() -> None:
    """Train and print tokens/s and the peak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("rows")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warmup", type=int, default=3)
    arguments = parser.parse_args()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import SFTConfig, SFTTrainer

    marks: list[float] = []

    class Watch(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            marks.append(time.perf_counter())

    with open(arguments.rows) as file:
        rows = [json.loads(line) for line in file]
    messages = [
        {
            "prompt": [{"role": "user", "content": row["prompt"]}],
            "completion": [{"role": "assistant", "content": row["completion"]}],
        }
        for row in rows
    ]
    has_gpu = torch.cuda.is_available()
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=arguments.model,
            args=SFTConfig(
                output_dir=scratch, max_steps=arguments.steps, save_strategy="no",
                report_to="none", disable_tqdm=True, use_cpu=not has_gpu, logging_steps=1,
            ),
            train_dataset=Dataset.from_list(messages),
            peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
            callbacks=[Watch()],
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
    rate = tokens / (marks[-1] - marks[warmup - 1])
    print(json.dumps({"tokens_per_second": rate, "peak_bytes": peak, "what": "TRL's defaults"}))


if __name__ == "__main__":
    main()
