"""Stage ``evaluate``: base against tuned model on the held-out side, goal and gates."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

from finetune_api.trainer import Environment, EvaluateResult, GateResult, Score
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.context import StageContext
from finetune_trainer.data.prepared import Prepared, read_prepared, require_approved
from finetune_trainer.data.rows import Side
from finetune_trainer.evaluate.answering import Comparison
from finetune_trainer.evaluate.asking import Keeping, ask_models, read_problem
from finetune_trainer.evaluate.gating import judge_gates
from finetune_trainer.evaluate.goal import (
    Measurement,
    certainty_of,
    check_evidence,
    check_goal,
)
from finetune_trainer.evaluate.judge.consulting import consult, open_judge
from finetune_trainer.evaluate.kept import drop_answers
from finetune_trainer.evaluate.measuring import gather_row_scores, score_all
from finetune_trainer.evaluate.parts import score_parts
from finetune_trainer.evaluate.probes.alarms import judge_alarms
from finetune_trainer.evaluate.probes.gathering import gather_probes
from finetune_trainer.evaluate.probes.measuring import measure_said
from finetune_trainer.evaluate.published.gathering import gather_published
from finetune_trainer.evaluate.published.version import tell_problem
from finetune_trainer.evaluate.question_set import gather_question_set
from finetune_trainer.evaluate.report.evidence import Evidence, gather_samples
from finetune_trainer.evaluate.report.writing import write_report
from finetune_trainer.evaluate.review.blinding import SECRET_BYTES
from finetune_trainer.evaluate.review.files import write_review
from finetune_trainer.evaluate.review.making import make_review
from finetune_trainer.evaluate.trivial import answer_trivially
from finetune_trainer.model.chat_format import read_format
from finetune_trainer.model.encoding import make_encoder
from finetune_trainer.publish.adapter import weights_file
from finetune_trainer.publish.merged import find_merged
from finetune_trainer.publish.stage import publish
from finetune_trainer.storage import (
    MANIFEST_NAME,
    Manifest,
    fetch_folder,
    open_store,
    publish_folder,
)


def evaluate(context: StageContext) -> EvaluateResult:
    """Compare and report, then publish the adapter if nothing stands in its way.

    Raises:
        DataError: There is nothing to evaluate on, or the goal's metric does not fit the rows.
        UserError: What somebody approved is another data set.
        StorageError: Storage failed.
    """
    key = f"{context.job.run_prefix}/evaluation"
    is_reused = context.output.exists(f"{key}/{MANIFEST_NAME}")
    if is_reused:
        context.emit.message("this run is evaluated already: reused")
    else:
        _evaluate(context, key)
    drop_answers(context.output, context.job.run_prefix)
    return publish(context).model_copy(update={"reused": is_reused})


def _evaluate(context: StageContext, key: str) -> None:
    """Ask both models, measure, and store what came of it."""
    job = context.job
    folder, adapter_dir = context.scratch("evaluation", fresh=True), context.scratch("adapter")
    prepared = read_prepared(
        context.output, job, context.work_dir, sides=(Side.TEST,), approved=context.approved_data
    )
    adapter = _fetch_adapter(context, f"{job.run_prefix}/adapter", adapter_dir)
    record = json.loads((adapter_dir / "run.json").read_text())
    encoder = make_encoder(job, context.load_tokenizer(), read_format(prepared.folder))
    asked, settings = gather_question_set(context, prepared, encoder)
    endpoint = open_judge(context)
    probes = gather_probes(context, prepared, asked.questions)
    base_dir, revision = context.model_folder()
    published, rival = gather_published(
        context, asked.questions, encoder.chat_format, revision=revision
    )
    control_dir = context.scratch("asking", fresh=True)
    with context.keeping_logs(control_dir):
        said = ask_models(
            job,
            replace(asked, probes=probes.encode(), published=rival),
            encoder,
            base_dir=base_dir,
            tuned_dir=adapter_dir,
            record=record,
            control_dir=control_dir,
            emit=context.emit,
            keeping=_keep_below(
                context,
                model=revision,
                adapter=adapter.digest,
                dataset=prepared.digest,
                published=published.digest if published else "",
            ),
        )
    published = tell_problem(published, read_problem(control_dir))
    probed = measure_said(job, probes, said)
    consulted = consult(
        context, endpoint, Comparison(questions=asked.questions, **said, unmeasured={})
    )
    comparison = consulted.comparison
    scores, measured = score_all(job, comparison, settings)
    gates = judge_gates(job, comparison, settings, others=probed.found, published=published)
    gates += judge_alarms(job.spec.evaluation, probed.found)
    result = _make_result(context, key, comparison, scores, measured, gates).model_copy(
        update={
            **probed.to_result(certainty_of(job.spec.goal)),
            "judge": consulted.result,
            "published": published,
        }
    )
    row_scores = gather_row_scores(comparison, measured)
    evidence = _gather_evidence(context, prepared, adapter, record, comparison, result, row_scores)
    evidence = replace(
        evidence,
        prompted=asked.prompted,
        not_prompted=asked.not_prompted,
        probed=probed.probed,
        parts=score_parts(job, comparison, scores[0].name, settings) if scores else (),
        judgements=consulted.judgements,
    )
    write_report(folder, evidence)
    _write_review(folder, context, comparison, row_scores)
    publish_folder(
        context.output,
        key,
        folder,
        created_by="finetune_trainer evaluate",
        inputs={"adapter": adapter.digest, "dataset": prepared.digest},
    )


def _keep_below(context: StageContext, **facts: str) -> Keeping:
    """Return where the run's answers are kept, and what they depend on."""
    return Keeping(
        store=context.output,
        direct=open_store(context.job.spec.output.uri, context.access()),
        prefix=context.job.run_prefix,
        facts=facts,
    )


def _fetch_adapter(context: StageContext, key: str, folder: Path) -> Manifest:
    """Fetch the run's adapter; it must have learned from the data set that was approved, if any."""
    manifest = fetch_folder(context.output, key, folder)
    record = json.loads((folder / "run.json").read_text())
    require_approved(record["dataset"], context.approved_data, context.uri_of(key))
    return manifest


def _make_result(
    context: StageContext,
    key: str,
    comparison: Comparison,
    scores: list[Score],
    measured: dict[str, Measurement],
    gates: list[GateResult],
) -> EvaluateResult:
    met, words = _judge_goal(context.job.spec, comparison, measured)
    trivial = answer_trivially(comparison.asked).what if comparison.asked else ""
    return EvaluateResult(
        scores=scores,
        trivial=trivial,
        num_samples=len(comparison.questions),
        goal_met=met,
        goal_message=words,
        gates=gates,
        report_uri=context.uri_of(f"{key}/report.json"),
    )


def _judge_goal(
    spec: FineTuneJobSpec, comparison: Comparison, measured: dict[str, Measurement]
) -> tuple[bool | None, str]:
    """Return whether the goal is met, and why; one that was not measured is missed."""
    goal, number = spec.goal, len(comparison.questions)
    met: bool | None = None
    words = "the job has no goal"
    if goal is not None and goal.metric in comparison.unmeasured:
        met = False
        words = f"MISSED {goal.metric} was not measured: {comparison.unmeasured[goal.metric]}"
    elif goal is not None:
        found = measured[goal.metric]
        met, words = check_goal(goal, found)
        number = number if found.places is None else len(found.places)
    return check_evidence(met, words, num_prompts=number, min_prompts=spec.evaluation.min_prompts)


def _gather_evidence(
    context: StageContext,
    prepared: Prepared,
    adapter: Manifest,
    record: dict[str, Any],
    comparison: Comparison,
    result: EvaluateResult,
    row_scores: list[dict[str, tuple[float, float]]],
) -> Evidence:
    merged = find_merged(context)
    return Evidence(
        job=context.job,
        model_name=context.model_name,
        record=record,
        rows=prepared.report.rows,
        adapter_uri=context.uri_of(f"{context.job.run_prefix}/adapter"),
        adapter_sha256=weights_file(adapter).sha256,
        merged_digest=merged.digest if merged else None,
        result=result,
        samples=gather_samples(comparison, row_scores),
        data=prepared.report,
        data_uri=prepared.uri,
        curve=_read_curve(context),
        image=os.environ.get(Environment.IMAGE, ""),
    )


def _read_curve(context: StageContext) -> str:
    """Return what training logged; nothing where it left none, as earlier versions' runs may."""
    key = f"{context.job.run_prefix}/metrics.jsonl"
    if not context.output.exists(key):
        return ""
    return context.output.read_bytes(key).decode("utf-8", errors="replace")


def _write_review(
    folder: Path,
    context: StageContext,
    comparison: Comparison,
    row_scores: list[dict[str, tuple[float, float]]],
) -> None:
    review = context.job.spec.evaluation.review
    if review is None:
        return
    secret = secrets.token_bytes(SECRET_BYTES)
    hidden, key, facts = make_review(context.job, review, comparison, row_scores, secret=secret)
    write_review(folder, hidden, key, facts=facts)
    context.emit.message(
        f"{len(hidden.items)} questions wait for {review.reviewers} reviewer(s): finetune review "
        f"open {context.uri_of(f'{context.job.run_prefix}/evaluation')}"
    )
