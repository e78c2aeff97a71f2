"""Has a judge compare or score the answers of both models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from finetune_api.protocol.evaluation_result import JudgeResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.judging import METRIC_OF_MODE, Judge
from finetune_trainer.errors import StorageError, TrainerError, UserError
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.metrics.answers import Answers, Floats
from finetune_trainer.evaluate.sources.judge.asking import Endpoint, ask_judge
from finetune_trainer.evaluate.sources.judge.concluding import Concluded, Judgement, conclude
from finetune_trainer.evaluate.sources.judge.drawing import Drawn, draw, word_rows
from finetune_trainer.evaluate.sources.judge.endpoint import JudgeAway, JudgeRefuses
from finetune_trainer.evaluate.sources.judge.replies import KeptReplies
from finetune_trainer.report.events import EventEmitter

_VARIANT_OF_PROMPTING = {"AsIs": "base", "Prompted": "prompted", "Likelihood": "likelihood"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Consulted:
    """What became of the judge.

    Attributes:
        comparison: What both models said, with the judge's scores, or why there are none.
        result: What the report and the status say of the judge.
        judgements: Of each question that it was asked.
    """

    comparison: Comparison
    result: JudgeResult
    judgements: Sequence[Judgement] = ()


def consult_judge(
    job: ResolvedJob,
    judge: Judge,
    comparison: Comparison,
    endpoint: Endpoint,
    kept: KeptReplies,
    emit: EventEmitter,
) -> Consulted:
    """Put the drawn questions to the judge and count its verdicts.

    Args:
        job: The effective job.
        judge: Its ``spec.evaluation.judge``.
        comparison: What both models said to at least one question.
        endpoint: The judge.
        kept: Replies of earlier attempts.
        emit: Where events go.

    Returns:
        Scores of the judge's metric for the questions that have a verdict; or, where the judge
        failed and ``onFailure`` is ``Warn``, why it is not measured.

    Raises:
        StorageError: ``JudgeAway``: it stayed away, and ``onFailure`` is ``Fail``.
        UserError: ``JudgeRefuses``, ``JudgeUnreadable``: the same, where trying again cannot help.
    """
    drawn = draw(job, judge, comparison)
    rows = word_rows(judge, drawn)
    before = f"; {len(kept.replies)} replies were kept before" if kept.replies else ""
    emit.message(
        f"prompts and answers of up to {len(rows)} held-out questions go to the judge "
        f"{judge.model} at {judge.endpoint} ({judge.mode}){before}"
    )
    try:
        asked = ask_judge(judge, rows, endpoint, kept, tell=emit.message)
    except JudgeAway as away:
        why = f"the judge at {judge.endpoint} stayed away: {away}; is it up, and does the network "
        why += "of the evaluation's pod lead there?"
        return _give_up(judge, drawn, comparison, StorageError("JudgeAway", why), emit)
    except JudgeRefuses as refusal:
        why = f"the judge {judge.model} at {judge.endpoint} refuses: {refusal}; correct endpoint, "
        why += "model or key"
        return _give_up(judge, drawn, comparison, UserError("JudgeRefuses", why), emit)
    concluded = conclude(job, judge, drawn, asked)
    if concluded.result.failure:
        error = UserError("JudgeUnreadable", f"evaluation.judge: {concluded.result.failure}")
        given_up = _give_up(judge, drawn, comparison, error, emit)
        return replace(given_up, result=concluded.result, judgements=concluded.judgements)
    for note in concluded.result.notes:
        emit.message(f"judge: {note}")
    return Consulted(
        comparison=_with_scores(judge, comparison, concluded),
        result=concluded.result,
        judgements=concluded.judgements,
    )


def _give_up(
    judge: Judge, drawn: Drawn, comparison: Comparison, error: TrainerError, emit: EventEmitter
) -> Consulted:
    if judge.on_failure == "Fail":
        error.message += " (evaluation.judge.onFailure is Fail; the answers are kept)"
        raise error
    metric = METRIC_OF_MODE[judge.mode]
    emit.message(f"{metric} is not measured: {error.message}")
    result = JudgeResult(
        model=judge.model,
        endpoint=judge.endpoint,
        mode=judge.mode,
        baseline=drawn.way,
        num_drawn=len(drawn.places),
        failure=error.message,
    )
    return Consulted(
        comparison=replace(comparison, unmeasured={metric: error.message}), result=result
    )


def _with_scores(judge: Judge, comparison: Comparison, concluded: Concluded) -> Comparison:
    """Return what both models said, with what the judge gave each question."""
    metric = METRIC_OF_MODE[judge.mode]
    number = len(comparison.asked)

    def scored(said: Answers, scores: Floats) -> Answers:
        judged = np.full(number, np.nan)
        judged[list(concluded.places)] = scores
        return replace(said, judged={metric: judged})

    side = _VARIANT_OF_PROMPTING[concluded.result.baseline]
    base: Answers = getattr(comparison, side)
    return replace(
        comparison,
        **{side: scored(base, concluded.base)},  # type: ignore[arg-type]
        tuned=scored(comparison.tuned, concluded.tuned),
    )
