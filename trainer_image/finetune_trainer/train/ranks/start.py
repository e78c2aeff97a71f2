"""Recipe, checkpoint and base model of a rank, before it trains."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.errors import InternalError, RetryableError
from finetune_trainer.model.kernels.liger import decide_liger
from finetune_trainer.model.load import expected_attention, read_config
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.experts import trains_router
from finetune_trainer.train.checkpoint import fetch_newest, fetch_step
from finetune_trainer.train.parent.launch import RECIPE_NAME
from finetune_trainer.train.ranks.handover import WorkerPlan, open_run_store
from finetune_trainer.train.recipe.lesson import MemoryLimits
from finetune_trainer.train.recipe.recipe import Recipe, decide_recipe

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from finetune_trainer.train.ranks.sides import EncodedSplits


def settle_recipe(
    plan: WorkerPlan, job: ResolvedJob, sides: EncodedSplits, model: Architecture
) -> Recipe:
    """Decide every ``auto`` from rows, model and hardware; write ``recipe.json``.

    Raises:
        UserError: Settings contradict each other or the hardware.
    """
    from finetune_trainer.model.hardware import detect_hardware

    recipe = decide_recipe(
        job,
        sides.shape,
        model,
        detect_hardware(),
        use_gpu=plan.use_gpu,
        attention=expected_attention(job.spec.hyperparameters.attention, use_gpu=plan.use_gpu),
        lesson=MemoryLimits(**plan.lesson),
    )
    if int(os.environ.get("LOCAL_RANK") or 0) == 0:
        Path(plan.control_dir, RECIPE_NAME).write_text(json.dumps(recipe.to_json()))
    return recipe


def check_agreement(recipe: Recipe) -> None:
    """Check that the nodes settled on the same batches; all ranks must call it.

    Raises:
        RetryableError: They differ: a node read the notes of earlier attempts too early.
    """
    if int(os.environ.get("WORLD_SIZE") or 1) == int(os.environ.get("LOCAL_WORLD_SIZE") or 1):
        return
    import torch.distributed as dist

    sizes: list[int] = [0] * dist.get_world_size()
    dist.all_gather_object(sizes, recipe.micro_batch_size)
    if len(set(sizes)) > 1:
        raise RetryableError(
            "RecipesDiffer",
            f"the nodes settled on micro batches of {sorted(set(sizes))} examples: one had not "
            "seen that an attempt before ran out of memory; the next attempt begins with the same",
        )


def uses_liger(plan: WorkerPlan, job: ResolvedJob) -> bool:
    """Return whether this model runs with Liger's kernels.

    Raises:
        UserError: The job asks for them and they cannot be used.
    """
    model_type = str(read_config(Path(plan.model_dir)).get("model_type", "unknown"))
    return decide_liger(job.spec.hyperparameters.kernels, model_type, use_gpu=plan.use_gpu)


def balances_experts(model: Architecture, adapter: Adapter) -> bool:
    """Return whether the loss has a term for the balance of a mixture's experts.

    TRL adds it for every mixture. With a frozen router it would only pull the adapter away from the
    answers.
    """
    return trains_router(model.model_type, adapter.type, tuple(adapter.target_modules))


def check_world_size(recipe: Recipe, actual: int) -> None:
    """Raise ``InternalError`` if accelerate sees another number of ranks than were started."""
    if actual != recipe.world_size:
        raise InternalError(
            "WorldSizeMismatch",
            f"asked for {recipe.world_size} ranks (nodes x gpusPerNode), got {actual}",
        )


def agree_on_checkpoint(
    plan: WorkerPlan, job: ResolvedJob, tell: Callable[[str], None], *, local_rank: int
) -> WorkerPlan:
    """Return the plan with the checkpoint that every node resumes from.

    Raises:
        StorageError: A node cannot read the run's storage.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE") or 1)
    if num_ranks == int(os.environ.get("LOCAL_WORLD_SIZE") or num_ranks):
        return plan
    from finetune_trainer.train.ranks.agreement import agree_on_step

    store = open_run_store(job, plan, tell)
    prefix, folder = f"{job.run_prefix}/checkpoints", Path(plan.output_dir)

    def fetch(step: int) -> None:
        fetch_step(store, prefix, step, folder)

    def older(step: int) -> int:
        found = fetch_newest(store, prefix, folder, below=step)
        return found.step if found else 0

    step = agree_on_step(plan.resume_step, is_local_first=local_rank == 0, fetch=fetch, older=older)
    return replace(
        plan, resume_step=step, resume_dir=str(folder / f"checkpoint-{step}") if step else None
    )


def begins_from_origin(plan: WorkerPlan, job: ResolvedJob) -> bool:
    """Whether training begins from other trained weights instead of its own checkpoint.

    Raises:
        InternalError: It does, and the parent has not fetched them.
    """
    if job.spec.init_from is None or plan.resume_dir is not None:
        return False
    if plan.origin_dir is None:
        raise InternalError("NoOrigin", "the weights of spec.initFrom were not fetched")
    return True


def find_weights(plan: WorkerPlan, job: ResolvedJob, recipe: Recipe) -> Path | None:
    """Return the folder of trained weights that the model is made with; None: a fresh adapter.

    Ranks of FSDP2 resume so too: their checkpoints hold the weights once, in the ordinary files.

    Raises:
        InternalError: The parent has not fetched the weights of ``initFrom``.
    """
    if begins_from_origin(plan, job):
        return Path(plan.origin_dir or "")
    if recipe.strategy == "FSDP2" and plan.resume_dir is not None:
        return Path(plan.resume_dir)
    return None


def load_base(
    plan: WorkerPlan,
    job: ResolvedJob,
    adapter: Adapter,
    recipe: Recipe,
    *,
    local_rank: int,
    tell: Callable[[str], None],
) -> PreTrainedModel:
    """Load the base model as the recipe says and check that the adapter, by name, fits it.

    ``local_rank`` is this rank's GPU, if there are GPUs. Only quantised weights are placed at
    loading. ``tell`` takes messages for people.

    Raises:
        UserError: The model does not load, or the adapter's targets match nothing.
    """
    import torch

    from finetune_trainer.model.adapters import check_saved_modules, check_target_modules
    from finetune_trainer.model.kernels.compiled import compile_blocks
    from finetune_trainer.model.load import load_model
    from finetune_trainer.train.ranks.agreement import agree_on_fault
    from finetune_trainer.train.ranks.sharding import loading_once

    quantized = adapter.type == "QLoRA"
    # Full fine-tuning keeps float32 master weights and computes in bfloat16 by autocast.
    is_low_precision = recipe.bfloat16 and adapter.type != "Full"
    weights = find_weights(plan, job, recipe) if adapter.type == "Full" else None

    def agree(fault: str) -> str:
        found = agree_on_fault(fault) if recipe.world_size > 1 else fault
        if found and recipe.use_gpu:
            tell(f"attention: Varlen is not used, which needs less memory on joined rows: {found}")
        return found

    # Files in 4 or 8 bits are read by libraries of their own.
    is_plain = not quantized and "quantization_config" not in read_config(Path(plan.model_dir))
    is_receiver = recipe.strategy == "FSDP2" and local_rank > 0 and is_plain
    with loading_once(is_receiver=is_receiver):
        model = load_model(
            weights or Path(plan.model_dir),
            dtype=torch.bfloat16 if is_low_precision else torch.float32,
            computes=torch.bfloat16 if recipe.bfloat16 else torch.float32,
            trust_remote_code=job.spec.model.trust_remote_code,
            quantize=quantized,
            shardable=recipe.strategy == "FSDP2",
            device_map={"": local_rank if plan.use_gpu else "cpu"} if quantized else None,
            attention=job.spec.hyperparameters.attention,
            joins_rows=recipe.padding_free or recipe.packing,
            agree=agree,
        )
    if recipe.use_gpu and job.spec.hyperparameters.compile == "On":
        compile_blocks(model)
    check_target_modules(adapter, model)
    check_saved_modules(adapter, model)
    return model
