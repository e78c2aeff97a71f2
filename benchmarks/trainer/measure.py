"""One measured training run in a fresh process; prints one JSON line.

``ours`` builds the trainer as the stage does, with all its callbacks; ``plain`` is the TRL script
that a good engineer would write with the settings of ``--recipe``; ``defaults`` the shortest one.
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "tools"), str(Path(__file__).parent)]

from rows import chat_rows  # noqa: E402

from base_model import ensure_model  # noqa: E402


class Stopwatch:
    """A callback that times optimiser steps after a warm-up."""

    def __init__(self, warmup: int) -> None:
        from transformers import TrainerCallback

        outer = self
        self.begins: list[float] = []

        class Callback(TrainerCallback):  # type: ignore[misc]
            def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
                outer.begins.append(time.perf_counter())

        self.callback = Callback()
        self.warmup = warmup

    @property
    def seconds(self) -> float:
        """Seconds from the end of the warm-up to the last step."""
        return self.begins[-1] - self.begins[self.warmup - 1]


def ours(
    job: Any,
    num_steps: int,
    warmup: int,
    rows: list[dict[str, Any]],
    *,
    store: Any = None,
    callbacks: Sequence[Any] = (),
) -> dict[str, Any]:
    """Train as the stage does; into a store of its own and with more callbacks if given."""
    import torch
    from datasets import Dataset

    from finetune_api.protocol.trainer import Stage
    from finetune_trainer.model.adapters import build_lora_config, name_targets
    from finetune_trainer.model.encoding import ChatTokenizer
    from finetune_trainer.model.hardware import detect_hardware
    from finetune_trainer.model.kernels.lora import fuse_lora
    from finetune_trainer.model.load import (
        load_model,
        load_tokenizer,
        read_model_architecture,
    )
    from finetune_trainer.report.events import EventEmitter
    from finetune_trainer.storage import StorageAccess, open_store
    from finetune_trainer.train.parent.outbox import Outbox
    from finetune_trainer.train.ranks.callbacks.progress import CurveWriter, StopRequest
    from finetune_trainer.train.ranks.durable import DurableCheckpoints
    from finetune_trainer.train.ranks.sft import build_config, build_trainer
    from finetune_trainer.train.ranks.state_files import state_files_below
    from finetune_trainer.train.recipe.recipe import DataShape, decide_recipe

    folder = ensure_model()
    tokenizer = load_tokenizer(folder)
    encoder = ChatTokenizer(tokenizer, loss="Auto", max_tokens=1024)
    examples = [e for row in rows for e in encoder.encode_row(row) if e.has_answer]
    lengths = [len(e.input_ids) for e in examples]
    columns = {name: [getattr(e, name) for e in examples] for name in ("input_ids", "labels")}
    dataset = Dataset.from_dict(columns)
    shape = DataShape(
        num_rows=len(lengths), num_tokens=sum(lengths),
        mean_tokens=sum(lengths) / len(lengths), longest_tokens=max(lengths),
    )  # fmt: skip
    architecture = read_model_architecture(folder)
    recipe = decide_recipe(job, shape, architecture, detect_hardware(), use_gpu=False)
    watch = Stopwatch(warmup)
    with tempfile.TemporaryDirectory() as scratch:
        output, curve = Path(scratch) / "out", Path(scratch) / "metrics.jsonl"
        config = build_config(job, recipe, output, has_validation=False)
        dtype = torch.bfloat16 if recipe.bfloat16 else torch.float32
        model = load_model(folder, dtype=dtype)
        emit = EventEmitter(Stage.TRAIN, stream=sys.stderr)
        store = store or open_store(f"file://{scratch}/store", StorageAccess())
        durable = DurableCheckpoints(
            store, "c", outbox=Outbox(store, budget_bytes=0, tell=emit.message),
            keep=2, curve=curve, curve_key="x", inputs={}, resumed_from=0, tell=emit.message,
        )  # fmt: skip
        trainer = build_trainer(
            job=job,
            config=config, model=model, tokenizer=tokenizer,
            lora=build_lora_config(name_targets(job.spec.method.adapter, architecture), model),
            train=dataset,
            validation=dataset.select(range(0)),
            callbacks=[
                CurveWriter(curve, emit, resumed_from=0),
                durable,
                StopRequest(Path(scratch) / "stop", lambda _: 0.0),
                watch.callback,
                *callbacks,
            ],
        )  # fmt: skip
        fuse_lora(trainer.model)
        durable.attach(trainer)
        with state_files_below(output):
            trainer.train()
    return {
        "seconds": watch.seconds,
        "recipe": recipe.to_json(),
        **_tokens(trainer, num_steps, warmup),
    }


def plain(
    settings: dict[str, Any] | None, num_steps: int, warmup: int, rows: list[dict[str, Any]]
) -> dict[str, Any]:
    """Train with a plain TRL script; None uses TRL's own defaults.

    The loss differs by one label a row: TRL also trains the line break that ChatML puts after the
    end token, which no model ever has to say.
    """
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import SFTConfig, SFTTrainer

    folder = ensure_model()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    watch = Stopwatch(warmup)
    with tempfile.TemporaryDirectory() as scratch:
        common: dict[str, Any] = {
            "output_dir": scratch, "max_steps": num_steps, "save_strategy": "no",
            "report_to": "none", "disable_tqdm": True, "seed": 42,
            # Without it TRL's default, bfloat16, is refused on a machine without a GPU.
            "use_cpu": not torch.cuda.is_available(),
        }  # fmt: skip
        if settings is None:
            model: Any = str(folder)
            config = SFTConfig(**common)
        else:
            dtype = torch.bfloat16 if settings["bfloat16"] else torch.float32
            model = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype)
            config = SFTConfig(
                **common,
                per_device_train_batch_size=settings["micro_batch_size"],
                gradient_accumulation_steps=settings["accumulation_steps"],
                learning_rate=settings["learning_rate"],
                gradient_checkpointing=settings["activation_checkpointing"],
                bf16=settings["bfloat16"],
                padding_free=settings["padding_free"],
                max_length=None if settings["padding_free"] else 1024,
                logging_steps=1,
                # The job's defaults, so that both take the same rows in the same order.
                data_seed=42,
                warmup_steps=0.03,
                lr_scheduler_type="cosine",
                weight_decay=0.0,
                max_grad_norm=1.0,
            )
        trainer = SFTTrainer(
            model=model, args=config, train_dataset=Dataset.from_list(rows),
            processing_class=tokenizer,
            peft_config=LoraConfig(
                r=16, lora_alpha=32, lora_dropout=0.0, target_modules="all-linear"
            ),
            callbacks=[watch.callback],
        )  # fmt: skip
        trainer.train()
    return {"seconds": watch.seconds, **_tokens(trainer, num_steps, warmup)}


def _tokens(trainer: Any, num_steps: int, warmup: int) -> dict[str, Any]:
    # Real tokens per step, padding left out; TRL counts them over the whole run.
    logged = [entry["num_tokens"] for entry in trainer.state.log_history if "num_tokens" in entry]
    return {
        "tokens": logged[-1] * (num_steps - warmup) / num_steps,
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "loss": [e["loss"] for e in trainer.state.log_history if "loss" in e][:3],
    }


def benchmark_job(num_steps: int, change: dict[str, Any], *, every_steps: int = 100000) -> Any:
    """Return the job behind ``ours``: defaults, but for the number of steps."""
    from finetune_api.protocol.trainer import resolve_job
    from finetune_api.v1alpha1.finetunejob import FineTuneJob

    spec = {
        "model": {"uri": f"file://{ensure_model()}"},
        "dataset": {"sources": [{"uri": "file:///generated"}]},
        "hyperparameters": {"maxSteps": num_steps, **change},
        "checkpoint": {"everySteps": every_steps},
        "output": {"uri": "file:///unused"},
        "resources": {"gpusPerNode": 0},
    }
    job = FineTuneJob.from_wire({"metadata": {"name": "benchmark"}, "spec": spec})
    return resolve_job(job, namespace="benchmark", uid="benchmark")


def main() -> None:
    """Run one variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("variant", choices=["ours", "plain", "defaults"])
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--rows", type=int, default=256)
    parser.add_argument("--recipe", type=json.loads)
    parser.add_argument("--change", type=json.loads, default={})
    arguments = parser.parse_args()
    rows = chat_rows(arguments.rows)
    if arguments.variant == "ours":
        job = benchmark_job(arguments.steps, arguments.change)
        result = ours(job, arguments.steps, arguments.warmup, rows)
    else:
        settings = arguments.recipe if arguments.variant == "plain" else None
        result = plain(settings, arguments.steps, arguments.warmup, rows)
    print(json.dumps(result))


if __name__ == "__main__":
    main()
