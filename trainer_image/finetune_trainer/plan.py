"""``python -m finetune_trainer plan``: what a job would run, need, take and cost; trains nothing.

Loads no weights and no torch. Rows and tokens come from the job's prepared data set, which is
prepared if need be (a later run finds it), or from the command line.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.trainer import ResolvedJob, Stage
from finetune_api.v1alpha1.plan_status import PlanStatus
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.errors import UserError
from finetune_trainer.failures import classify
from finetune_trainer.model.hardware import Hardware, detect_hardware
from finetune_trainer.model.load import expected_attention, read_model_architecture
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.throughput import GPUS, cpu_flops, tokens_per_second
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.train.adopted import describe_idle, idle_recipe
from finetune_trainer.train.evaluation import plan_evaluation
from finetune_trainer.train.planned import describe_plan, setup_of
from finetune_trainer.train.recipe import DataShape, Recipe, decide_recipe, find_warnings
from finetune_trainer.train.shape import shape_of_training_side


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """What the plan is made for.

    Attributes:
        name: For people.
        hardware: What a node offers.
        use_gpu: Ranks run on GPUs.
        flops: Peak of one GPU; 0 on CPUs.
    """

    name: str
    hardware: Hardware
    use_gpu: bool
    flops: float = 0.0


def plan_job(arguments: argparse.Namespace) -> int:
    """Write the plan of a job as JSON; returns the exit code."""
    job = ResolvedJob.model_validate_json(Path(arguments.job).read_text())
    emit = EventEmitter(Stage.PREPARE)
    try:
        context = StageContext.from_environment(job, emit)
        data = _read_shape(context, arguments)
        folder, _ = context.model_folder(include_weights=False)
        model = read_model_architecture(folder)
        device = choose_device(job, arguments.gpu)
        recipe = choose_recipe(job, data, model, device)
        evaluation = plan_evaluation(job, data, model, recipe, device.hardware)
    except Exception as error:
        failure = classify(error)
        code = int(failure.exit_code)
        emit.failure(reason=failure.reason, message=failure.message, exit_code=code, step=None)
        return code
    result = {
        "plan": describe_recipe(job, data, model, recipe).to_wire(),
        "device": device.name,
        "time": estimate_time(job, data, model, recipe, device),
        "evaluation": evaluation.to_json(),
        "warnings": find_warnings(recipe, data),
    }
    Path(arguments.out).write_text(json.dumps(result))
    return 0


def choose_recipe(job: ResolvedJob, data: DataShape, model: Architecture, device: Device) -> Recipe:
    """Settle everything that the job left to us, for the given device.

    Raises:
        UserError: The settings do not fit each other, or the device.
    """
    if job.spec.trains_nothing:
        return idle_recipe(job, device.hardware, use_gpu=device.use_gpu)
    return decide_recipe(
        job,
        data,
        model,
        device.hardware,
        use_gpu=device.use_gpu,
        # What the image of the cluster has installed is not known here.
        attention=expected_attention(job.spec.hyperparameters.attention, use_gpu=False),
    )


def describe_recipe(
    job: ResolvedJob, data: DataShape, model: Architecture, recipe: Recipe
) -> PlanStatus:
    """Return the plan in the words of the API."""
    if job.spec.trains_nothing:
        return describe_idle(job, data, model, recipe, step=None)
    return describe_plan(job, data, model, recipe)


def choose_device(job: ResolvedJob, kind: str | None) -> Device:
    """Return the hardware to plan for: the named GPUs, or this machine's CPU without any.

    Raises:
        UserError: The job uses no GPU, or nobody knows that kind.
    """
    resources = job.spec.resources
    if kind is None and resources.gpus_per_node == 0:
        hardware = detect_hardware()
        name = f"{hardware.num_cpus} CPU cores of this machine"
        return Device(name=name, hardware=hardware, use_gpu=False)
    if resources.gpus_per_node == 0:
        raise UserError(
            "NoGPUAsked", "--gpu: the job trains on CPU (resources.gpusPerNode 0); set it above 0"
        )
    gpu = GPUS.get(kind or "h100")
    if gpu is None:
        raise UserError("UnknownGPU", f"--gpu {kind}: known kinds are {', '.join(sorted(GPUS))}")
    hardware = Hardware(
        num_gpus=resources.gpus_per_node,
        memory_bytes=gpu.memory,
        supports_bfloat16=gpu.bfloat16,
        num_cpus=8 * resources.gpus_per_node,
    )
    count = job.world_size
    return Device(name=f"{count} x {gpu.name}", hardware=hardware, use_gpu=True, flops=gpu.flops)


def estimate_time(
    job: ResolvedJob, data: DataShape, model: Architecture, recipe: Recipe, device: Device
) -> dict[str, Any]:
    """Estimate tokens, speed and seconds of training; start-up and evaluation are not in it."""
    if recipe.total_steps == 0:
        return {"tokens": 0, "tokensPerSecond": 0.0, "seconds": 0}
    setup = setup_of(job, model, recipe)
    mean = data.mean_tokens
    if recipe.packing:
        mean = float(job.spec.hyperparameters.max_sequence_length)
    elif not recipe.padding_free:
        # Rows are padded to the longest of their micro batch.
        mean = (data.mean_tokens + data.longest_tokens) / 2 if recipe.micro_batch_size > 1 else mean
    speed = tokens_per_second(
        model,
        setup,
        peak_flops=device.flops or cpu_flops(setup, device.hardware.num_cpus),
        mean_tokens=data.mean_tokens,
        tokens_per_pass=recipe.micro_batch_size * mean,
    )
    tokens = int(recipe.total_steps * recipe.global_batch_size * mean)
    return {
        "tokens": tokens,
        "tokensPerSecond": round(speed, 1),
        "seconds": max(1, round(tokens / speed)),
    }


def _read_shape(context: StageContext, arguments: argparse.Namespace) -> DataShape:
    """Take rows and tokens from the command line, else from the prepared data set."""
    if arguments.rows:
        mean = arguments.tokens / arguments.rows
        limit = context.job.spec.hyperparameters.max_sequence_length
        longest = arguments.longest or min(limit, max(1, round(4 * mean)))
        mean = min(mean, float(limit))
        return DataShape(
            num_rows=arguments.rows,
            num_tokens=int(mean * arguments.rows),
            mean_tokens=mean,
            longest_tokens=min(longest, limit),
        )
    from finetune_trainer.prepare.stage import prepare

    prepare(context)
    prepared = read_prepared(context.output, context.job, context.work_dir, sides=())
    return shape_of_training_side(context.job, prepared.report)
