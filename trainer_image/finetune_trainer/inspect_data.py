"""``python -m finetune_trainer inspect``: looks at a job's data; publishes and trains nothing."""

from __future__ import annotations

import argparse
import json
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_trainer.context import StageContext, read_job
from finetune_trainer.failures import classify
from finetune_trainer.process import hide_torch
from finetune_trainer.report.events import EventEmitter

if TYPE_CHECKING:
    from finetune_trainer.prepare.inspection import Inspection


def inspect_job(arguments: argparse.Namespace) -> int:
    """Write the known facts about a job's data as JSON."""
    emit = EventEmitter(Stage.PREPARE)
    try:
        context = StageContext.from_environment(read_job(arguments.job), emit)
        if not context.job.spec.model.trust_remote_code:
            hide_torch()
        from finetune_trainer.prepare.inspection import inspect_sources

        found = inspect_sources(
            context.model, context.workspace, emit, with_model=arguments.with_model
        )
        power = _describe_power(context.job, found)
    except Exception as error:
        failure = classify(error)
        code = int(failure.exit_code)
        emit.failure(reason=failure.reason, message=failure.message, exit_code=code, step=None)
        return code
    text = json.dumps({**found.to_wire(), "power": power})
    Path(arguments.out).write_bytes(text.encode("utf-8", "backslashreplace"))
    return 0


def _describe_power(job: ResolvedJob, found: Inspection) -> str:
    """Describe how often a good model meets the goal on the held-out rows."""
    from finetune_api.v1alpha1.evaluation.judging import most_scored
    from finetune_api.v1alpha1.evaluation.scoring import ANSWER_METRICS, FORM_METRICS
    from finetune_trainer.data.asking import most_asked
    from finetune_trainer.data.held_out import counts_for, read_held_out
    from finetune_trainer.data.rows import Side
    from finetune_trainer.verdict.certainty import at_first_look
    from finetune_trainer.verdict.decidable import count_labels
    from finetune_trainer.verdict.power import describe_power
    from finetune_trainer.verdict.sizes import unevenness_of

    goal, folder = at_first_look(job.spec).goal, found.folder
    if goal is None or folder is None or not (folder / f"{Side.TEST}.jsonl").exists():
        return ""
    most = most_asked(job.spec.evaluation, found.questions.number if found.questions else None)
    side = read_held_out(folder, (), seed=job.spec.dataset.split.seed)
    number = len(side.groups(most, counts_for(goal)))
    has_constant = goal.metric in ANSWER_METRICS - FORM_METRICS
    constant = _foresee(job, folder, most) if has_constant else None
    labels = count_labels(side.drawn(most)) if goal.metric == "macroF1" else None
    return describe_power(
        goal,
        most_scored(job.spec.evaluation, goal.metric, number),
        constant=(constant or 0.0) if has_constant else None,
        is_known=constant is not None,
        unevenness=unevenness_of(labels) if labels else 1.0,
    )


def _foresee(job: ResolvedJob, folder: Path, most: int) -> float | None:
    """Return the score of the best constant answer to the held-out questions, if known."""
    from finetune_trainer.data.held_out import read_rows
    from finetune_trainer.data.rows import RowFile, Side
    from finetune_trainer.evaluate.metrics.catalog import Settings
    from finetune_trainer.evaluate.questions import gather_questions, read_reference, with_prompt
    from finetune_trainer.evaluate.scores.foreseen import foresee_constant
    from finetune_trainer.evaluate.sources.prompt_baseline.material import gather_material

    assert job.spec.goal is not None
    seed, tolerance = job.spec.dataset.split.seed, job.spec.evaluation.number_tolerance
    questions = gather_questions(read_rows(folder), max_questions=most, seed=seed)
    trained = gather_material(
        RowFile(path=folder / f"{Side.TRAIN}.jsonl", num_rows=0),
        are_labels=False,
        seed=seed,
        read_answer=read_reference,
    ).answers
    settings = Settings(
        absolute=Decimal(tolerance.absolute) if tolerance else Decimal(0),
        relative=Decimal(tolerance.relative) if tolerance else Decimal(0),
    )
    asked = with_prompt(questions)
    if not any(any(question.references) for question in asked):
        return None  # answers that are tool calls have no text here
    found = foresee_constant(job.spec.goal.metric, asked, trained, settings)
    # Where one answer is always right, the verdict goes by another metric.
    return found if found is not None and found < 1 else None
