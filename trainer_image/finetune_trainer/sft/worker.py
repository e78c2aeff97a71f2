"""One rank of a training run: ``accelerate launch ... -m finetune_trainer.sft.worker plan.json``.

Started by :mod:`finetune_trainer.train`, which has fetched everything. torchrun swallows exit
codes, so a rank that fails leaves its reason in a file for the parent.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_api.trainer import ResolvedJob, Stage
from finetune_trainer.errors import InternalError, Stopped, TrainerError
from finetune_trainer.failures import classify, failure_record
from finetune_trainer.process import die_with_parent
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.report.push import ProgressPush
from finetune_trainer.storage import StorageAccess, open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class WorkerPlan:
    """What the parent hands to every rank of its node, as JSON.

    Attributes:
        job: Path of ``job.json``.
        control_dir: Ranks and parent talk here: ``stop``, ``failure-<n>.json``, ``outcome.json``.
        model_dir: Local base model.
        dataset_dir: Local prepared data set.
        output_dir: Where Trainer saves checkpoints.
        final_dir: Where rank 0 saves the trained weights.
        curve: Path of ``metrics.jsonl``.
        resume_dir: Local checkpoint to resume from.
        resume_step: Its step.
        credentials_dir: Mounted Secrets.
        credentials_name: Secret of the output.
        use_gpu: Ranks run on GPUs.
    """

    job: str
    control_dir: str
    model_dir: str
    dataset_dir: str
    output_dir: str
    final_dir: str
    curve: str
    resume_dir: str | None
    resume_step: int
    credentials_dir: str | None
    credentials_name: str | None
    use_gpu: bool


def main(argv: list[str]) -> int:
    """Run one rank; returns its exit code."""
    die_with_parent()
    # SIGTERM and SIGINT go to the parent, which asks all ranks to stop at the same step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = WorkerPlan(**json.loads(Path(argv[1]).read_text()))
    rank = int(os.environ.get("RANK", "0"))
    emit = EventEmitter(Stage.TRAIN, push=ProgressPush.from_environment() if rank == 0 else None)
    # Our own push carries the same body and more.
    os.environ["DISABLE_KUBEFLOW_INTEGRATION"] = "TRUE"
    try:
        run_rank(plan, rank, emit)
    except BaseException as error:
        failure = (
            classify(error)
            if isinstance(error, Exception)
            else InternalError(type(error).__name__, str(error) or type(error).__name__)
        )
        _leave_failure(plan, rank, failure)
        # Peers may hang in a collective: leave at once, without waiting for them in destructors.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failure.exit_code)
    return 0


def run_rank(plan: WorkerPlan, rank: int, emit: EventEmitter) -> None:
    """Train as one rank, save, and leave ``outcome.json`` on rank 0.

    Raises:
        TrainerError: Whatever went wrong, classified.
    """
    import torch

    from finetune_trainer.model.adapters import build_lora_config, check_target_modules
    from finetune_trainer.model.hardware import detect_hardware
    from finetune_trainer.model.load import load_model, load_tokenizer
    from finetune_trainer.recipe import DataShape, decide_recipe
    from finetune_trainer.sft.callbacks import CurveWriter, DurableCheckpoints, StopRequest
    from finetune_trainer.sft.examples import Encoder, encode_rows, read_rows
    from finetune_trainer.sft.trainer import (
        build_config,
        build_trainer,
        check_strategy,
        count_trainable,
    )

    job = ResolvedJob.model_validate_json(Path(plan.job).read_text())
    spec = job.spec
    folder = Path(plan.model_dir)
    tokenizer = load_tokenizer(folder, trust_remote_code=spec.model.trust_remote_code)
    encoder = Encoder(
        tokenizer,
        loss=spec.method.loss,
        max_tokens=spec.hyperparameters.max_sequence_length,
    )
    train = encode_rows(encoder, read_rows(Path(plan.dataset_dir) / "train.jsonl"), side="training")
    validation = encode_rows(
        encoder, read_rows(Path(plan.dataset_dir) / "validation.jsonl"), side="validation"
    )
    lengths = [len(example.input_ids) for example in train]
    recipe = decide_recipe(
        job,
        DataShape(
            num_rows=len(train),
            num_tokens=sum(lengths),
            mean_tokens=sum(lengths) / len(lengths),
            longest_tokens=max(lengths),
        ),
        model_shape(folder),
        detect_hardware(),
        use_gpu=plan.use_gpu,
    )
    config = build_config(job, recipe, Path(plan.output_dir), has_validation=bool(validation))
    if config.world_size != recipe.world_size:
        raise InternalError(
            "WorldSizeMismatch",
            f"asked for {recipe.world_size} ranks (nodes x gpusPerNode), got {config.world_size}",
        )
    quantized = spec.method.adapter.type == "QLoRA"
    is_full = spec.method.adapter.type == "Full"
    model = load_model(
        folder,
        # Full fine-tuning keeps float32 master weights and computes in bfloat16 by autocast.
        dtype=torch.bfloat16 if recipe.bfloat16 and not is_full else torch.float32,
        trust_remote_code=spec.model.trust_remote_code,
        quantize=quantized,
        device_map={"": config.local_process_index} if quantized else None,
    )
    check_target_modules(spec.method.adapter, model)
    store = open_store(spec.output.uri, storage_access(job, plan))
    curve = (
        CurveWriter(Path(plan.curve), emit, resumed_from=plan.resume_step) if rank == 0 else None
    )
    checkpoints = DurableCheckpoints(
        store,
        f"{job.run_prefix}/checkpoints",
        keep=spec.checkpoint.keep_last,
        curve=Path(plan.curve),
        curve_key=f"{job.run_prefix}/metrics.jsonl",
    )
    stop = StopRequest(Path(plan.control_dir) / "stop")
    trainer = build_trainer(
        config=config,
        model=model,
        tokenizer=tokenizer,
        lora=build_lora_config(spec.method.adapter),
        train=train,
        validation=validation,
        callbacks=[*([curve] if curve else []), checkpoints, stop],
    )
    check_strategy(trainer, recipe)
    if rank == 0:
        emit.message(describe(recipe, num_rows=len(train), num_tokens=sum(lengths)))
    trainer.train(resume_from_checkpoint=plan.resume_dir)
    if stop.stopped_at is not None:
        raise Stopped(
            "StoppedAfterSave",
            f"stopped on request at step {stop.stopped_at} of {recipe.total_steps}; the checkpoint "
            "is durable, the next attempt resumes there",
        )
    trainer.save_model(plan.final_dir)
    if rank == 0:
        outcome = {
            "step": trainer.state.global_step,
            "metrics": curve.latest if curve else {},
            "recipe": recipe.to_json(),
            "trainable_parameters": count_trainable(trainer.model),
            "save_seconds": checkpoints.save_seconds,
        }
        Path(plan.control_dir, "outcome.json").write_text(json.dumps(outcome))
        emit.close()


def model_shape(folder: Path) -> Any:
    """Return the shape of the model in ``folder`` without loading it."""
    from finetune_trainer.model.load import read_config
    from finetune_trainer.recipe import ModelShape

    config = read_config(folder)
    text = config.get("text_config", config)
    num_bytes = sum(path.stat().st_size for path in folder.glob("*.safetensors"))
    value_bytes = 4 if config.get("dtype", config.get("torch_dtype")) == "float32" else 2
    return ModelShape(
        num_parameters=num_bytes // value_bytes,
        hidden_size=int(text.get("hidden_size", text.get("n_embd", 1024))),
        num_layers=int(text.get("num_hidden_layers", text.get("n_layer", 24))),
    )


def storage_access(job: ResolvedJob, plan: WorkerPlan) -> StorageAccess:
    """Return how this rank reaches the output."""
    s3 = job.spec.s3
    return StorageAccess(
        endpoint=s3.endpoint,
        region=s3.region,
        addressing=s3.addressing,
        credentials_dir=Path(plan.credentials_dir) if plan.credentials_dir else None,
        credentials_name=plan.credentials_name,
    )


def describe(recipe: Any, *, num_rows: int, num_tokens: int) -> str:
    """Say in one line what is about to run."""
    where = "GPU" if recipe.use_gpu else "CPU"
    shape = "packed" if recipe.packing else "padding-free" if recipe.padding_free else "padded"
    return (
        f"training on {num_rows} rows ({num_tokens} tokens), {recipe.total_steps} steps of "
        f"{recipe.global_batch_size} examples = {recipe.micro_batch_size} micro x "
        f"{recipe.accumulation_steps} accumulation x {recipe.world_size} rank(s), learning rate "
        f"{recipe.learning_rate:g}, {'bfloat16' if recipe.bfloat16 else 'float32'} base, {shape}, "
        f"activation checkpointing {'on' if recipe.activation_checkpointing else 'off'}, "
        f"{recipe.strategy} on {where}"
    )


def _leave_failure(plan: WorkerPlan, rank: int, failure: TrainerError) -> None:
    path = Path(plan.control_dir) / f"failure-{rank}.json"
    path.write_text(json.dumps({**failure_record(failure), "rank": rank}))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
