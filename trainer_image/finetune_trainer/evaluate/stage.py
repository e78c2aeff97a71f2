"""Stage ``evaluate``: base against tuned model on the held-out side, goal and gates."""

from __future__ import annotations

import os

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.trainer import Environment
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.asking import read_engine
from finetune_trainer.evaluate.concluding import conclude, measure_all
from finetune_trainer.evaluate.inference.keeping import drop_answers
from finetune_trainer.evaluate.inputs import gather_asked, gather_task, generate
from finetune_trainer.evaluate.looks import take_look
from finetune_trainer.evaluate.report.evidence import gather_evidence
from finetune_trainer.evaluate.report.writing import write_report
from finetune_trainer.evaluate.scores.unended import describe_unended
from finetune_trainer.evaluate.sources.registry import SOURCES
from finetune_trainer.evaluate.sources.source import Services, open_sources
from finetune_trainer.publish.earlier import record_anchor
from finetune_trainer.publish.merged import find_merged
from finetune_trainer.publish.stage import publish
from finetune_trainer.storage import MANIFEST_NAME, publish_folder


def evaluate(context: StageContext) -> EvaluateResult:
    """Compare and report, then publish the adapter if nothing stands in its way.

    Raises:
        DataError: There is nothing to evaluate on, or the goal's metric does not fit the rows.
        UserError: What somebody approved is another data set.
        StorageError: Storage failed.
    """
    key = f"{context.job.run_prefix}/evaluation"
    is_reused = context.storage.output.exists(f"{key}/{MANIFEST_NAME}")
    if is_reused:
        context.emit.message("this run is evaluated already: reused")
    else:
        _evaluate(context, key)
    drop_answers(context.storage.output, context.job.run_prefix)
    record_anchor(context.storage)
    return publish(context).model_copy(update={"reused": is_reused})


def services_of(context: StageContext) -> Services:
    """Return the parts of the context that steps and sources use."""
    return Services(
        storage=context.storage, workspace=context.workspace, model=context.model, emit=context.emit
    )


def _evaluate(context: StageContext, key: str) -> None:
    """Ask both models, measure, judge, and store the report."""
    services, model, storage = services_of(context), context.model, context.storage
    folder = context.workspace.scratch("evaluation", fresh=True)

    sources = open_sources(SOURCES, context.job, services)
    task = gather_task(context.job, services, approved=context.approved_data)
    inquiries = [source.ask(task) for source in sources]

    asked = gather_asked(task, inquiries)
    said = generate(task, asked, inquiries, services)
    limits = {side: asked.encoded_for(side).answer_tokens for side in said.answers}
    if unended := describe_unended(said.answers, limits):
        context.emit.message(unended)

    # Before any source measures: the look decides how many resamples they draw.
    look, job = take_look(task, storage, base=f"{model.name} {task.revision}")
    comparison, measured = measure_all(task, inquiries, said, job)
    report_uri = storage.uri_of(f"{key}/report.json")
    conclusion = conclude(task, comparison, measured, job, look=look, report_uri=report_uri)
    if grouped := conclusion.result.grouped:
        context.emit.message(grouped)

    merged = find_merged(storage)
    evidence = gather_evidence(
        task,
        conclusion,
        measured,
        storage,
        model_name=model.name,
        merged_digest=merged.digest if merged else None,
        engine=read_engine(context.workspace.scratch("asking"), task.job),
        image=os.environ.get(Environment.IMAGE, ""),
        unended=unended,
    )
    write_report(folder, evidence)
    for each in measured:
        each.write(folder, conclusion)
    publish_folder(
        storage.output,
        key,
        folder,
        created_by="finetune_trainer evaluate",
        inputs={"adapter": task.adapter.digest, "dataset": task.prepared.digest},
    )
