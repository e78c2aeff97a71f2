"""Time of training and evaluation, estimated by ``prepare`` before any GPU is used.

Loads no weights and no torch. ``Environment.TRAINING_NODE`` describes the node; the default is this
machine. An unknown kind of GPU is assumed, and the estimate says so.
"""

from __future__ import annotations

import json
import math
import os
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.protocol.stage_results import PrepareResult, TimeEstimate
from finetune_api.protocol.trainer import Environment, GPUKind, ResolvedJob
from finetune_trainer.context import StageContext
from finetune_trainer.data.expected import (
    NOTHING_ASKED,
    Questions,
    expect_held_out,
    expect_validation,
)
from finetune_trainer.data.prepared import read_prepared
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.failures import classify
from finetune_trainer.model.adapters import check_target_names
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.hardware import Hardware, detect_hardware
from finetune_trainer.model.load import expected_attention, read_model_architecture
from finetune_trainer.planning.architecture import Architecture
from finetune_trainer.planning.host import (
    HostMemory,
    estimate_host,
    require_disk,
    require_host_memory,
)
from finetune_trainer.planning.setup import Setup
from finetune_trainer.planning.throughput import (
    CPU_BANDWIDTH,
    EFFICIENCY,
    GPU,
    GPUS,
    answering_seconds,
    cpu_flops,
    find_gpu,
    flops_per_token,
    tokens_per_second,
)
from finetune_trainer.storage.patience import read_number
from finetune_trainer.train.recipe.evaluation import EvaluationPlan, plan_evaluation
from finetune_trainer.train.recipe.planned import setup_of
from finetune_trainer.train.recipe.recipe import DataShape, Recipe, decide_recipe
from finetune_trainer.train.recipe.shape import shape_of_train_split

ASSUMED_GPU: GPUKind = "h100"
"""Where nobody says which GPUs there are."""
CPUS_OF_A_GPU = 8
"""Cores that are taken to stand beside a GPU."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Device:
    """The device of an estimate.

    ``gpu`` is None without GPUs; ``is_known`` is False for an assumed device.
    """

    name: str
    hardware: Hardware
    gpu: GPU | None = None
    is_known: bool = True


@dataclass(frozen=True, kw_only=True, slots=True)
class Planned:
    """The plan of a job's training and evaluation.

    ``data`` is the training side; ``device`` runs both.
    """

    job: ResolvedJob
    data: DataShape
    model: Architecture
    recipe: Recipe
    evaluation: EvaluationPlan
    device: Device

    @property
    def setup(self) -> Setup:
        """How it is trained, as far as time depends on it."""
        return setup_of(self.job, self.model, self.recipe)


def on_gpus(job: ResolvedJob, gpu: GPU, *, is_known: bool = True) -> Device:
    """Return the device of a job that trains on GPUs of this kind."""
    num_gpus = job.spec.resources.gpus_per_node
    hardware = Hardware(
        num_gpus=num_gpus,
        memory_bytes=gpu.memory,
        supports_bfloat16=gpu.bfloat16,
        num_cpus=CPUS_OF_A_GPU * num_gpus,
    )
    name = f"{job.world_size} x {gpu.name}"
    return Device(name=name, hardware=hardware, gpu=gpu, is_known=is_known)


def on_cpus(hardware: Hardware, *, where: str = "") -> Device:
    """Return the device of a job that trains without GPUs."""
    return Device(name=f"{hardware.num_cpus} CPU cores{where}", hardware=hardware)


def prepare_with_estimate(context: StageContext) -> PrepareResult:
    """Run stage ``prepare``, and estimate the time of the stages after it.

    A failed estimate does not fail the stage.

    Raises:
        UserError: ``HostMemoryTooSmall`` or ``DiskTooSmall``.
        TrainerError: As ``prepare`` does.
    """
    # Late: a plan for rows that are not read needs none of its libraries.
    from finetune_trainer.prepare.stage import prepare

    result = prepare(context)
    try:
        prepared = read_prepared(context.storage.output, context.job, context.work_dir, sides=())
        folder, _ = context.model.fetch(include_weights=False)
        planned, found = estimate(
            context.job,
            prepared.report,
            read_model_architecture(folder),
            num_chosen=prepared.num_chosen,
            may_reason=read_format(prepared.folder).knows_reasoning,
        )
    except Exception as error:  # whatever it is, the data set is prepared
        context.emit.message(f"no estimate of time and cost: {classify(error).message}")
        return result
    check_disk(planned)
    may_lack_gpus = os.environ.get(Environment.ALLOW_CPU) == "1"
    limit = None if may_lack_gpus else _read_node().get("memoryBytes")
    if words := check_host_memory(planned, limit=limit):
        context.emit.message(f"warning: {words}")
    assumed = "" if found.is_device_known else ", which are assumed"
    answers = ""
    if found.validation_seconds:
        answers = f", {found.validation_seconds} s of it for answers to validation rows"
    context.emit.message(
        f"estimated: {found.train_seconds} s of training ({found.tokens:,} tokens at"
        f" {float(found.tokens_per_second):,.0f} a second{answers}) and"
        f" {found.evaluate_seconds} s of evaluation on {found.device}{assumed}; start-up is not in"
        " it"
    )
    return result.model_copy(update={"estimate": found})


def estimate(
    job: ResolvedJob,
    report: DatasetReport,
    model: Architecture,
    *,
    num_chosen: int | None = None,
    may_reason: bool = False,
) -> tuple[Planned, TimeEstimate]:
    """Plan and estimate from a prepared data set.

    ``num_chosen`` is the number of questions that ``prepare`` chose. ``may_reason`` says that
    reasoning may come before the answers.

    Raises:
        UserError: It would not fit the training device.
    """
    data = shape_of_train_split(job, report)
    planned = plan_on(
        read_device(job), job, data, model, num_chosen=num_chosen, may_reason=may_reason
    )
    held_out = expect_held_out(job, report, chosen=num_chosen, may_reason=may_reason)
    validation = expect_validation(job, report, may_reason=may_reason)
    return planned, estimate_time(planned, held_out, validation)


def check_disk(planned: Planned) -> None:
    """Compare what training saves with ``FINETUNE_SCRATCH_BYTES``, if that is set.

    Raises:
        UserError: ``DiskTooSmall``, or the variable is no number of bytes.
    """
    asked = os.environ.get(Environment.SCRATCH_BYTES)
    if asked and planned.recipe.total_steps:
        require_disk(planned.model, planned.setup, read_number(Environment.SCRATCH_BYTES, asked))


def check_host_memory(planned: Planned, *, limit: int | None) -> str:
    """Return a warning where a training pod's memory is nearly too small, else nothing.

    ``limit`` is the pod's, in bytes; None if it is unknown. The plan itself counts the memory of
    jobs without GPUs.

    Raises:
        UserError: ``HostMemoryTooSmall``: it is too small, whatever GPUs there are.
    """
    resources = planned.job.spec.resources
    trains_on_gpus = planned.device.gpu is not None and planned.recipe.total_steps > 0
    if not limit or not trains_on_gpus:
        return ""
    need = host_memory_of(planned)
    if not planned.device.is_known and resources.strategy == "Auto":
        others = (host_memory_of(planned, strategy=each) for each in ("DDP", "FSDP2"))
        need = replace(need, least=min(need.least, *(each.least for each in others)))
    may_shard = planned.recipe.strategy != "FSDP2" and planned.job.spec.method.objective == "SFT"
    return require_host_memory(
        need,
        limit,
        is_stated=resources.memory is not None,
        sharded=host_memory_of(planned, strategy="FSDP2") if may_shard else None,
    )


def host_memory_of(planned: Planned, *, strategy: str | None = None) -> HostMemory:
    """Return the memory that one training pod needs of its node.

    ``strategy`` replaces the planned one.
    """
    is_mapped = planned.job.spec.method.objective == "SFT"  # others keep their rows encoded
    return estimate_host(
        planned.model,
        replace(planned.setup, strategy=strategy or planned.recipe.strategy),
        num_ranks=planned.job.spec.resources.gpus_per_node,
        encoded_tokens=0 if is_mapped else planned.data.num_tokens,
        merges=planned.job.spec.writes_merged,
    )


def plan_on(
    device: Device,
    job: ResolvedJob,
    data: DataShape,
    model: Architecture,
    *,
    num_chosen: int | None = None,
    may_reason: bool = False,
) -> Planned:
    """Settle how a job is trained and evaluated on a device; arguments as for :func:`estimate`.

    Raises:
        UserError: It does not fit, or settings contradict each other.
    """
    recipe = choose_recipe(job, data, model, device)
    evaluation = plan_evaluation(
        job, data, model, recipe, device.hardware, num_chosen=num_chosen, may_reason=may_reason
    )
    return Planned(
        job=job, data=data, model=model, recipe=recipe, evaluation=evaluation, device=device
    )


def choose_recipe(job: ResolvedJob, data: DataShape, model: Architecture, device: Device) -> Recipe:
    """Settle every open setting of the job for the device.

    Raises:
        UserError: The settings do not fit each other, or the device.
    """
    use_gpu = device.gpu is not None
    check_target_names(job.spec.method.adapter, model.model_type)
    return decide_recipe(
        job,
        data,
        model,
        device.hardware,
        use_gpu=use_gpu,
        # The packages of the cluster's image are not known here.
        attention=expected_attention(job.spec.hyperparameters.attention, use_gpu=False),
    )


def read_device(job: ResolvedJob) -> Device:
    """Return what training will run on, as far as somebody has said."""
    if os.environ.get(Environment.TRAINING_NODE) is None:
        return device_here(job)
    told = _read_node()
    if job.spec.resources.gpus_per_node:
        gpu = find_gpu(told.get("gpu") or "")
        return on_gpus(job, gpu or GPUS[ASSUMED_GPU], is_known=gpu is not None)
    here = detect_hardware()
    return on_cpus(
        replace(
            here,
            num_gpus=0,
            num_cpus=told.get("cpus") or here.num_cpus,
            memory_bytes=told.get("memoryBytes") or here.memory_bytes,
        )
    )


def _read_node() -> dict[str, Any]:
    return dict(json.loads(os.environ.get(Environment.TRAINING_NODE) or "{}"))


def device_here(job: ResolvedJob) -> Device:
    """Return what training runs on where no cluster does: this machine's GPUs, else its CPU."""
    here = detect_hardware()
    if job.spec.resources.gpus_per_node and here.num_gpus:
        gpu = find_gpu(here.kind)
        return on_gpus(job, gpu or GPUS[ASSUMED_GPU], is_known=gpu is not None)
    return on_cpus(replace(here, num_gpus=0), where=" of this machine")


def estimate_time(
    planned: Planned, held_out: Questions, validation: Questions = NOTHING_ASKED
) -> TimeEstimate:
    """Estimate tokens, speed and seconds of training and evaluation, without start-up.

    ``held_out`` are the questions after training; ``validation`` those in training's pods.
    """
    device, recipe = planned.device, planned.recipe
    evaluation = planned.job.spec.evaluation
    # Base and tuned model; the base behind a prompt, which is read once; the published version.
    is_compared = any(gate.over_published is not None for gate in evaluation.gates)
    ways = 2 + (evaluation.baseline == "Best") + is_compared
    evaluate_seconds = max(1, round(ways * _asking_seconds(planned, held_out)))
    validation_seconds = math.ceil(_asking_seconds(planned, validation))
    if recipe.total_steps == 0:
        return TimeEstimate(
            train_seconds=validation_seconds,
            evaluate_seconds=evaluate_seconds,
            validation_seconds=validation_seconds,
            tokens=0,
            tokens_per_second="0",
            device=device.name[:63],
            is_device_known=device.is_known,
        )
    cpus = cpu_flops(planned.setup, device.hardware.num_cpus)
    mean = _mean_length(planned)
    speed = tokens_per_second(
        planned.model,
        planned.setup,
        peak_flops=device.gpu.flops if device.gpu else cpus,
        mean_tokens=planned.data.mean_tokens,
        tokens_per_pass=recipe.micro_batch_size * mean,
    )
    tokens = int(recipe.total_steps * recipe.global_batch_size * mean)
    return TimeEstimate(
        train_seconds=max(1, round(tokens / speed)) + validation_seconds,
        evaluate_seconds=evaluate_seconds,
        validation_seconds=validation_seconds,
        least_train_seconds=_least_seconds(planned),
        tokens=tokens,
        tokens_per_second=f"{speed:.1f}",
        device=device.name[:63],
        is_device_known=device.is_known,
    )


def _mean_length(planned: Planned) -> float:
    """Return the mean tokens of a row in the model, with padding."""
    data, recipe = planned.data, planned.recipe
    if recipe.packing:
        return float(planned.job.spec.hyperparameters.max_sequence_length)
    if not recipe.padding_free and recipe.micro_batch_size > 1:
        # Rows are padded to the longest of their micro batch.
        return (data.mean_tokens + data.longest_tokens) / 2
    return data.mean_tokens


def _least_seconds(planned: Planned) -> int:
    """Return what training takes on GPUs that compute at their peak all the time, 0 if unknown.

    Padding, recomputation and validation are left out, and the steps must be certain.
    """
    device, data, recipe = planned.device, planned.data, planned.recipe
    is_certain = device.is_known and planned.job.spec.checkpoint.early_stopping is None
    if device.gpu is None or not is_certain or os.environ.get(Environment.ALLOW_CPU) == "1":
        return 0
    setup = replace(planned.setup, checkpointing=False)
    tokens = recipe.total_steps * recipe.global_batch_size * data.mean_tokens
    if not planned.job.spec.hyperparameters.max_steps:
        tokens = min(tokens, recipe.epochs * data.num_tokens)  # the last batch may not be full
    work = tokens * flops_per_token(planned.model, setup, data.mean_tokens)
    return int(work / (device.gpu.flops * recipe.world_size))


def _asking_seconds(planned: Planned, questions: Questions) -> float:
    device = planned.device
    if not questions.number:
        return 0.0
    workers = planned.evaluation.placement.num_workers
    if device.gpu is not None:
        # The GPUs that a model is spread over compute one after the other.
        flops, bandwidth = EFFICIENCY * device.gpu.flops, device.gpu.bandwidth
    else:
        alone = replace(planned.setup, world_size=1)
        flops = cpu_flops(alone, device.hardware.num_cpus) / workers
        bandwidth = CPU_BANDWIDTH / workers

    held = planned.evaluation.held_tokens
    together = held // (questions.prompt_tokens + questions.answer_tokens)
    asked = planned.job.spec.evaluation.batch_size
    return answering_seconds(
        planned.model,
        planned.setup,
        flops=flops,
        bandwidth=bandwidth,
        num_questions=-(-questions.number // workers),
        rows=asked if isinstance(asked, int) else max(1, int(together)),
        prompt_tokens=questions.prompt_tokens,
        answer_tokens=questions.answer_tokens,
    )
