"""One rank of a run: ``python -m finetune_trainer.train.ranks.worker plan.json``.

torchrun swallows exit codes, so a rank that fails leaves its reason in a file.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_api.v1alpha1.spec.method import Adapter
from finetune_trainer.errors import TrainerError
from finetune_trainer.failures import (
    classify,
    failure_record,
    leave_record,
    reserve_record,
)
from finetune_trainer.model.adapters import build_lora_config, keep_input_types, name_targets
from finetune_trainer.model.kernels.liger import apply_liger
from finetune_trainer.model.load import load_tokenizer, read_model_architecture
from finetune_trainer.planning.setup import MASTER_STRATEGIES
from finetune_trainer.process import die_with_parent
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.report.push import ProgressPush
from finetune_trainer.train.parent.beats import BeatWriter
from finetune_trainer.train.parent.launch import lost_peer
from finetune_trainer.train.ranks.handover import WorkerPlan
from finetune_trainer.train.ranks.outcome import (
    describe_selection,
    emit_adapter_warnings,
    leave_outcome,
    tell_start,
)
from finetune_trainer.train.ranks.sides import encode_splits, open_splits
from finetune_trainer.train.ranks.start import (
    agree_on_checkpoint,
    balances_experts,
    check_agreement,
    check_world_size,
    find_weights,
    load_base,
    settle_recipe,
    uses_liger,
)
from finetune_trainer.train.recipe.recipe import Recipe

if TYPE_CHECKING:
    from transformers import Trainer

    from finetune_trainer.train.ranks.callbacks.watchers import Watchers


def main(argv: list[str]) -> int:
    """Run one rank; returns its exit code."""
    die_with_parent()
    # SIGTERM and SIGINT go to the parent, which asks all ranks to stop at the same step.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    plan = WorkerPlan(**json.loads(Path(argv[1]).read_text()))
    rank = int(os.environ.get("RANK", "0"))
    beats = BeatWriter(Path(plan.control_dir), rank)
    emit = EventEmitter(Stage.TRAIN, push=ProgressPush.from_environment() if rank == 0 else None)
    # Our own push carries the same body and more.
    os.environ["DISABLE_KUBEFLOW_INTEGRATION"] = "TRUE"
    reserve_record(_record_path(plan, rank))
    try:
        run_rank(plan, rank, emit, beats)
    except BaseException as error:
        if not isinstance(error, TrainerError):
            traceback.print_exc()
        failure = classify(error)
        _leave_failure(plan, rank, failure, lost_peer=lost_peer(str(error)))
        # Peers may hang in a collective: leave at once, without waiting for them in destructors.
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(failure.exit_code)
    return 0


def run_rank(plan: WorkerPlan, rank: int, emit: EventEmitter, beats: BeatWriter) -> None:
    """Train as one rank, save, and leave ``outcome.json`` on rank 0. Raise ``TrainerError``."""
    from finetune_trainer.train.ranks import preference, sft
    from finetune_trainer.train.ranks.callbacks.network import NetworkCheck
    from finetune_trainer.train.ranks.callbacks.watchers import ignore_message, make_watchers

    job = ResolvedJob.from_json(Path(plan.job).read_text())
    network = NetworkCheck(
        plan, job.spec.resources.nodes, emit.message if rank == 0 else ignore_message
    )
    objective = sft if job.spec.method.objective == "SFT" else preference
    model_dir = Path(plan.model_dir)
    tokenizer = load_tokenizer(model_dir, trust_remote_code=job.spec.model.trust_remote_code)
    sides = open_splits(plan, job) if objective is sft else encode_splits(plan, job, tokenizer)
    architecture = read_model_architecture(model_dir)
    recipe = settle_recipe(plan, job, sides, architecture)
    # Not the seed of training: trials of a sweep differ in that, and are compared by this loss.
    sides = sides.limit_validation(recipe.num_measured_rows, seed=job.spec.dataset.split.seed)
    # Before the model: with ZeRO-3 the configuration decides how weights are loaded.
    config = objective.build_config(
        job, recipe, Path(plan.output_dir), has_validation=sides.has_validation
    )
    check_world_size(recipe, config.world_size)
    check_agreement(recipe)
    adapter = name_targets(job.spec.method.adapter, architecture)
    if not balances_experts(architecture, adapter):
        config.router_aux_loss_coef = 0.0
    local_rank = config.local_process_index
    plan = agree_on_checkpoint(plan, job, emit.message, local_rank=local_rank)
    is_fused = uses_liger(plan, job)
    model = load_base(plan, job, adapter, recipe, local_rank=local_rank, tell=emit.message)
    if is_fused:
        apply_liger(model)
    lora = build_lora_config(adapter, model)
    watchers = make_watchers(plan, job, rank, emit, beats, has_validation=sides.has_validation)
    trainer = objective.build_trainer(
        job=job,
        config=config,
        model=model,
        tokenizer=tokenizer,
        lora=lora,
        train=sides.train,
        validation=sides.validation,
        callbacks=[*watchers.as_callbacks(), network],
    )
    _settle_weights(trainer, plan, job, adapter, recipe, watchers)
    if rank == 0:
        tell_start(emit, architecture, job, recipe, sides.shape)
        emit_adapter_warnings(emit, adapter, model, lora)
    selection = _train(trainer, plan, recipe, watchers)
    if rank == 0:
        emit.message(describe_selection(selection))
        leave_outcome(plan, trainer, recipe, watchers, selection, is_fused=is_fused)
        emit.close()


def _settle_weights(
    trainer: Trainer,
    plan: WorkerPlan,
    job: ResolvedJob,
    adapter: Adapter,
    recipe: Recipe,
    watchers: Watchers,
) -> None:
    """Give the weights that train their types and, if the run does not begin fresh, values.

    Raises:
        TrainerError: The ranks are not sharded as the recipe says, or the weights do not fit.
    """
    from finetune_trainer.model.kernels.lora import fuse_lora
    from finetune_trainer.train.ranks import sft
    from finetune_trainer.train.ranks.sharding import check_strategy
    from finetune_trainer.train.ranks.whole import train_in_float32

    check_strategy(trainer, recipe)
    train_in_float32(trainer.model, adapter=adapter.type, strategy=recipe.strategy)
    if recipe.bfloat16 and recipe.strategy == "DDP":
        keep_input_types(trainer.model)
    # ZeRO-3 gathers the weights of modules that are called, and of no others.
    if recipe.strategy not in MASTER_STRATEGIES:
        fuse_lora(trainer.model)
    watchers.attach(trainer)
    weights = find_weights(plan, job, recipe)
    if weights is not None and adapter.type != "Full":
        sft.load_adapter(trainer.model, weights)


def _train(
    trainer: Trainer, plan: WorkerPlan, recipe: Recipe, watchers: Watchers
) -> dict[str, Any]:
    """Train to the end and hand over the chosen weights; return how they were chosen.

    Raises:
        TrainerError: The loss was not finite, or a stop came before the end.
    """
    from finetune_trainer.train.ranks.callbacks.chosen import TrainingIsOver
    from finetune_trainer.train.ranks.callbacks.watchers import train_durably

    with suppress(TrainingIsOver):
        train_durably(trainer, plan, watchers)
    watchers.finite.raise_if_diverged(total_steps=recipe.total_steps)
    watchers.stop.raise_if_stopped(total_steps=recipe.total_steps)
    return watchers.chosen.hand_over(Path(plan.final_dir))


def _leave_failure(plan: WorkerPlan, rank: int, failure: TrainerError, *, lost_peer: bool) -> None:
    # All ranks may have ended because of one of them.
    cause = getattr(failure, "rank", None)
    blamed = rank if cause is None else cause
    record = {**failure_record(failure), "rank": blamed, "lost_peer": lost_peer}
    leave_record(_record_path(plan, rank), record)


def _record_path(plan: WorkerPlan, rank: int) -> Path:
    return Path(plan.control_dir) / f"failure-{rank}.json"


if __name__ == "__main__":
    sys.exit(main(sys.argv))
