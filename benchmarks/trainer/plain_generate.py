"""The yardstick of ``evaluation_time.py``: both models by hand, with transformers and PEFT alone.

Prompts of like lengths together, left-padded, greedy, the adapter merged before the tuned model is
asked. No likelihoods, intervals, report or publication. Prints one JSON line.

Usage: python plain_generate.py task.json [--sizes 8 16 32]
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

SAMPLE = 96


def answer(
    model: Any, prompts: list[list[int]], task: dict[str, Any], batch_size: int
) -> list[list[int]]:
    """Return the tokens of the greedy answers, in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    found: dict[int, list[int]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        width = max(len(prompts[index]) for index in batch)
        ids = torch.full((len(batch), width), task["pad"])
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, index in enumerate(batch):
            size = len(prompts[index])
            ids[row, width - size :] = torch.tensor(prompts[index])
            mask[row, width - size :] = 1
        with torch.inference_mode():
            output = model.generate(
                input_ids=ids,
                attention_mask=mask,
                max_new_tokens=task["maxNewTokens"],
                do_sample=False,
                pad_token_id=task["pad"],
                eos_token_id=task["stop"],
            )
        found.update(zip(batch, output[:, width:].tolist(), strict=True))
    return [found[index] for index in range(len(prompts))]


def choose_size(model: Any, task: dict[str, Any], sizes: list[int]) -> dict[int, float]:
    """Return the seconds that some of the prompts take at each batch size."""
    sample = sorted(task["prompts"], key=len)[:: max(1, len(task["prompts"]) // SAMPLE)][:SAMPLE]
    seconds = {}
    answer(model, sample[:8], task, 8)
    for size in sizes:
        began = time.monotonic()
        answer(model, sample, task, size)
        seconds[size] = time.monotonic() - began
    return seconds


def main() -> None:
    """Answer the task's prompts, or try batch sizes on some of them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("task", type=Path)
    parser.add_argument("--sizes", type=int, nargs="+")
    arguments = parser.parse_args()
    task = json.loads(arguments.task.read_text())
    model: Any = AutoModelForCausalLM.from_pretrained(
        task["model"], dtype=getattr(torch, task["dtype"]), attn_implementation="sdpa"
    ).eval()
    if arguments.sizes:
        print(json.dumps(choose_size(model, task, arguments.sizes)))
        return
    tokenizer = AutoTokenizer.from_pretrained(task["model"])
    began = time.monotonic()
    said = {"base": answer(model, task["prompts"], task, task["batchSize"])}
    base_done = time.monotonic()
    model = PeftModel.from_pretrained(model, task["adapter"]).merge_and_unload()
    # The adapter has frozen it, and torch copies a frozen output matrix for every row of a batch.
    model.requires_grad_(True)
    said["tuned"] = answer(model, task["prompts"], task, task["batchSize"])
    ended = time.monotonic()
    texts = {
        side: [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in answers]
        for side, answers in said.items()
    }
    seconds = {"base": base_done - began, "tuned": ended - base_done}
    print(json.dumps({"texts": texts, "seconds": seconds}))


if __name__ == "__main__":
    main()
