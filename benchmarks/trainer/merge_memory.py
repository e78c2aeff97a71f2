"""The memory that merging an adapter takes. Bar: a model of 3 billion parameters within 4 GiB.

Writes random weights in the shape of Llama 3.2 3B (bfloat16) and a random adapter (rank 16 on all
linear layers), merges them in the process that `train` starts, and reads its peak from the kernel.
The peak counts mapped pages of files too.

Usage: python benchmarks/trainer/merge_memory.py
Writes benchmarks/results/merge.md; takes some two minutes and 13 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import save_file
from transformers import LlamaConfig, LlamaForCausalLM

from finetune_trainer.publish.merge import MergePlan

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / "benchmarks" / "results" / "merge.md"
BAR_GIB = 4.0
GIB = 2**30
SHAPE = LlamaConfig(
    vocab_size=128_256,
    hidden_size=3072,
    intermediate_size=8192,
    num_hidden_layers=28,
    num_attention_heads=24,
    num_key_value_heads=8,
    tie_word_embeddings=True,
    dtype="bfloat16",
)


def count_parameters() -> int:
    """Return the weights of the shape."""
    with torch.device("meta"):
        return sum(each.numel() for each in LlamaForCausalLM(SHAPE).parameters())


def write_base(folder: Path) -> None:
    """Write random weights in two files, as the Hub has them."""
    folder.mkdir()
    SHAPE.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text("{}")
    with torch.device("meta"):
        named = list(LlamaForCausalLM(SHAPE).named_parameters())
    half = len(named) // 2
    places = {}
    for number, part in enumerate((named[:half], named[half:])):
        name = f"model-{number + 1:05d}-of-00002.safetensors"
        tensors = {
            key: torch.empty(each.shape, dtype=torch.bfloat16).normal_(std=0.02)
            for key, each in part
        }
        save_file(tensors, folder / name, metadata={"format": "pt"})
        places.update(dict.fromkeys(tensors, name))
        del tensors
    index = {"metadata": {}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def write_adapter(folder: Path) -> None:
    """Write a random adapter for the base."""
    with torch.device("meta"):
        model = LlamaForCausalLM(SHAPE)
    lora = LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM")
    tuned = get_peft_model(model, lora)
    weights = {
        name.replace(".default", ""): torch.randn(each.shape) * 0.01
        for name, each in tuned.named_parameters()
        if "lora_" in name
    }
    folder.mkdir()
    lora.save_pretrained(folder)
    save_file(weights, folder / "adapter_model.safetensors")


def main() -> int:
    """Measure one merge and write the page; returns 1 if the bar is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", type=Path, metavar="FOLDER", help="only write the models there")
    folder = parser.parse_args().write
    if folder is not None:
        write_base(folder / "base")
        write_adapter(folder / "adapter")
        return 0
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(temporary)
        # In a process of its own: the kernel counts a parent's peak for its children too.
        subprocess.run([sys.executable, __file__, "--write", str(root)], check=True)
        num_parameters = count_parameters()
        (root / "merged").mkdir()
        plan = MergePlan(
            model_dir=str(root / "base"),
            adapter_dir=str(root / "adapter"),
            target_dir=str(root / "merged"),
            failure=str(root / "failure.json"),
            trust_remote_code=False,
        )
        (root / "plan.json").write_text(json.dumps(asdict(plan)))
        command = [sys.executable, "-m", "finetune_trainer.publish.merge", str(root / "plan.json")]
        begun = time.monotonic()
        _, status, usage = os.wait4(subprocess.Popen(command).pid, 0)
        seconds, peak = time.monotonic() - begun, usage.ru_maxrss * 1024
        if status:
            return 1
        written = sum(each.stat().st_size for each in (root / "merged").glob("*.safetensors"))
    met = peak <= BAR_GIB * GIB
    RESULTS.write_text(
        f"# Memory of merging, {date.today()}\n\n"
        "`python benchmarks/trainer/merge_memory.py`: random weights in the shape of Llama 3.2 3B "
        f"(bfloat16), LoRA rank 16\non all linear layers, on a {platform.machine()} of "
        f"{torch.get_num_threads()} threads without a GPU. Bar: at most {BAR_GIB:g} GiB.\n\n"
        "| parameters | written | peak of the process | seconds | bar |\n|---|---|---|---|---|\n"
        f"| {num_parameters / 1e9:.2f} billion | {written / GIB:.1f} GiB | {peak / GIB:.2f} GiB | "
        f"{seconds:.0f} | {'met' if met else 'missed'} |\n"
    )
    print(RESULTS.read_text())
    return 0 if met else 1


if __name__ == "__main__":
    sys.exit(main())
