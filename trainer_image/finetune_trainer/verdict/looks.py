"""What certainty goal and gates must have at one of many looks at the same held-out side. Pure."""

from __future__ import annotations

from decimal import ROUND_CEILING, Decimal

from finetune_api.meta import decimal_of
from finetune_api.v1alpha1.evaluation.spec import MOST_RESAMPLES
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_trainer.statistics.claims import share_of_look

_DIGITS = Decimal("1e-8")


def raise_certainty(spec: FineTuneJobSpec, number: int) -> FineTuneJobSpec:
    """Return a spec with the certainty that goal and gates must have at a look.

    The doubt of all looks together stays what the job allows. Resamples are as many as the smallest
    doubt takes, up to the most that a job may ask for.

    Args:
        spec: The job's spec.
        number: Which look it is, from 1.
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
