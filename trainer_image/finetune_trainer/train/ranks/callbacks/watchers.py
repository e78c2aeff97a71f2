"""The callbacks of a rank, and training under them."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.report.events import EventEmitter
from finetune_trainer.stopping import grace_seconds
from finetune_trainer.storage import open_store
from finetune_trainer.storage.patience import decide_patience
from finetune_trainer.train.parent.beats import BeatWriter, Phase
from finetune_trainer.train.parent.launch import STOP_FLAG
from finetune_trainer.train.parent.outbox import Outbox, decide_budget
from finetune_trainer.train.ranks.callbacks.chosen import ChosenStep
from finetune_trainer.train.ranks.callbacks.divergence import FiniteSteps
from finetune_trainer.train.ranks.callbacks.heartbeat import Heartbeat, SaveClock
from finetune_trainer.train.ranks.callbacks.progress import CurveWriter, StopRequest, TokenCount
from finetune_trainer.train.ranks.durable import DurableCheckpoints
from finetune_trainer.train.ranks.handover import WorkerPlan, open_run_store, storage_access
from finetune_trainer.train.ranks.isolation import IsolationProbe
from finetune_trainer.train.ranks.state_files import state_files_below

if TYPE_CHECKING:
    from transformers import Trainer, TrainerCallback


@dataclass(frozen=True, kw_only=True, slots=True)
class Watchers:
    """The callbacks of a rank; only rank 0 writes the curve."""

    finite: FiniteSteps
    heartbeat: Heartbeat
    curve: CurveWriter | None
    clock: SaveClock
    checkpoints: DurableCheckpoints
    chosen: ChosenStep
    stop: StopRequest
    isolation: IsolationProbe
    tokens: TokenCount

    def as_callbacks(self) -> list[TrainerCallback]:
        """Return them in the order in which they are to be called."""
        curve = [self.curve] if self.curve else []
        watching = [self.finite, self.heartbeat, *curve, self.isolation, self.clock]
        return [*watching, self.tokens, self.checkpoints, self.chosen, self.stop]

    def attach(self, trainer: Trainer) -> None:
        """Name the trainer to those that look at its model."""
        self.finite.attach(trainer)
        self.chosen.attach(trainer)
        self.checkpoints.attach(trainer)
        self.isolation.attach(trainer)
        self.tokens.attach(trainer)


def make_watchers(
    plan: WorkerPlan,
    job: ResolvedJob,
    rank: int,
    emit: EventEmitter,
    beats: BeatWriter,
    *,
    has_validation: bool,
) -> Watchers:
    """Build the callbacks that report, save, choose and stop."""
    curve = Path(plan.curve)
    prefix = f"{job.run_prefix}/checkpoints"
    direct = open_store(job.spec.output.uri, storage_access(job, plan))
    store = open_run_store(job, plan, emit.message)
    outbox = Outbox(
        direct,
        budget_bytes=decide_budget(os.environ, Path(plan.output_dir)),
        tell=emit.message,
        patience_seconds=decide_patience(os.environ),
    )
    checkpoints = DurableCheckpoints(
        store,
        prefix,
        outbox=outbox,
        keep=job.spec.checkpoint.keep_last,
        curve=curve,
        curve_key=f"{job.run_prefix}/metrics.jsonl",
        inputs=plan.inputs,
        resumed_from=plan.resume_step,
        tell=emit.message if rank == 0 else ignore_message,
        # The clock is made below, and read once training runs.
        save_seconds=(lambda: clock.local_seconds)
        if job.spec.checkpoint.every_steps is None
        else None,
        # Storage that is away is no hang: it has a patience of its own.
        on_wait=lambda: beats.beat(Phase.SAVING),
    )
    clock = SaveClock(
        grace_seconds=grace_seconds(),
        store_seconds=lambda: checkpoints.store_seconds,
        stall_seconds=lambda: checkpoints.stall_seconds,
        tell=emit.message if rank == 0 else ignore_message,
    )
    return Watchers(
        finite=FiniteSteps(emit.message if rank == 0 else ignore_message),
        heartbeat=Heartbeat(beats),
        curve=CurveWriter(curve, emit, resumed_from=plan.resume_step) if rank == 0 else None,
        clock=clock,
        checkpoints=checkpoints,
        chosen=ChosenStep(
            store,
            prefix,
            outbox=outbox,
            make_room=checkpoints.make_room,
            rule=job.spec.checkpoint,
            has_validation=has_validation,
            inputs=plan.inputs,
            resume_step=plan.resume_step,
        ),
        stop=StopRequest(
            Path(plan.control_dir) / STOP_FLAG, lambda validates: clock.expect(validates=validates)
        ),
        isolation=IsolationProbe(emit.message),
        tokens=TokenCount(),
    )


def ignore_message(_: str) -> None:
    """Say nothing: rank 0 says the same."""


def train_durably(trainer: Trainer, plan: WorkerPlan, watchers: Watchers) -> None:
    """Train to the end; checkpoints hold no pickle and reach storage also on a failure."""
    try:
        with state_files_below(Path(plan.output_dir)):
            trainer.train(resume_from_checkpoint=plan.resume_dir)
    except BaseException:
        watchers.checkpoints.drain()
        raise
