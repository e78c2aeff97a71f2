"""The report of a rank: before training in events, after it in ``outcome.json``."""

from __future__ import annotations

import json
import resource
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.model.adapters import ALL_LINEAR, adapts_experts, has_fused_experts
from finetune_trainer.model.kernels.varlen_attention import NAME as VARLEN
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.train.ranks.handover import WorkerPlan
from finetune_trainer.train.recipe.planned import describe_plan
from finetune_trainer.train.recipe.recipe import DataShape, Recipe, find_warnings
from finetune_trainer.train.recipe.selection import draw_curve

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel, Trainer

    from finetune_trainer.train.ranks.callbacks.watchers import Watchers


def tell_start(
    emit: EventEmitter, model: Architecture, job: ResolvedJob, recipe: Recipe, data: DataShape
) -> None:
    """Emit the run's plan, warnings and estimates."""
    emit.message(describe(recipe, data))
    if words := describe_sample(recipe):
        emit.message(words)
    for warning in find_warnings(recipe, data):
        emit.message(warning)
    planned = describe_plan(job, data, model, recipe)
    emit.plan(planned)
    for each in planned.reasons:
        if each.name == "targetModules":
            emit.message(each.reason)


def emit_adapter_warnings(
    emit: EventEmitter, adapter: Adapter, model: PreTrainedModel, lora: LoraConfig | None
) -> None:
    """Emit a warning where the adapter differs from the job's."""
    if lora is None:
        return
    if lora.lora_dropout != float(adapter.dropout):
        emit.message(
            f"method.adapter.dropout {adapter.dropout} is not used: adapters of fused experts know "
            "no dropout"
        )
    asks_for_all = adapter.target_modules == [ALL_LINEAR]
    if asks_for_all and has_fused_experts(model) and not adapts_experts(adapter, model):
        emit.message(
            f"the experts of {model.config.model_type} get no adapter: they are stacked in one "
            "parameter, which all-linear does not name; attention and the other linear layers learn"
        )


def leave_outcome(
    plan: WorkerPlan,
    trainer: Trainer,
    recipe: Recipe,
    watchers: Watchers,
    selection: dict[str, Any],
    *,
    is_fused: bool,
) -> None:
    """Write the training's result for the parent; ``is_fused``: with Liger's kernels."""
    from finetune_trainer.train.ranks.whole import count_trainable

    is_flattened = stays_flattened(trainer, recipe)
    outcome = {
        "step": trainer.state.global_step,
        "selection": selection,
        "curve": draw_curve(trainer.state.log_history),
        "metrics": {
            **(watchers.curve.latest if watchers.curve else {}),
            "checkpoint_stall_seconds": watchers.checkpoints.stall_seconds,
        },
        "resumed_from": plan.resume_step,
        # The real setting, which differs from the plan if examples would see each other.
        "recipe": {**recipe.to_json(), "padding_free": is_flattened},
        "attention": name_attention(
            trainer.model.config._attn_implementation, joins_rows=is_flattened or recipe.packing
        ),
        "kernels": "liger" if is_fused else "none",
        "trainable_parameters": count_trainable(trainer.model),
    }
    Path(plan.control_dir, "outcome.json").write_text(json.dumps(outcome))
    # Beside the curve and not in run.json, which is the same for equal runs.
    peak = {
        "step": outcome["step"],
        "peak_memory_bytes": measure_peak_memory(use_gpu=plan.use_gpu),
        "hardware": name_hardware(use_gpu=plan.use_gpu),
    }
    with Path(plan.curve).open("a") as file:
        file.write(json.dumps(peak) + "\n")


def name_attention(loaded: str, *, joins_rows: bool) -> str:
    """Return the attention that training computed: rows with padding leave the boundaries' one."""
    return "sdpa" if loaded == VARLEN and not joins_rows else loaded


def measure_peak_memory(*, use_gpu: bool) -> int:
    """Return the most memory this rank held: of its GPU as allocated, else resident of the host."""
    if use_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def name_hardware(*, use_gpu: bool) -> str:
    """Return the kind of device that this rank trained on: ``NVIDIA H100 80GB HBM3``, or CPU."""
    if use_gpu:
        import torch

        return str(torch.cuda.get_device_name())
    return "CPU"


def stays_flattened(trainer: Trainer, recipe: Recipe) -> bool:
    """Return whether micro batches were flattened as planned, or padded after all."""
    return recipe.padding_free and bool(getattr(trainer.data_collator, "padding_free", False))


def describe(recipe: Recipe, data: DataShape) -> str:
    """Describe the run's plan in one line."""
    where = "GPU" if recipe.use_gpu else "CPU"
    inside = " inside each node" if recipe.num_replicas > 1 else ""
    shape = "packed" if recipe.packing else "padding-free" if recipe.padding_free else "padded"
    return (
        f"training on {data.num_rows} rows ({data.num_tokens} tokens), {recipe.total_steps} steps "
        f"of {recipe.global_batch_size} examples = {recipe.micro_batch_size} micro x "
        f"{recipe.accumulation_steps} accumulation x {recipe.world_size} rank(s), learning rate "
        f"{recipe.learning_rate:g}, {'bfloat16' if recipe.bfloat16 else 'float32'} base, {shape}, "
        f"activation checkpointing {'on' if recipe.activation_checkpointing else 'off'}, "
        f"{recipe.strategy}{inside} on {where}, "
        f"about {recipe.estimated_memory_bytes / 2**30:.1f} of "
        f"{recipe.available_memory_bytes / 2**30:.1f} GiB per rank"
    )


def describe_sample(recipe: Recipe) -> str:
    """Say that not all validation rows are measured; empty if they are."""
    if recipe.num_measured_rows >= recipe.num_validation_rows:
        return ""
    return (
        f"the validation loss is measured on {recipe.num_measured_rows:,} of "
        f"{recipe.num_validation_rows:,} validation rows, the same ones each time; "
        "checkpoint.validateEverySteps with a number measures all of them"
    )


def describe_selection(selection: dict[str, Any]) -> str:
    """Describe the chosen step and the effect of early stopping in one line."""
    step, last, planned = (selection[k] for k in ("step", "last_step", "planned_steps"))
    words = f"the weights after step {step} are kept"
    if selection["validation_loss"] is not None:
        words += f", validation loss {selection['validation_loss']:.4f}"
    if selection.get("validation_error") is not None:
        words += f" with standard error {selection['validation_error']:.4f}"
    if step != last and selection["last_validation_loss"] is not None:
        words += f" (the last, step {last}: {selection['last_validation_loss']:.4f})"
    if last < planned:
        words += f"; stopped early, {planned - last} of {planned} steps saved"
    return words
