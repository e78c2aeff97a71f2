"""One rank of a run: ``accelerate launch ... -m finetune_trainer.train.ranks.worker plan.json``.

Started by :mod:`finetune_trainer.train.stage`, which has fetched everything. torchrun swallows exit
codes, so a rank that fails leaves its reason in a file for the parent.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.trainer import ResolvedJob, Stage
from finetune_trainer.data.prepared import REPORT_NAME
from finetune_trainer.data.report import DatasetReport
from finetune_trainer.data.rows import Side
from finetune_trainer.data.token_files import mapped_file
from finetune_trainer.errors import InternalError, TrainerError
from finetune_trainer.failures import classify, failure_record
from finetune_trainer.model.kernels import decide_liger
from finetune_trainer.model.load import expected_attention, read_config, read_model_architecture
from finetune_trainer.process import die_with_parent
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.report.push import ProgressPush
from finetune_trainer.storage import StorageAccess, open_store
from finetune_trainer.train.checkpoint import fetch_newest, fetch_step
from finetune_trainer.train.launch import lost_peer
from finetune_trainer.train.planned import describe_plan
from finetune_trainer.train.recipe import DataShape, Recipe, decide_recipe, find_warnings
from finetune_trainer.train.selection import draw_curve
from finetune_trainer.train.shape import shape_of_preferences, shape_of_training_side

if TYPE_CHECKING:
    from datasets import Dataset
    from transformers import PreTrainedModel, PreTrainedTokenizerBase, Trainer, TrainerCallback

    from finetune_trainer.train.ranks.callbacks import CurveWriter, StopRequest
    from finetune_trainer.train.ranks.chosen import ChosenStep
    from finetune_trainer.train.ranks.durable import DurableCheckpoints
    from finetune_trainer.train.ranks.isolation import IsolationProbe
    from finetune_trainer.train.ranks.preference import Preferred


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
        inputs: What checkpoints are made from, for their manifests.
        origin_dir: Trained weights to begin from, unless a checkpoint is resumed.
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
    inputs: dict[str, str]
    origin_dir: str | None
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
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        failure = (
            classify(error)
            if isinstance(error, Exception)
            else InternalError(type(error).__name__, str(error) or type(error).__name__)
        )
        _leave_failure(plan, rank, failure, lost_peer=lost_peer(str(error)))
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
    from finetune_trainer.model.adapters import build_lora_config
    from finetune_trainer.model.load import load_tokenizer
    from finetune_trainer.train.ranks import preference, sft
    from finetune_trainer.train.ranks.chosen import TrainingIsOver

    job = ResolvedJob.model_validate_json(Path(plan.job).read_text())
    tokenizer = load_tokenizer(
        Path(plan.model_dir), trust_remote_code=job.spec.model.trust_remote_code
    )
    sides = (
        open_sides(plan, job)
        if job.spec.method.objective == "SFT"
        else encode_sides(plan, job, tokenizer)
    )
    recipe = settle_recipe(plan, job, sides)
    # Before the model: with ZeRO-3 the configuration decides how weights are loaded.
    objective = sft if job.spec.method.objective == "SFT" else preference
    has_validation = len(sides.validation) > 0
    config = objective.build_config(
        job, recipe, Path(plan.output_dir), has_validation=has_validation
    )
    check_world_size(recipe, config.world_size)
    if objective is sft:  # the other objectives need more of the output head than the loss
        config.use_liger_kernel = decide_liger(
            job.spec.hyperparameters.kernels,
            str(read_config(Path(plan.model_dir)).get("model_type", "unknown")),
            use_gpu=plan.use_gpu,
        )
    plan = agree_on_checkpoint(plan, job, local_rank=config.local_process_index)
    model = load_base(plan, job, recipe, local_rank=config.local_process_index)
    lora = build_lora_config(job.spec.method.adapter, model)
    watchers = make_watchers(plan, job, rank, emit, has_validation=has_validation)
    trainer = objective.build_trainer(
        job=job,
        config=config,
        model=model,
        tokenizer=tokenizer,
        lora=lora,
        train=sides.train,
        validation=sides.validation,
        callbacks=watchers.as_callbacks(),
    )
    sft.check_strategy(trainer, recipe)
    watchers.chosen.attach(trainer)
    watchers.isolation.attach(trainer)
    if begins_from_origin(plan, job) and job.spec.method.adapter.type != "Full":
        sft.load_adapter(trainer.model, Path(plan.origin_dir or ""))
    if rank == 0:
        emit.message(describe(recipe, sides.shape))
        for warning in find_warnings(recipe, sides.shape):
            emit.message(warning)
        architecture = read_model_architecture(Path(plan.model_dir))
        emit.plan(describe_plan(job, sides.shape, architecture, recipe))
        if lora is not None and lora.lora_dropout != float(job.spec.method.adapter.dropout):
            emit.message(
                f"method.adapter.dropout {job.spec.method.adapter.dropout} is not used: adapters "
                "of fused experts know no dropout"
            )
    with suppress(TrainingIsOver):
        train_durably(trainer, plan, watchers)
    watchers.stop.raise_if_stopped(total_steps=recipe.total_steps)
    selection = watchers.chosen.hand_over(Path(plan.final_dir))
    if rank == 0:
        emit.message(describe_selection(selection))
        leave_outcome(plan, trainer, recipe, watchers, selection)
        emit.close()


@dataclass(frozen=True, kw_only=True, slots=True)
class EncodedSides:
    """The sides of the data set as token ids and labels.

    Supervised rows are mapped from files and not in memory; preferences are in memory.
    """

    train: Dataset | list[Preferred]
    validation: Dataset | list[Preferred]
    shape: DataShape


def open_sides(plan: WorkerPlan, job: ResolvedJob) -> EncodedSides:
    """Map the sides that training looks at; ``prepare`` has encoded them."""
    from datasets import Dataset

    folder = Path(plan.dataset_dir)
    report = DatasetReport.model_validate_json((folder / REPORT_NAME).read_bytes())
    return EncodedSides(
        train=Dataset.from_file(str(mapped_file(folder, Side.TRAIN))),
        validation=Dataset.from_file(str(mapped_file(folder, Side.VALIDATION))),
        shape=shape_of_training_side(job, report),
    )


def encode_sides(
    plan: WorkerPlan, job: ResolvedJob, tokenizer: PreTrainedTokenizerBase
) -> EncodedSides:
    """Read and encode preferences.

    Raises:
        DataError: No training row keeps any of its answers.
    """
    from finetune_trainer.model.chat_format import read_format
    from finetune_trainer.model.encoding import make_encoder, read_rows
    from finetune_trainer.train.ranks.preference import encode_preferences

    folder = Path(plan.dataset_dir)
    encoder = make_encoder(job, tokenizer, read_format(folder))
    train, validation = (
        encode_preferences(
            encoder,
            read_rows(folder / f"{name}.jsonl"),
            objective=job.spec.method.objective,
            side=side,
            seed=job.spec.hyperparameters.seed,
        )
        for name, side in (("train", "training"), ("validation", "validation"))
    )
    shape = shape_of_preferences([len(example.input_ids) for example in train])
    return EncodedSides(train=train, validation=validation, shape=shape)


def settle_recipe(plan: WorkerPlan, job: ResolvedJob, sides: EncodedSides) -> Recipe:
    """Decide every ``auto`` from the encoded rows' shape, the model's and this node's hardware.

    Raises:
        UserError: Settings contradict each other or the hardware.
    """
    from finetune_trainer.model.hardware import detect_hardware

    return decide_recipe(
        job,
        sides.shape,
        read_model_architecture(Path(plan.model_dir)),
        detect_hardware(),
        use_gpu=plan.use_gpu,
        attention=expected_attention(job.spec.hyperparameters.attention, use_gpu=plan.use_gpu),
    )


def check_world_size(recipe: Recipe, actual: int) -> None:
    """Make sure that all ranks found each other.

    Raises:
        InternalError: accelerate sees another number of ranks than were started.
    """
    if actual != recipe.world_size:
        raise InternalError(
            "WorldSizeMismatch",
            f"asked for {recipe.world_size} ranks (nodes x gpusPerNode), got {actual}",
        )


def agree_on_checkpoint(plan: WorkerPlan, job: ResolvedJob, *, local_rank: int) -> WorkerPlan:
    """Return the plan with the checkpoint that every node resumes from.

    Ranks of one node share what their parent has fetched.

    Raises:
        StorageError: A node cannot read the run's storage.
    """
    num_ranks = int(os.environ.get("WORLD_SIZE") or 1)
    if num_ranks == int(os.environ.get("LOCAL_WORLD_SIZE") or num_ranks):
        return plan
    from finetune_trainer.train.ranks.agreement import agree_on_step

    store = open_store(job.spec.output.uri, storage_access(job, plan))
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


def train_durably(trainer: Trainer, plan: WorkerPlan, watchers: Watchers) -> None:
    """Train to the end, with checkpoints that hold no pickle and reach storage also on a failure.

    Raises:
        Exception: Whatever training raised.
    """
    from finetune_trainer.train.ranks.state_files import state_files_below

    try:
        with state_files_below(Path(plan.output_dir)):
            trainer.train(resume_from_checkpoint=plan.resume_dir)
    except BaseException:
        watchers.checkpoints.drain()
        raise


def begins_from_origin(plan: WorkerPlan, job: ResolvedJob) -> bool:
    """Whether training begins from other trained weights: not where it resumes its own.

    Raises:
        InternalError: It does, and the parent has not fetched them.
    """
    if job.spec.init_from is None or plan.resume_dir is not None:
        return False
    if plan.origin_dir is None:
        raise InternalError("NoOrigin", "the weights of spec.initFrom were not fetched")
    return True


def load_base(
    plan: WorkerPlan, job: ResolvedJob, recipe: Recipe, *, local_rank: int
) -> PreTrainedModel:
    """Load the base model as the recipe says and check that the adapter fits it.

    Args:
        plan: What the parent handed over.
        job: The effective job.
        recipe: The settled recipe.
        local_rank: This rank's GPU on its node; only quantised weights are placed at loading.

    Raises:
        UserError: The model does not load, or the adapter's targets match nothing.
    """
    import torch

    from finetune_trainer.model.adapters import check_saved_modules, check_target_modules
    from finetune_trainer.model.load import load_model

    adapter = job.spec.method.adapter
    quantized = adapter.type == "QLoRA"
    # Full fine-tuning keeps float32 master weights and computes in bfloat16 by autocast.
    is_low_precision = recipe.bfloat16 and adapter.type != "Full"
    folder = plan.model_dir
    if adapter.type == "Full" and begins_from_origin(plan, job):
        folder = plan.origin_dir or ""
    model = load_model(
        Path(folder),
        dtype=torch.bfloat16 if is_low_precision else torch.float32,
        trust_remote_code=job.spec.model.trust_remote_code,
        quantize=quantized,
        shardable=recipe.strategy == "FSDP2",
        device_map={"": local_rank} if quantized else None,
        attention=job.spec.hyperparameters.attention,
    )
    check_target_modules(adapter, model)
    check_saved_modules(adapter, model)
    return model


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchers:
    """The callbacks of a rank; only rank 0 writes the curve."""

    curve: CurveWriter | None
    checkpoints: DurableCheckpoints
    chosen: ChosenStep
    stop: StopRequest
    isolation: IsolationProbe

    def as_callbacks(self) -> list[TrainerCallback]:
        """Return them in the order in which they are to be called."""
        curve = [self.curve] if self.curve else []
        return [*curve, self.isolation, self.checkpoints, self.chosen, self.stop]


def make_watchers(
    plan: WorkerPlan, job: ResolvedJob, rank: int, emit: EventEmitter, *, has_validation: bool
) -> Watchers:
    """Build the callbacks that report, save, choose and stop."""
    from finetune_trainer.train.ranks.callbacks import CurveWriter, StopRequest
    from finetune_trainer.train.ranks.chosen import ChosenStep
    from finetune_trainer.train.ranks.durable import DurableCheckpoints
    from finetune_trainer.train.ranks.isolation import IsolationProbe

    curve = Path(plan.curve)
    store = open_store(job.spec.output.uri, storage_access(job, plan))
    prefix = f"{job.run_prefix}/checkpoints"
    return Watchers(
        curve=CurveWriter(curve, emit, resumed_from=plan.resume_step) if rank == 0 else None,
        checkpoints=DurableCheckpoints(
            store,
            prefix,
            keep=job.spec.checkpoint.keep_last,
            curve=curve,
            curve_key=f"{job.run_prefix}/metrics.jsonl",
            inputs=plan.inputs,
            resumed_from=plan.resume_step,
            tell=emit.message,
        ),
        chosen=ChosenStep(
            store,
            prefix,
            rule=job.spec.checkpoint,
            has_validation=has_validation,
            resume_step=plan.resume_step,
        ),
        stop=StopRequest(Path(plan.control_dir) / "stop"),
        isolation=IsolationProbe(emit.message),
    )


def leave_outcome(
    plan: WorkerPlan,
    trainer: Trainer,
    recipe: Recipe,
    watchers: Watchers,
    selection: dict[str, Any],
) -> None:
    """Tell the parent what was trained."""
    from finetune_trainer.train.ranks.sft import count_trainable

    outcome = {
        "step": trainer.state.global_step,
        "selection": selection,
        "curve": draw_curve(trainer.state.log_history),
        "metrics": {
            **(watchers.curve.latest if watchers.curve else {}),
            "checkpoint_stall_seconds": watchers.checkpoints.stall_seconds,
        },
        "resumed_from": plan.resume_step,
        # What ran, which is not what was planned where examples would have seen each other.
        "recipe": {**recipe.to_json(), "padding_free": stays_flattened(trainer, recipe)},
        "attention": trainer.model.config._attn_implementation,
        "kernels": "liger" if trainer.args.use_liger_kernel else "none",
        "trainable_parameters": count_trainable(trainer.model),
    }
    Path(plan.control_dir, "outcome.json").write_text(json.dumps(outcome))
    # Beside the curve and not in run.json, which is the same for equal runs.
    peak = {"step": outcome["step"], "peak_memory_bytes": measure_peak_memory(use_gpu=plan.use_gpu)}
    with Path(plan.curve).open("a") as file:
        file.write(json.dumps(peak) + "\n")


def measure_peak_memory(*, use_gpu: bool) -> int:
    """Return the most memory this rank held: of its GPU as allocated, else resident of the host."""
    if use_gpu:
        import torch

        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def stays_flattened(trainer: Trainer, recipe: Recipe) -> bool:
    """Return whether micro batches were flattened as planned, or padded after all."""
    return recipe.padding_free and bool(trainer.data_collator.padding_free)


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


def describe(recipe: Recipe, data: DataShape) -> str:
    """Say in one line what is about to run."""
    where = "GPU" if recipe.use_gpu else "CPU"
    shape = "packed" if recipe.packing else "padding-free" if recipe.padding_free else "padded"
    return (
        f"training on {data.num_rows} rows ({data.num_tokens} tokens), {recipe.total_steps} steps "
        f"of {recipe.global_batch_size} examples = {recipe.micro_batch_size} micro x "
        f"{recipe.accumulation_steps} accumulation x {recipe.world_size} rank(s), learning rate "
        f"{recipe.learning_rate:g}, {'bfloat16' if recipe.bfloat16 else 'float32'} base, {shape}, "
        f"activation checkpointing {'on' if recipe.activation_checkpointing else 'off'}, "
        f"{recipe.strategy} on {where}, about {recipe.estimated_memory_bytes / 2**30:.1f} of "
        f"{recipe.available_memory_bytes / 2**30:.1f} GiB per rank"
    )


def describe_selection(selection: dict[str, Any]) -> str:
    """Say in one line which step was chosen, and what early stopping saved."""
    step, last, planned = (selection[k] for k in ("step", "last_step", "planned_steps"))
    words = f"the weights after step {step} are kept"
    if selection["validation_loss"] is not None:
        words += f", validation loss {selection['validation_loss']:.4f}"
    if step != last and selection["last_validation_loss"] is not None:
        words += f" (the last, step {last}: {selection['last_validation_loss']:.4f})"
    if last < planned:
        words += f"; stopped early, {planned - last} of {planned} steps saved"
    return words


def _leave_failure(plan: WorkerPlan, rank: int, failure: TrainerError, *, lost_peer: bool) -> None:
    path = Path(plan.control_dir) / f"failure-{rank}.json"
    path.write_text(json.dumps({**failure_record(failure), "rank": rank, "lost_peer": lost_peer}))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
