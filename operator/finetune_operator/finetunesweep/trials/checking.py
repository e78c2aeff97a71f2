"""Check that the API server and this cluster accept every trial as a FineTuneJob.

It runs before the first trial is created, so that no sweep fails halfway.
"""

from __future__ import annotations

from dataclasses import dataclass

from pydantic import ValidationError

from finetune_api.messages.messages import Problem, explain
from finetune_api.names import trial_name
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunesweep.search.space import Value
from finetune_operator.finetunesweep.trials.observed import Observed
from finetune_operator.finetunesweep.trials.rendering import render_trial, scoring_of, with_seed
from finetune_operator.finetunesweep.trials.searching import samples_of
from finetune_operator.status.conditions import Reason


@dataclass(frozen=True, kw_only=True, slots=True)
class Fault:
    """The cause for which a sweep is refused.

    Attributes:
        message: Trial, field, value and remedy.
    """

    reason: Reason
    message: str


def find_fault(observed: Observed, config: OperatorConfig) -> Fault | None:
    """Return the cause for which a sweep cannot be run; None if it can.

    Args:
        observed: The snapshot; its spec can be read.
        config: The administrator's settings for the namespace.
    """
    if (refused := find_refused_template(observed, config)) is not None:
        return refused
    try:
        samples = list(samples_of(observed.spec, observed.uid))
    except ValueError as error:
        return Fault(reason=Reason.INVALID_TRIAL, message=f"spec.parameters: {error}")
    for number, values in samples:
        if (problem := _problem_of(observed, number, values)) is not None:
            return Fault(
                reason=Reason.INVALID_TRIAL, message=_text_of(observed, number, values, problem)
            )
    return None


def find_refused_template(observed: Observed, config: OperatorConfig) -> Fault | None:
    """Return why this cluster refuses every trial of a sweep, as of now; None if it does not."""
    asked = {"requested_by": observed.spec.requested_by}
    violations = find_violations(observed.spec.template.model_copy(update=asked), config)
    if not violations:
        return None
    return Fault(
        reason=violations[0].reason,
        message="; ".join(f"{_place_of(item.field)}: {item.message}" for item in violations),
    )


def _place_of(field: str) -> str:
    """Return where a sweep has a field of its trials."""
    own = field == "spec.requestedBy"
    return field if own else f"spec.template.{field.removeprefix('spec.')}"


def _problem_of(observed: Observed, number: int, values: dict[str, Value]) -> Problem | None:
    template = observed.sweep["spec"]["template"]
    if observed.spec.replicates:
        values = with_seed(template, values, 1)
    scoring = scoring_of(observed.spec)
    body = render_trial(observed.owner, template, max(1, number), values, scoring=scoring)
    body["metadata"].pop("ownerReferences")
    try:
        FineTuneJob.from_stored(body)
    except ValidationError as error:
        return explain(error, body)[0]
    return None


def _text_of(observed: Observed, number: int, values: dict[str, Value], problem: Problem) -> str:
    """Return trial, path, value, error and remedy."""
    trial = f"trial {trial_name(observed.name, number)}" if number else "a trial"
    place = problem.path.removeprefix("spec.")
    shown = ", ".join(f"{path}: {value}" for path, value in values.items())
    return (
        f"{trial} would be refused with {shown}: {place}: {problem.message}. No trial was created:"
        f" correct spec.parameters{'' if place in values else ' or spec.template'} in a new sweep"
    )
