"""What an evaluation comes to: from the answers to scores, goal, gates and alarms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from finetune_api.protocol.evaluation_result import EvaluateResult, LookResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.evaluate.comparison import Comparison
from finetune_trainer.evaluate.questions import describe_groups
from finetune_trainer.evaluate.scores.alarms import Alarm, judge_alarms
from finetune_trainer.evaluate.scores.gating import (
    count_scored,
    judge_gates,
    judge_goal,
    list_criteria,
)
from finetune_trainer.evaluate.scores.measuring import gather_row_scores, score_all
from finetune_trainer.evaluate.scores.parts import PartScore, score_parts
from finetune_trainer.evaluate.scores.trivial import answer_trivially
from finetune_trainer.evaluate.sources.source import Inquiry, Measured, Outcome, Said, Task
from finetune_trainer.verdict.certainty import withhold_unshown
from finetune_trainer.verdict.gates import Standing
from finetune_trainer.verdict.goal import Criterion, certainty_of


@dataclass(frozen=True, kw_only=True, slots=True)
class Conclusion(Outcome):
    """An outcome with what the report tells beside it.

    Attributes:
        job: The job as it was judged.
        criteria: What the goal asks, one by one; empty where its metric was not measured.
        parts: Scores of parts of the held-out rows.
    """

    job: ResolvedJob
    criteria: Sequence[Criterion]
    parts: Sequence[PartScore]


def measure_all(
    task: Task, inquiries: Sequence[Inquiry], said: Said, job: ResolvedJob
) -> tuple[Comparison, list[Measured]]:
    """Have each source measure; return the held-out answers and the measured evidence.

    Args:
        task: What is compared.
        inquiries: Those of the sources.
        said: The answers of the models.
        job: The job as this look judges it: the look decides how many resamples a source draws.

    Raises:
        TrainerError: A source failed, and the job does not go on without it.
    """
    comparison = Comparison(
        questions=task.asked.questions,
        base=said.answers["base"],
        tuned=said.answers["tuned"],
        unmeasured={},
    )
    measured = []
    for inquiry in inquiries:
        each = inquiry.measure(job, said, comparison)
        comparison = each.add_to(comparison)
        measured.append(each)
    return comparison, measured


def conclude(
    task: Task,
    comparison: Comparison,
    measured: Sequence[Measured],
    job: ResolvedJob,
    *,
    look: LookResult,
    report_uri: str,
) -> Conclusion:
    """Score the answers, also row by row, and judge goal, gates and alarms.

    Args:
        task: What is compared.
        comparison: The answers to the held-out questions.
        measured: What the sources measured.
        job: The job as this look judges it.
        look: The number of this evaluation among those of the same held-out rows.
        report_uri: Where the report will lie.

    Raises:
        UserError: A metric of the user's own failed.
    """
    settings = task.settings
    scores, metrics = score_all(job, comparison, settings)
    certainty = certainty_of(job.spec.goal)
    fields = {name: v for each in measured for name, v in each.to_result(certainty).items()}
    standings: Mapping[str, Standing] = {n: s for e in measured for n, s in e.standings.items()}
    alarms: Mapping[str, Alarm] = {n: a for e in measured for n, a in e.alarms.items()}
    gates = judge_gates(
        job, comparison, settings, others=standings, published=fields.get("published")
    )
    met, words = withhold_unshown(job, *judge_goal(job.spec, comparison, metrics))
    result = EvaluateResult(
        scores=scores,
        trivial=answer_trivially(comparison.asked)[0] if comparison.asked else "",
        num_samples=count_scored(job.spec.goal, comparison),
        goal_met=met,
        goal_message=words,
        gates=[*gates, *judge_alarms(job.spec.evaluation.gates, standings, alarms)],
        look=look,
        num_leaked=task.prepared.report.num_leaked_prompts,
        origins=task.prepared.origins,
        grouped=describe_groups(comparison.questions),
        custom_metric=settings.scorer_words,
        report_uri=report_uri,
    )
    return Conclusion(
        result=result.model_copy(update=fields),
        comparison=comparison,
        row_scores=gather_row_scores(comparison, metrics),
        job=job,
        criteria=list_criteria(job.spec.goal, metrics),
        parts=score_parts(job, comparison, scores[0].name, settings) if scores else (),
    )
