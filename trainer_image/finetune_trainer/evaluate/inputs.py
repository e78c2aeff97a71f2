"""What an evaluation compares, and what the models say to it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import reduce
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.prepared import read_prepared, require_approved
from finetune_trainer.data.rows import Side
from finetune_trainer.evaluate.asking import Keeping, ask_models, read_problem
from finetune_trainer.evaluate.question_set import QuestionSet, gather_question_set
from finetune_trainer.evaluate.settings import read_settings, try_settings
from finetune_trainer.evaluate.sources.source import Inquiry, Said, Services, Task
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.context import evaluated_context
from finetune_trainer.model.encoding import make_encoder
from finetune_trainer.model.load import read_config
from finetune_trainer.run import RunStorage
from finetune_trainer.storage import Manifest, fetch_folder


def gather_task(job: ResolvedJob, services: Services, *, approved: str | None) -> Task:
    """Fetch and read the adapter and the held-out questions; the base model's weights come later.

    A metric of the user's own is tried on the references.

    Args:
        job: The effective job.
        services: The evaluation's.
        approved: Digest of the only data set that may be read; None for whichever is the run's.

    Raises:
        DataError: There is no held-out row.
        UserError: Another data set was approved, or a schema or a metric of the user's own cannot
            be used.
        StorageError: Storage failed.
    """
    storage, work_dir = services.storage, services.workspace.folder
    prepared = read_prepared(storage.output, job, work_dir, sides=(Side.TEST,), approved=approved)
    adapter_dir = services.workspace.scratch("adapter")
    adapter, record = _fetch_adapter(storage, adapter_dir, approved)
    encoder = make_encoder(job, services.model.load_tokenizer(), read_format(prepared.folder))
    config_dir, revision = services.model.fetch(include_weights=False)
    room = evaluated_context(read_config(config_dir), job.spec.evaluation.engine)
    asked = gather_question_set(job, prepared, encoder, room=room)
    settings = read_settings(job.spec.evaluation, storage.access())
    try_settings(settings, asked.questions)
    if asked.encoded.cut_words:
        services.emit.message(asked.encoded.cut_words)
    return Task(
        job=job,
        prepared=prepared,
        adapter=adapter,
        adapter_dir=adapter_dir,
        record=record,
        encoder=encoder,
        asked=asked,
        settings=settings,
        config_dir=config_dir,
        revision=revision,
        room=room,
    )


def gather_asked(task: Task, inquiries: Sequence[Inquiry]) -> QuestionSet:
    """Return the questions of a task with those of all sources."""
    return reduce(lambda asked, inquiry: inquiry.extend(asked), inquiries, task.asked)


def generate(
    task: Task, asked: QuestionSet, inquiries: Sequence[Inquiry], services: Services
) -> Said:
    """Fetch the base model's weights, and ask all models everything.

    Args:
        task: What is compared.
        asked: All questions.
        inquiries: Those of the sources, which may converse with the server afterwards.
        services: The evaluation's.

    Raises:
        TrainerError: The weights cannot be fetched, the models do not fit, or a worker failed; the
            answers so far are kept.
        Stopped: This process was asked to stop.
    """
    base_dir, revision = services.model.fetch()
    control_dir = services.workspace.scratch("asking", fresh=True)
    keeping = keep_below(
        services.storage,
        task.job.run_prefix,
        model=revision,
        adapter=task.adapter.digest,
        dataset=task.prepared.digest,
        published=asked.published.digest if asked.published else "",
    )
    with services.storage.keeping_logs(control_dir):
        answers = ask_models(
            task.job,
            asked,
            task.encoder,
            base_dir=base_dir,
            tuned_dir=task.adapter_dir,
            record=task.record,
            control_dir=control_dir,
            emit=services.emit,
            keeping=keeping,
            has_server=True,
            conversing=next((each.conversing for each in inquiries if each.conversing), None),
        )
    return Said(answers=answers, problem=read_problem(control_dir))


def keep_below(storage: RunStorage, prefix: str, **facts: str) -> Keeping:
    """Return where answers are kept that depend on these digests.

    Args:
        storage: The run's.
        prefix: Key prefix below which they lie.
        **facts: Digests of the weights and of the rows.
    """
    return Keeping(store=storage.output, direct=storage.open_direct(), prefix=prefix, facts=facts)


def _fetch_adapter(
    storage: RunStorage, folder: Path, approved: str | None
) -> tuple[Manifest, dict[str, Any]]:
    """Fetch the run's adapter and its record; it must have learned from the approved data set."""
    key = f"{storage.job.run_prefix}/adapter"
    manifest = fetch_folder(storage.output, key, folder)
    record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    require_approved(record["dataset"], approved, storage.uri_of(key))
    return manifest, record
