"""Stage ``evaluate``: base against tuned model on the held-out side, goal and gates."""

from __future__ import annotations

import os
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeAlias

from finetune_api.protocol.evaluation_result import (
    EvaluateResult,
    GateResult,
    LookResult,
    PublishedVersion,
    Score,
)
from finetune_api.protocol.trainer import Environment, ResolvedJob
from finetune_trainer.context import StageContext
from finetune_trainer.evaluate.asking import read_engine
from finetune_trainer.evaluate.inference.answering import Comparison
from finetune_trainer.evaluate.inference.kept import drop_answers
from finetune_trainer.evaluate.inputs import Inputs, ask, gather_inputs
from finetune_trainer.evaluate.looks import take_look, withhold_unshown
from finetune_trainer.evaluate.report.evidence import Evidence, gather_samples
from finetune_trainer.evaluate.report.writing import write_report
from finetune_trainer.evaluate.scores.alarms import judge_alarms
from finetune_trainer.evaluate.scores.gating import (
    count_scored,
    judge_gates,
    judge_goal,
    tell_criteria,
)
from finetune_trainer.evaluate.scores.measuring import gather_row_scores, score_all
from finetune_trainer.evaluate.scores.parts import score_parts
from finetune_trainer.evaluate.scores.trivial import answer_trivially
from finetune_trainer.evaluate.scores.unended import tell_unended
from finetune_trainer.evaluate.sources.judge.consulting import Consulted, consult
from finetune_trainer.evaluate.sources.probes.alarms import settle_alarms
from finetune_trainer.evaluate.sources.probes.measuring import ProbeScores, measure_said
from finetune_trainer.evaluate.sources.registry import SOURCES
from finetune_trainer.evaluate.sources.review.blinding import SECRET_BYTES
from finetune_trainer.evaluate.sources.review.files import write_review
from finetune_trainer.evaluate.sources.review.making import make_review
from finetune_trainer.evaluate.sources.source import Measured, Services, open_sources
from finetune_trainer.publish.adapter import weights_file
from finetune_trainer.publish.merged import find_merged
from finetune_trainer.publish.stage import publish
from finetune_trainer.storage import MANIFEST_NAME, publish_folder
from finetune_trainer.verdict.goal import Measurement, certainty_of

RowScores: TypeAlias = list[dict[str, tuple[float, float]]]
"""Of each question asked, by metric, the scores of base and tuned model."""


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
    folder = context.scratch("evaluation", fresh=True)
    services = Services(
        storage=context.storage,
        workspace=context.workspace,
        model=context.model,
        emit=context.emit,
    )
    sources = open_sources(SOURCES, context.job, services)
    inputs = gather_inputs(context)
    task = inputs.to_task(context.job)
    inquiries = [source.ask(task) for source in sources]
    conversing = next((i.conversing for i in inquiries if i.conversing), None)
    said, published = ask(context, inputs, conversing=conversing)
    measured = [inquiry.measure(said) for inquiry in inquiries]
    look, job = take_look(context, inputs)
    rules = settle_alarms(job.spec.evaluation)
    probed = replace(measure_said(job, inputs.probes, said), rules=rules)
    limits = {side: inputs.asked.encoded_for(side).answer_tokens for side in said}
    unended = tell_unended(said, limits)
    if unended:
        context.emit.message(unended)
    asked = inputs.asked
    comparison = Comparison(questions=asked.questions, **said, unmeasured={}, trained=asked.trained)
    consulted = consult(context, inputs.endpoint, comparison)
    evidence, row_scores = _measure(
        context,
        key,
        inputs,
        consulted,
        probed,
        judged=(look, job),
        published=published,
        others=measured,
    )
    cut_words = ". ".join(filter(None, [evidence.cut_words, unended]))
    write_report(folder, replace(evidence, cut_words=cut_words))
    for each in measured:
        each.write(folder)
    _write_review(folder, context, consulted.comparison, row_scores)
    publish_folder(
        context.output,
        key,
        folder,
        created_by="finetune_trainer evaluate",
        inputs={"adapter": inputs.adapter.digest, "dataset": inputs.prepared.digest},
    )


def _measure(
    context: StageContext,
    key: str,
    inputs: Inputs,
    consulted: Consulted,
    probed: ProbeScores,
    *,
    judged: tuple[LookResult, ResolvedJob],
    published: PublishedVersion | None,
    others: Sequence[Measured],
) -> tuple[Evidence, RowScores]:
    """Score what was said, also row by row, and judge goal, gates and alarms by it."""
    look, job = judged
    comparison, settings = consulted.comparison, inputs.settings
    scores, measured = score_all(job, comparison, settings)
    certainty = certainty_of(job.spec.goal)
    standings = {**probed.standings}
    alarms = {**probed.alarms}
    for each in others:
        standings |= each.standings
        alarms |= each.alarms
    gates = judge_gates(job, comparison, settings, others=standings, published=published)
    gates += judge_alarms(job.spec.evaluation.gates, standings, alarms)
    result = _make_result(context, key, job, comparison, scores, measured, gates).model_copy(
        update={
            "look": look,
            "num_leaked": inputs.prepared.report.num_leaked_prompts,
            "custom_metric": settings.scorer_words,
            **probed.to_result(certainty),
            "judge": consulted.result,
            "published": published,
            **{k: v for each in others for k, v in each.to_result(certainty).items()},
        }
    )
    row_scores = gather_row_scores(comparison, measured)
    evidence = replace(
        _gather_evidence(context, inputs, comparison, result, row_scores),
        job=job,
        prompted=inputs.asked.prompted,
        not_prompted=inputs.asked.not_prompted,
        cut_words=inputs.asked.encoded.cut_words,
        criteria=tell_criteria(job.spec.goal, measured),
        questions=inputs.prepared.questions,
        probed=probed.probed,
        sections=[s for each in others if (s := each.describe(result))],
        parts=score_parts(job, comparison, scores[0].name, settings) if scores else (),
        judgements=consulted.judgements,
    )
    return evidence, row_scores


def _make_result(
    context: StageContext,
    key: str,
    job: ResolvedJob,
    comparison: Comparison,
    scores: list[Score],
    measured: dict[str, Measurement],
    gates: list[GateResult],
) -> EvaluateResult:
    spec = job.spec
    met, words = withhold_unshown(job, *judge_goal(spec, comparison, measured))
    trivial = answer_trivially(comparison.asked).what if comparison.asked else ""
    return EvaluateResult(
        scores=scores,
        trivial=trivial,
        num_samples=count_scored(spec.goal, comparison),
        goal_met=met,
        goal_message=words,
        gates=gates,
        report_uri=context.uri_of(f"{key}/report.json"),
    )


def _gather_evidence(
    context: StageContext,
    inputs: Inputs,
    comparison: Comparison,
    result: EvaluateResult,
    row_scores: RowScores,
) -> Evidence:
    merged = find_merged(context)
    return Evidence(
        job=context.job,
        model_name=context.model_name,
        record=inputs.record,
        rows=inputs.prepared.report.rows,
        adapter_uri=context.uri_of(f"{context.job.run_prefix}/adapter"),
        adapter_sha256=weights_file(inputs.adapter).sha256,
        merged_digest=merged.digest if merged else None,
        result=result,
        samples=gather_samples(comparison, row_scores),
        data=inputs.prepared.report,
        data_uri=inputs.prepared.uri,
        curve=_read_curve(context),
        image=os.environ.get(Environment.IMAGE, ""),
        engine=read_engine(context.scratch("asking"), context.job),
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
    row_scores: RowScores,
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
