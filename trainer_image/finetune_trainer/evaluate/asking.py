"""Puts the questions to base and tuned model on all that this node lends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from finetune_api.trainer import ResolvedJob
from finetune_trainer.evaluate.answering import (
    Comparison,
    encode_questions,
    gather_answers,
    write_encoded,
)
from finetune_trainer.evaluate.launch import read_said, run_workers
from finetune_trainer.evaluate.placement import Placement, place_on_cpu, place_on_gpus
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.worker import WorkerPlan
from finetune_trainer.model.encoding import Encoder
from finetune_trainer.model.hardware import Hardware, claimed_gpus, detect_hardware, require_gpus
from finetune_trainer.model.load import require_bitsandbytes
from finetune_trainer.model.size import weight_bytes
from finetune_trainer.report.events import EventEmitter


def ask_both(
    job: ResolvedJob,
    questions: list[Question],
    encoder: Encoder,
    *,
    base_dir: Path,
    tuned_dir: Path,
    record: dict[str, Any],
    control_dir: Path,
    emit: EventEmitter,
) -> Comparison:
    """Ask both models everything.

    Args:
        job: The effective job.
        questions: The held-out questions.
        encoder: The encoder of training.
        base_dir: Local base model.
        tuned_dir: Local adapter, or fully tuned model.
        record: Content of the adapter's ``run.json``: the models are loaded as in training.
        control_dir: Empty folder for the workers.
        emit: Where events go.

    Raises:
        TrainerError: The models do not fit, or a worker failed.
        Stopped: This process was asked to stop.
    """
    bfloat16 = bool(record["recipe"]["bfloat16"])
    quantize = record.get("quantization") is not None
    if quantize:
        require_bitsandbytes(job.spec.trainer.image)
    value_bytes = 2 if bfloat16 else 4
    size = weight_bytes(base_dir, value_bytes=value_bytes, quantize=quantize)
    hardware = detect_hardware()
    placement = choose_placement(job, hardware, size=size, num_questions=len(questions))
    plan = WorkerPlan(
        job=str(control_dir / "job.json"),
        control_dir=str(control_dir),
        base_dir=str(base_dir),
        tuned_dir=str(tuned_dir),
        bfloat16=bfloat16,
        quantize=quantize,
        num_workers=placement.num_workers,
        gpus_per_worker=placement.gpus_per_worker,
        gpu_bytes=hardware.memory_bytes,
    )
    Path(plan.job).write_text(job.to_json())
    encoded = encode_questions(encoder, questions, job.spec.evaluation.max_new_tokens)
    write_encoded(control_dir, encoder, encoded)
    emit.message(
        f"asking base and tuned model {len(questions)} held-out questions, answers up to "
        f"{encoded.answer_tokens} tokens, on {placement.describe()}"
    )
    total = 2 * encoded.num_asks
    run_workers(plan, on_done=lambda done: emit.progress(step=done, total_steps=total))
    base, tuned = (gather_answers(encoded, len(questions), parts) for parts in read_said(plan))
    return Comparison(questions=questions, base=base, tuned=tuned)


def choose_placement(
    job: ResolvedJob, hardware: Hardware, *, size: int, num_questions: int
) -> Placement:
    """Decide which processes hold the model, from what this pod was given.

    Args:
        job: The effective job.
        hardware: What this node offers.
        size: Bytes of the model's weights.
        num_questions: Questions to answer.

    Raises:
        UserError: GPUs were asked for and none is visible, or all do not hold the model.
    """
    asked = job.spec.evaluation_gpus
    if require_gpus(min(1, asked), hardware):
        return place_on_gpus(
            weight_bytes=size,
            num_gpus=min(asked, hardware.num_gpus),
            gpu_bytes=hardware.memory_bytes,
            num_questions=num_questions,
        )
    return place_on_cpu(
        weight_bytes=size,
        num_processes=min(asked, claimed_gpus(asked)),
        num_cores=hardware.num_cpus,
        memory_bytes=hardware.memory_bytes,
        num_questions=num_questions,
    )
