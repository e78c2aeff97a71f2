"""The sweep's view of one of its trials, read from the FineTuneJob alone.

The number is in the name, the sweep in the owner reference, the values in the spec, the progress in
the status. Labels are for people.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_api.meta import GROUP, SWEEP_KIND
from finetune_api.names import REPLICATE_LABEL, trial_number
from finetune_api.v1alpha1.evaluation.objective import VALIDATION_LOSS, is_lower_better
from finetune_operator.finetunejob.state.decisions import PHASE as AWAITING_APPROVAL
from finetune_operator.finetunejob.state.gpu_time import (
    HOUR_SECONDS,
    decimal_or_zero,
    gpu_time_of_job,
)
from finetune_operator.finetunesweep.search import trials as search
from finetune_operator.finetunesweep.search.space import Value
from finetune_operator.finetunesweep.search.trials import Curve, Point
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    is_true,
)

Object = dict[str, Any]

_GRAIN = Decimal("0.0001")
_UNDER_WAY = ("Pending", "Running", "Suspended")


@dataclass(frozen=True, kw_only=True, slots=True)
class Trial:
    """One trial of a sweep.

    Attributes:
        values: The varied values, by path.
        state: As in ``status.trials`` of the sweep.
        metric: The metric that compares trials of the sweep.
        lowest_loss: Lowest reported validation loss so far; empty before the first.
        scored: Reported score of answers to validation rows; empty without one.
        step: Last step whose validation loss is known; 0 before the first.
        replicate_of: The trial whose values it repeats with another seed; None for one of the
            search.
        is_released: Whether it was chosen, and may be evaluated.
        is_pruned: Whether its spec ends it early.
        is_suspended: Whether its spec suspends it.
    """

    number: int
    job: Object
    values: Mapping[str, Value]
    state: str
    metric: str
    lowest_loss: str
    scored: Object
    step: int
    curve: Curve
    tokens: int
    replicate_of: int | None
    is_released: bool
    is_pruned: bool
    is_suspended: bool

    @property
    def name(self) -> str:
        """Name of the FineTuneJob."""
        return str(self.job["metadata"]["name"])

    @property
    def uid(self) -> str:
        """UID of the FineTuneJob."""
        return str(self.job["metadata"]["uid"])

    @property
    def is_under_way(self) -> bool:
        """Whether it still trains, or will."""
        return self.state in _UNDER_WAY

    @property
    def is_trained(self) -> bool:
        """Whether it was trained to its end."""
        status = self.job.get("status") or {}
        failed_in = (status.get("lastFailure") or {}).get("stage")
        return _is_trained(status) and not (self.state == "Failed" and failed_in == "train")

    @property
    def trains(self) -> bool:
        """Whether it has begun to train, and goes on or waits to."""
        stages = (self.job.get("status") or {}).get("stages") or ()
        is_begun = self.state == "Running" or any(each.get("name") == "train" for each in stages)
        return is_begun and self.is_under_way

    @property
    def phase(self) -> str:
        """Phase of the FineTuneJob."""
        return str((self.job.get("status") or {}).get("phase") or "Pending")

    @property
    def reason(self) -> str:
        """Why the FineTuneJob has ended: the reason of its ``Failed``."""
        found = find_condition(_conditions(self.job), ConditionType.FAILED)
        return str((found or {}).get("reason") or "")

    @property
    def waits_for(self) -> str:
        """Reason of the FineTuneJob that waits for somebody else than this sweep; or empty."""
        status = self.job.get("status") or {}
        is_held = self.state == "Suspended" and not self.is_suspended
        is_held |= self.is_under_way and self.phase == AWAITING_APPROVAL
        return str(status.get("reason") or "") if is_held else ""

    @property
    def message(self) -> str:
        """What the FineTuneJob says of its end."""
        found = find_condition(_conditions(self.job), ConditionType.FAILED)
        return str((found or {}).get("message") or "")

    @property
    def score(self) -> str:
        """What it is compared by, as the job tells it; empty before that is known."""
        if self.metric == VALIDATION_LOSS:
            return self.lowest_loss
        is_asked = self.scored.get("metric") == self.metric
        return str(self.scored.get("value") or "") if is_asked else ""

    @property
    def bounds(self) -> tuple[str, str] | None:
        """The interval of the score, as the job tells it; None where it has none."""
        low, high = self.scored.get("low"), self.scored.get("high")
        return (str(low), str(high)) if self.score and low and high else None

    @property
    def badness(self) -> float | None:
        """The score as a number of which less is better; None before it is known."""
        value = _number(self.score)
        return value if value is None or is_lower_better(self.metric) else -value

    @property
    def loss(self) -> float | None:
        """The lowest validation loss as a number; None before the first."""
        return _number(self.lowest_loss)

    @property
    def score_text(self) -> str:
        """What it came to, for people: ``exactMatch 0.91 [0.84, 0.95]``."""
        name = "validation loss" if self.metric == VALIDATION_LOSS else self.metric
        bounds = f" [{', '.join(self.bounds)}]" if self.bounds else ""
        return f"{name} {self.score or 'unknown'}{bounds}"

    @property
    def why_unscored(self) -> tuple[str, str] | None:
        """Why one that was trained cannot win by the metric: reason and words; None if it can."""
        is_scored = self.metric == VALIDATION_LOSS or self.badness is not None
        if self.state != "Trained" or is_scored:
            return None
        reason = str(self.scored.get("reason") or Reason.NOT_SCORED)
        words = str(self.scored.get("message") or "")
        return reason, words or "it was trained, and did not tell how its answers score"

    @property
    def unscored_text(self) -> str:
        """The same in a sentence; empty if it can win."""
        if self.why_unscored is None:
            return ""
        reason, words = self.why_unscored
        end = "Its adapter is kept."
        return f"{self.name} has no {self.metric}: {reason}: {words.rstrip('.')}. {end}"

    @property
    def _search_state(self) -> search.TrialState:
        if self.state == "Trained" and self.is_pruned:
            return search.TrialState.PRUNED
        return _STATES.get(self.state, search.TrialState.RUNNING)

    def gpu_hours_until(self, now: datetime) -> Decimal:
        """Return the GPU hours that it has used up to now, in ten-thousandths."""
        used = gpu_time_of_job(self.job).until(now)
        return (Decimal(used) / HOUR_SECONDS).quantize(_GRAIN)

    def for_search(self) -> search.Trial:
        """Return what the search needs to know, where trials count from 0."""
        return self._as(self._search_state)

    def as_trained(self) -> search.Trial:
        """The same, where one that was ended because another won counts as trained, too."""
        is_trained = self.state == "Trained"
        return self._as(search.TrialState.COMPLETE if is_trained else self._search_state)

    def _as(self, state: search.TrialState) -> search.Trial:
        is_complete = state is search.TrialState.COMPLETE
        return search.Trial(
            number=self.number - 1,
            assignment=self.values,
            state=state,
            # Losses of stopped trials are compared only with each other.
            score=self.badness if is_complete else self.loss,
            tie=self.loss if is_complete else None,
            curve=self.curve,
            replicate_of=None if self.replicate_of is None else self.replicate_of - 1,
        )


_STATES = {
    "Trained": search.TrialState.COMPLETE,
    "Publishing": search.TrialState.COMPLETE,
    "Published": search.TrialState.COMPLETE,
    "Pruned": search.TrialState.PRUNED,
    "Failed": search.TrialState.FAILED,
}


def sweep_owner(job: Object) -> Object:
    """Return the owner reference of a FineTuneJob to its sweep; empty if none controls it."""
    for owner in job["metadata"].get("ownerReferences") or ():
        group = str(owner.get("apiVersion") or "").partition("/")[0]
        if owner.get("controller") and owner.get("kind") == SWEEP_KIND and group == GROUP:
            return dict(owner)
    return {}


def sum_of_hours(trials: Iterable[Trial], now: datetime) -> Decimal:
    """Return the GPU hours that trials have used up to now."""
    return sum((trial.gpu_hours_until(now) for trial in trials), Decimal(0))


def read_trial(job: Object, paths: tuple[str, ...], metric: str = VALIDATION_LOSS) -> Trial | None:
    """Return the trial of a FineTuneJob; None if it is no trial of a sweep.

    Args:
        job: The FineTuneJob.
        paths: Paths of the sweep's parameters.
        metric: The metric that compares its trials.
    """
    metadata = job["metadata"]
    labels = metadata.get("labels") or {}
    number = trial_number(str(sweep_owner(job).get("name") or ""), metadata["name"])
    if number is None or metadata.get("deletionTimestamp"):
        return None
    spec, status = job.get("spec") or {}, job.get("status") or {}
    curve = read_curve(status)
    replicate = str(labels.get(REPLICATE_LABEL) or "")
    is_released = not spec.get("holdAfter")
    return Trial(
        number=number,
        job=job,
        values={path: value for path in paths if (value := value_at(spec, path)) is not None},
        state=_state_of(status, is_released=is_released),
        metric=metric,
        lowest_loss=_lowest_loss(status, curve),
        scored=(status.get("selection") or {}).get("score") or {},
        step=curve[-1].step if curve else 0,
        curve=curve,
        tokens=_tokens_of(status),
        replicate_of=int(replicate) if replicate.isdecimal() else None,
        is_released=is_released,
        is_pruned=bool(spec.get("prune")),
        is_suspended=bool(spec.get("suspend")),
    )


def value_at(spec: Mapping[str, Any], path: str) -> Any:
    """Return what stands at a dotted path of a spec; None if nothing does."""
    found: Any = spec
    for part in path.split("."):
        if not isinstance(found, Mapping):
            return None
        found = found.get(part)
    return found


def read_curve(status: Object) -> Curve:
    """Return the validation losses that a FineTuneJob tells, by rising step."""
    points = (status.get("validation") or {}).get("curve") or ()
    found = {int(each["step"]): _loss(each["loss"]) for each in points}
    return tuple(Point(step, found[step]) for step in sorted(found))


def _state_of(status: Object, *, is_released: bool) -> str:
    conditions = status.get("conditions")
    is_trained = _is_trained(status)
    if is_true(conditions, ConditionType.PRUNED):
        # A trial that was trained to its end and not chosen was not stopped early.
        return "Trained" if is_trained and not is_released else "Pruned"
    if is_true(conditions, ConditionType.FAILED):
        return "Failed"
    if is_true(conditions, ConditionType.COMPLETE):
        return "Published"
    if is_released:
        return "Publishing"
    if is_trained:
        return "Trained"
    if status.get("phase") == "Suspended":
        return "Suspended"
    return "Running" if status.get("phase") == "Training" else "Pending"


def _is_trained(status: Object) -> bool:
    stages = status.get("stages") or ()
    return any(each.get("name") == "train" and each.get("completionTime") for each in stages)


def _lowest_loss(status: Object, curve: Curve) -> str:
    chosen = (status.get("selection") or {}).get("validationLoss")
    if chosen:
        return str(chosen)
    best = (status.get("validation") or {}).get("bestLoss")
    if best:
        return str(best)
    losses = [point.loss for point in curve if point.loss == point.loss]
    return f"{min(losses):.6g}" if losses else ""


def _tokens_of(status: Object) -> int:
    """Return the tokens trained so far; 0 if unknown."""
    for metric in status.get("metrics") or ():
        if metric.get("name") == "num_tokens":
            return int(decimal_or_zero(metric.get("value")))
    return 0


def _number(text: str) -> float | None:
    """Return a number that can be compared; None for everything else."""
    try:
        value = float(text) if text else math.nan
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _loss(text: str) -> float:
    """Return a loss; a text that is no number is NaN."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def _conditions(job: Object) -> Any:
    return (job.get("status") or {}).get("conditions")
