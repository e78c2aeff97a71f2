"""What an evaluation is given, and what the models say to it."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import PublishedVersion
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import Prepared, read_prepared, require_approved
from finetune_trainer.data.rows import Side
from finetune_trainer.evaluate.asking import Keeping, ask_models, read_problem
from finetune_trainer.evaluate.inference.engine.arguments import Conversing
from finetune_trainer.evaluate.metrics.answers import Answers
from finetune_trainer.evaluate.metrics.catalog import Settings
from finetune_trainer.evaluate.question_set import QuestionSet, gather_question_set
from finetune_trainer.evaluate.sources.champion.gathering import gather_published
from finetune_trainer.evaluate.sources.champion.version import tell_problem
from finetune_trainer.evaluate.sources.judge.consulting import open_judge
from finetune_trainer.evaluate.sources.judge.endpoint import JudgeEndpoint
from finetune_trainer.evaluate.sources.probes.gathering import gather_probes
from finetune_trainer.evaluate.sources.probes.probe import Probes
from finetune_trainer.evaluate.sources.source import Task
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.context import evaluated_context
from finetune_trainer.model.encoding import Encoder, make_encoder
from finetune_trainer.model.load import read_config
from finetune_trainer.storage import Manifest, fetch_folder, open_store


@dataclass(frozen=True, kw_only=True, slots=True)
class Inputs:
    """What an evaluation is given.

    Attributes:
        prepared: The run's data set, of which the held-out side is here.
        adapter: Manifest of the run's adapter.
        adapter_dir: Folder with it.
        record: Content of its ``run.json``.
        encoder: The encoder of training.
        asked: Everything that the models are asked, but for the probes.
        settings: What metrics need to know of the job.
        endpoint: The judge; None where the job names none.
        probes: What is asked beyond the held-out rows.
        base_dir: Folder with the base model.
        revision: Which weights these are.
        published: The version that is published now; None where no gate compares with it.
    """

    prepared: Prepared
    adapter: Manifest
    adapter_dir: Path
    record: dict[str, Any]
    encoder: Encoder
    asked: QuestionSet
    settings: Settings
    endpoint: JudgeEndpoint | None
    probes: Probes
    base_dir: Path
    revision: str
    published: PublishedVersion | None

    def to_task(self, job: ResolvedJob) -> Task:
        """Return what all sources are told."""
        return Task(
            job=job,
            prepared=self.prepared,
            adapter=self.adapter,
            adapter_dir=self.adapter_dir,
            record=self.record,
            encoder=self.encoder,
            questions=self.asked.questions,
            encoded=self.asked.encoded,
            base_dir=self.base_dir,
            revision=self.revision,
        )


def gather_inputs(context: StageContext) -> Inputs:
    """Fetch and read all that the models are asked, and the models.

    Raises:
        DataError: There is no held-out row.
        UserError: What somebody approved is another data set, or the judge's key is missing.
        StorageError: Storage failed.
    """
    job, adapter_dir = context.job, context.scratch("adapter")
    prepared = read_prepared(
        context.output, job, context.work_dir, sides=(Side.TEST,), approved=context.approved_data
    )
    adapter, record = _fetch_adapter(context, f"{job.run_prefix}/adapter", adapter_dir)
    encoder = make_encoder(job, context.load_tokenizer(), read_format(prepared.folder))
    asked, settings = gather_question_set(context, prepared, encoder)
    endpoint = open_judge(context)
    probes = gather_probes(context, prepared, asked.questions)
    base_dir, revision = context.model_folder()
    room = evaluated_context(read_config(base_dir), job.spec.evaluation.engine)
    published, rival = gather_published(
        context, asked.questions, encoder.chat_format, revision=revision, room=room
    )
    return Inputs(
        prepared=prepared,
        adapter=adapter,
        adapter_dir=adapter_dir,
        record=record,
        encoder=encoder,
        asked=replace(asked, probes=probes.encode(room), published=rival),
        settings=settings,
        endpoint=endpoint,
        probes=probes,
        base_dir=base_dir,
        revision=revision,
        published=published,
    )


def ask(
    context: StageContext, inputs: Inputs, *, conversing: Conversing | None = None
) -> tuple[dict[str, Answers], PublishedVersion | None]:
    """Ask all models everything.

    Args:
        context: The stage's.
        inputs: What the evaluation is given.
        conversing: What the server must be able to do for others afterwards.

    Returns:
        The answers by side, as :func:`ask_models` does; and the published version, with what kept
        it from being asked.

    Raises:
        TrainerError: The models do not fit, or a worker failed; the answers so far are kept.
        Stopped: This process was asked to stop.
    """
    control_dir = context.scratch("asking", fresh=True)
    published = inputs.published
    keeping = keep_below(
        context,
        context.job.run_prefix,
        model=inputs.revision,
        adapter=inputs.adapter.digest,
        dataset=inputs.prepared.digest,
        published=published.digest if published else "",
    )
    with context.keeping_logs(control_dir):
        said = ask_models(
            context.job,
            inputs.asked,
            inputs.encoder,
            base_dir=inputs.base_dir,
            tuned_dir=inputs.adapter_dir,
            record=inputs.record,
            control_dir=control_dir,
            emit=context.emit,
            keeping=keeping,
            has_server=True,
            conversing=conversing,
        )
    return said, tell_problem(published, read_problem(control_dir))


def keep_below(context: StageContext, prefix: str, **facts: str) -> Keeping:
    """Return where answers are kept that depend on these digests.

    Args:
        context: The stage's surroundings.
        prefix: Key prefix below which they lie.
        **facts: Digests of the weights and of the rows.
    """
    direct = open_store(context.job.spec.output.uri, context.access())
    return Keeping(store=context.output, direct=direct, prefix=prefix, facts=facts)


def _fetch_adapter(
    context: StageContext, key: str, folder: Path
) -> tuple[Manifest, dict[str, Any]]:
    """Fetch the run's adapter and its record; it must have learned from the approved data set."""
    manifest = fetch_folder(context.output, key, folder)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    require_approved(record["dataset"], context.approved_data, context.uri_of(key))
    return manifest, record
