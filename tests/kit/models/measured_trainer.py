"""Our own trainer over random rows, for a model and a way to train it."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_trainer.planning.setup import Setup
from kit.models.tiny_tokenizer import make_tokenizer


@dataclass(frozen=True, kw_only=True, slots=True)
class Case:
    """One model and one way to train it.

    Attributes:
        family: Name of the model's family.
        size: Changes to the family's configuration.
        rows: Examples per micro batch.
        length: Tokens per example.
        setup: How it is trained.
    """

    family: str
    size: dict[str, int] = field(default_factory=dict)
    rows: int = 4
    length: int = 128
    setup: Setup

    def __str__(self) -> str:
        """Name the case in a table."""
        setup = self.setup
        words = [setup.adapter if setup.is_full else f"{setup.adapter} r{setup.rank}"]
        words += ["bf16" if setup.bfloat16 else "fp32"]
        words += ["drop"] if setup.dropout and not setup.is_full else []
        words += ["ckpt"] if setup.checkpointing else []
        words += ["padded"] if not setup.padding_free else []
        words += ["acc 2"] if setup.accumulation else []
        words += [f"saves {' '.join(setup.saved_modules)}"] if setup.saved_modules else []
        words += [" ".join(setup.targets)] if "all-linear" not in setup.targets else []
        words += [setup.attention] if setup.attention != "sdpa" else []
        return " ".join(words)


def make_trainer(case: Case, model: Any, scratch: Path) -> Any:
    """Build our trainer over random examples that are all equally long."""
    from datasets import Dataset

    from finetune_trainer.model.adapters import build_lora_config
    from finetune_trainer.model.kernels.lora import fuse_lora
    from finetune_trainer.train.ranks.sft import build_config, build_trainer
    from finetune_trainer.train.ranks.whole import train_in_float32

    job, recipe, rows = _make_job(case.setup), _make_recipe(case), draw_rows(case)
    dataset = Dataset.from_dict({"input_ids": rows, "labels": rows})
    config = build_config(job, recipe, scratch, has_validation=False)
    config.save_strategy = "no"
    trainer = build_trainer(
        job=job,
        config=config,
        model=model,
        tokenizer=make_tokenizer(),
        lora=build_lora_config(job.spec.method.adapter, model),
        train=dataset,
        validation=dataset.select([]),
        callbacks=[],
    )
    train_in_float32(trainer.model, adapter=case.setup.adapter, strategy=recipe.strategy)
    fuse_lora(trainer.model)
    return trainer


def _make_job(setup: Setup) -> Any:
    from finetune_api.protocol.trainer import resolve_job
    from finetune_api.v1alpha1.finetunejob import FineTuneJob

    adapter = {
        "type": setup.adapter,
        "rank": setup.rank,
        "dropout": "0.05" if setup.dropout else "0",
        "targetModules": list(setup.targets),
        "modulesToSave": list(setup.saved_modules),
    }
    body = {
        "metadata": {"name": "memory"},
        "spec": {
            "model": {"uri": "file:///m"},
            "dataset": {"sources": [{"uri": "file:///d"}]},
            "output": {"uri": "file:///o"},
            # The API takes QLoRA with GPUs alone; where it trains is the recipe's matter.
            "resources": {"gpusPerNode": 1 if setup.use_gpu or setup.adapter == "QLoRA" else 0},
            "hyperparameters": {"maxSteps": 2, "optimizer": setup.optimizer},
            "method": {"adapter": adapter},
        },
    }
    return resolve_job(FineTuneJob.from_wire(body), namespace="n", uid="u")


def _make_recipe(case: Case) -> Any:
    from finetune_trainer.train.recipe.recipe import Recipe

    setup, accumulation = case.setup, _num_accumulated(case)
    return Recipe(
        learning_rate=1e-4, global_batch_size=case.rows * accumulation * setup.world_size,
        micro_batch_size=case.rows, accumulation_steps=accumulation,
        world_size=setup.world_size, total_steps=2,
        epochs=1, strategy=setup.strategy, bfloat16=setup.bfloat16,
        activation_checkpointing=setup.checkpointing, padding_free=setup.padding_free,
        packing=False, use_gpu=setup.use_gpu, estimated_memory_bytes=0, memory={},
        available_memory_bytes=0, validation_interval=1,
    )  # fmt: skip


def draw_rows(case: Case) -> list[list[int]]:
    """Return the examples of two steps, as tokens."""
    rng = random.Random(0)
    rows = []
    for index in range(2 * case.rows * _num_accumulated(case) * case.setup.world_size):
        # Padded batches get a mask only if some row is shorter.
        short = not case.setup.padding_free and index % case.rows == 1
        length = case.length // 2 if short else case.length
        rows.append([rng.randrange(5, 200) for _ in range(length)])
    return rows


def _num_accumulated(case: Case) -> int:
    return 2 if case.setup.accumulation else 1
