"""How certainty is shared out: over gates that are decided at once, and over evaluations. Pure."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from decimal import ROUND_CEILING, Decimal
from typing import Literal

from finetune_api.meta import decimal_of
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES, share_of_look
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.statistics.claims import correct_for_many, count_ahead
from finetune_trainer.statistics.confidence import SLACK
from finetune_trainer.verdict.hypotheses import Hypothesis

Severity = Literal["Block", "Warn"]
SEVERITIES: tuple[Severity, ...] = ("Block", "Warn")
LEAST_DOUBT = Decimal(1) / MOST_RESAMPLES
"""No bounds of a score tell a smaller one."""
_DIGITS = Decimal("1e-8")


@dataclass(frozen=True, kw_only=True, slots=True)
class Family:
    """Hypotheses of gates that are decided at once, corrected for their number.

    Gates that stop nothing cost those that do nothing: each severity is a family of its own.

    Attributes:
        severity: Of the gates.
        doubts: p-value of each hypothesis: gates that ask the same are one.
    """

    severity: Severity
    doubts: Mapping[Hashable, float]

    def __len__(self) -> int:
        return len(self.doubts)

    def corrected(self, hypothesis: Hypothesis) -> float:
        """Return the p-value of a hypothesis among all."""
        among = correct_for_many(list(self.doubts.values()))
        return dict(zip(self.doubts, among, strict=True))[hypothesis.identity]

    def num_counted(self, hypothesis: Hypothesis) -> int:
        """Return by how many its p-value is multiplied before it is held true."""
        others = [doubt for key, doubt in self.doubts.items() if key != hypothesis.identity]
        return len(self) - count_ahead(others, hypothesis.allowed + SLACK)


def raise_certainty(spec: FineTuneJobSpec, number: int) -> FineTuneJobSpec:
    """Return a spec with the certainty that goal and gates must have at a look.

    The doubt of all looks together stays what the job allows. Resamples are as many as the smallest
    doubt takes, up to the most that a job may ask for.

    Args:
        spec: The job's spec.
        number: Which look at the same held-out side it is, from 1.
    """
    share = Decimal(share_of_look(number))
    evaluation, goal = spec.evaluation, spec.goal

    def raised(certainty: str) -> str:
        doubt = max((1 - decimal_of(certainty)) * share, _DIGITS)
        return str((1 - doubt).quantize(_DIGITS, rounding=ROUND_CEILING).normalize())

    if goal is not None:
        goal = goal.model_copy(update={"certainty": raised(goal.certainty)})
    gates = [
        gate.model_copy(update={"certainty": raised(gate.certainty)}) for gate in evaluation.gates
    ]
    certainties = [each.certainty for each in (goal, *gates) if each is not None]
    least = min((1 - decimal_of(each) for each in certainties), default=Decimal(1))
    samples = max(evaluation.num_bootstrap_samples, min(MOST_RESAMPLES, int(1 / least) + 1))
    update = {"gates": gates, "num_bootstrap_samples": samples}
    return spec.model_copy(
        update={"goal": goal, "evaluation": evaluation.model_copy(update=update)}
    )


def at_first_look(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """Return a spec with the certainty of the first look; no later one asks for less."""
    return raise_certainty(spec, 1) if spec.evaluation.looks == "Correct" else spec


def withhold_unshown(job: ResolvedJob, met: bool | None, words: str) -> tuple[bool | None, str]:
    """Withhold the verdict of a look so late that no bounds could show what it has to.

    Args:
        job: The job as it is judged.
        met: What the goal's check said.
        words: Its words.
    """
    goal = job.spec.goal
    if goal is None or 1 - decimal_of(goal.certainty) >= LEAST_DOUBT:
        return met, words
    return False, (
        "MISSED there were so many evaluations against this held-out side that no number of "
        f"prompts could show the goal (evaluation.looks: Correct): hold out new rows; {words}"
    )
