"""The yardstick: what a good engineer writes by hand with TRL, PEFT and transformers.

Same model, rows, recipe and answer length as the run it is compared with, without padding and
without activation checkpointing; everything that the
product adds (manifests, checkpoints, intervals, publication) is left out.

Usage: python plain_trl.py --model DIR --data DIR --recipe recipe.json --max-new-tokens N
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer

from finetune_trainer.evaluate.metrics.labels import normalize_label


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument(
        "--data", type=Path, required=True, help="folder with train.jsonl, test.jsonl"
    )
    parser.add_argument("--recipe", type=Path, required=True)
    parser.add_argument("--metric", choices=["exactMatch", "rougeL"], required=True)
    parser.add_argument("--max-new-tokens", type=int, required=True)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--max-questions", type=int, default=500)
    arguments = parser.parse_args()
    recipe = json.loads(arguments.recipe.read_text())
    began = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(arguments.model)
    dtype = torch.bfloat16 if recipe["bfloat16"] else torch.float32
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=dtype)
    train = Dataset.from_list(
        [
            {k: row[k] for k in ("prompt", "completion")}
            for row in read(arguments.data / "train.jsonl")
        ]
    )
    with tempfile.TemporaryDirectory() as scratch:
        trainer = SFTTrainer(
            model=model,
            args=SFTConfig(
                output_dir=scratch,
                per_device_train_batch_size=recipe["micro_batch_size"],
                gradient_accumulation_steps=recipe["accumulation_steps"],
                learning_rate=recipe["learning_rate"],
                lr_scheduler_type="cosine",
                warmup_steps=0.03,
                num_train_epochs=recipe["epochs"],
                bf16=recipe["bfloat16"],
                use_cpu=not torch.cuda.is_available(),
                seed=arguments.seed,
                # Its best setting: nothing is padded and nothing computed twice.
                gradient_checkpointing=False,
                padding_free=recipe["padding_free"],
                max_length=None if recipe["padding_free"] else 256,
                logging_steps=10,
                save_strategy="no",
                report_to="none",
                disable_tqdm=True,
            ),
            train_dataset=train,
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
            ),
        )
        trainer.train()
    trained = time.monotonic()
    tuned = trainer.model.eval()
    rows = read(arguments.data / "test.jsonl")
    tuned_score = evaluate(tuned, tokenizer, rows, arguments)
    evaluated = time.monotonic()
    with tuned.disable_adapter():
        base_score = evaluate(tuned, tokenizer, rows, arguments)
    result = {
        "score": tuned_score,
        "base_score": base_score,
        "train_seconds": trained - began,
        "evaluate_seconds": evaluated - trained,
        "base_seconds": time.monotonic() - evaluated,
    }
    print(json.dumps(result))


def evaluate(
    model: Any, tokenizer: Any, rows: list[dict[str, Any]], arguments: argparse.Namespace
) -> float:
    """Answer the questions greedily in batches of 16 and return the mean score."""
    groups: dict[str, list[str]] = {}
    prompts: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        key = json.dumps(row["prompt"])
        prompts[key] = row["prompt"]
        groups.setdefault(key, []).append(row["completion"][-1]["content"])
    scores = []
    tokenizer.padding_side = "left"
    # Questions of like lengths together, as a good engineer would: the least padding.
    keys = sorted(list(groups)[: arguments.max_questions], key=len)
    for start in range(0, len(keys), 16):
        batch = keys[start : start + 16]
        inputs = tokenizer.apply_chat_template(
            [prompts[key] for key in batch],
            add_generation_prompt=True,
            padding=True,
            return_tensors="pt",
            return_dict=True,
        )
        with torch.inference_mode():
            output = model.generate(
                **inputs, max_new_tokens=arguments.max_new_tokens, do_sample=False
            )
        width = inputs["input_ids"].shape[1]
        for key, row in zip(batch, output, strict=True):
            answer = tokenizer.decode(row[width:], skip_special_tokens=True).strip()
            scores.append(score(answer, groups[key], arguments.metric))
    return sum(scores) / len(scores)


def score(answer: str, references: list[str], metric: str) -> float:
    if metric == "exactMatch":
        return float(normalize_label(answer) in {normalize_label(r) for r in references})
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    return max(
        float(scorer.score(reference, answer)["rougeL"].fmeasure) for reference in references
    )


if __name__ == "__main__":
    main()
