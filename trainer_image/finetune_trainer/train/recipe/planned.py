"""Describes a recipe, its needs and reasons: for ``status.plan`` and ``finetune plan``. Pure."""

from __future__ import annotations

from dataclasses import replace

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.status.plan import PlanMemory, PlanReason, PlanStatus
from finetune_trainer.planning.activations import expert_adapter_size
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.experts import ALL_LINEAR, choose_targets
from finetune_trainer.planning.memory import count_adapter, count_saved
from finetune_trainer.planning.setup import Setup, drops_inputs
from finetune_trainer.train.recipe.learning_rate import adapter_strength, exponent_of
from finetune_trainer.train.recipe.recipe import DataShape, Recipe
from finetune_trainer.train.recipe.selection import VALIDATIONS_PER_RUN
from finetune_trainer.train.recipe.validation import MAX_VALIDATION_SHARE, MIN_MEASURED_ROWS


def describe_plan(
    job: ResolvedJob, data: DataShape, model: Architecture, recipe: Recipe
) -> PlanStatus:
    """Return the plan in the words of the API."""
    setup = setup_of(job, model, recipe)
    return PlanStatus(
        rows=data.num_rows,
        tokens=data.num_tokens,
        parameters=model.num_parameters,
        trainable_parameters=(
            model.num_parameters
            if setup.is_full
            else count_adapter(model, setup) + count_saved(model, setup)
        ),
        learning_rate=f"{recipe.learning_rate:g}",
        global_batch_size=recipe.global_batch_size,
        micro_batch_size=recipe.micro_batch_size,
        accumulation_steps=recipe.accumulation_steps,
        world_size=recipe.world_size,
        total_steps=recipe.total_steps,
        strategy=recipe.strategy,
        precision="BFloat16" if recipe.bfloat16 else "Float32",
        layout="Packed" if recipe.packing else "PaddingFree" if recipe.padding_free else "Padded",
        activation_checkpointing=recipe.activation_checkpointing,
        memory=PlanMemory(**recipe.memory, available=recipe.available_memory_bytes),
        reasons=[
            PlanReason(name=name, reason=reason[:253])
            for name, reason in explain(job, data, model, recipe).items()
        ],
    )


def setup_of(job: ResolvedJob, model: Architecture, recipe: Recipe) -> Setup:
    """Return how the recipe trains, as far as memory and time depend on it."""
    adapter = job.spec.method.adapter
    targets = choose_targets(adapter.target_modules, model)
    return Setup(
        adapter=adapter.type,
        rank=adapter.rank,
        targets=targets,
        saved_modules=tuple(adapter.modules_to_save),
        dropout=drops_inputs(adapter.dropout, targets, model_type=model.model_type),
        optimizer=job.spec.hyperparameters.optimizer,
        bfloat16=recipe.bfloat16,
        checkpointing=recipe.activation_checkpointing,
        padding_free=recipe.padding_free or recipe.packing,
        accumulation=recipe.accumulation_steps > 1,
        strategy=recipe.strategy,
        world_size=recipe.world_size,
        num_nodes=job.spec.resources.nodes,
        num_replicas=recipe.num_replicas,
        use_gpu=recipe.use_gpu,
    )


def explain(
    job: ResolvedJob, data: DataShape, model: Architecture, recipe: Recipe
) -> dict[str, str]:
    """Say of every setting that was left to us which rule chose it."""
    found: dict[str, str] = {}
    asked = job.spec.method.adapter.target_modules
    if words := _explain_targets(setup_of(job, model, recipe), model, asked):
        found["targetModules"] = words
    if job.spec.hyperparameters.learning_rate == "auto":
        found["learningRate"] = _explain_rate(job, model, recipe)
    found |= _explain_batches(job, data, recipe)
    if job.spec.checkpoint.validate_every_steps == "auto" and recipe.num_validation_rows:
        found["validateEverySteps"] = _explain_validation(recipe)
    return found | _explain_device(job, recipe)


def _explain_rate(job: ResolvedJob, model: Architecture, recipe: Recipe) -> str:
    adapter = job.spec.method.adapter
    strength = adapter_strength(adapter)
    short = ", half as much again below 100 steps" if recipe.total_steps < 100 else ""
    scaled = "" if strength == 32 else f", times 32/{strength:g} for the adapter's scaling"
    rest = ", a tenth for all weights" if adapter.type == "Full" else scaled
    return (
        f"5e-4 x (2000 / hidden size {model.hidden_size})^{exponent_of(model)} between 1e-4 and "
        f"2e-3{short}{rest}"
    )


def _explain_batches(job: ResolvedJob, data: DataShape, recipe: Recipe) -> dict[str, str]:
    hyper = job.spec.hyperparameters
    found = {}
    if hyper.global_batch_size == "auto":
        found["globalBatchSize"] = (
            f"8 below 1,000 rows, 16 below 10,000, else 32 ({data.num_rows} rows), a multiple of "
            f"{recipe.world_size} rank(s)"
        )
    if hyper.micro_batch_size == "auto":
        budget = "16,384 on a GPU" if recipe.use_gpu else "2,048 on a CPU"
        found["microBatchSize"] = (
            f"the largest divisor of {recipe.global_batch_size // recipe.world_size} examples per "
            f"rank within {budget} tokens and the memory; rows have {data.mean_tokens:.0f} tokens "
            f"on average, at most {data.longest_tokens}"
        )
    if recipe.out_of_memory_at:
        found["microBatchSize"] = (
            f"an earlier attempt ran out of memory with {recipe.out_of_memory_at} examples per "
            "forward pass; the global batch is the same"
        )
    return found


def _explain_device(job: ResolvedJob, recipe: Recipe) -> dict[str, str]:
    hyper = job.spec.hyperparameters
    found = {}
    if hyper.activation_checkpointing == "Auto":
        found["activationCheckpointing"] = (
            "without it nothing fits, or only smaller and slower micro batches"
            if recipe.activation_checkpointing
            else "memory suffices without it, and it costs speed"
        )
    if job.spec.resources.strategy == "Auto" and recipe.world_size > 1:
        found["strategy"] = (
            "the model fits every GPU whole"
            if recipe.strategy == "DDP"
            else "whole weights on every GPU do not fit or leave too little for the batch"
            + ("; each node holds them once" if recipe.num_replicas > 1 else "")
        )
    if hyper.precision == "Auto":
        found["precision"] = (
            "the device computes in bfloat16"
            if recipe.bfloat16
            else "the device or the strategy does not compute in bfloat16"
        )
    return found


def _explain_targets(setup: Setup, model: Architecture, asked: list[str]) -> str:
    """Say why a mixture's experts get no adapter; empty where ``auto`` left nothing out."""
    if setup.is_full or setup.targets in (tuple(asked), ALL_LINEAR):
        return ""
    with_experts = replace(setup, targets=ALL_LINEAR, dropout=False)
    return (
        f"adapters on attention only ({', '.join(setup.targets)}), because adapters on the stacked "
        f"experts would have {expert_adapter_size(model, with_experts):,} weights; write "
        "targetModules [all-linear] for the experts"
    )


def _explain_validation(recipe: Recipe) -> str:
    words = f"every {recipe.validation_interval} steps, at most {VALIDATIONS_PER_RUN} in a run"
    if recipe.num_measured_rows >= recipe.num_validation_rows:
        return f"{words}, over all {recipe.num_validation_rows:,} validation rows"
    return (
        f"{words}, over the same {recipe.num_measured_rows:,} of {recipe.num_validation_rows:,} "
        f"validation rows each time: at most {MAX_VALIDATION_SHARE:.0%} of the operations of "
        f"training, and at least {MIN_MEASURED_ROWS} rows"
    )
