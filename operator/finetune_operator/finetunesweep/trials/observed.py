"""What is known of one FineTuneSweep at one moment: a frozen snapshot of caches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from finetune_api.meta import SWEEP_KIND
from finetune_api.names import Owner
from finetune_api.v1alpha1.evaluation.objective import VALIDATION_LOSS, metric_of
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep, FineTuneSweepSpec
from finetune_api.v1alpha1.spec.sweep_parameters import SEED_PATH
from finetune_operator.finetunejob.state.excerpts import is_whole
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetunesweep.search.space import Value
from finetune_operator.finetunesweep.trials.rendering import (
    has_recipe,
    render_recipe,
    scoring_of,
    with_seed,
)
from finetune_operator.finetunesweep.trials.searching import values_of
from finetune_operator.finetunesweep.trials.trial import (
    Trial,
    read_trial,
    sweep_owner,
    value_at,
)

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Observed:
    """Snapshot of a FineTuneSweep and its trials.

    Attributes:
        parsed: The validated sweep; None if ``problem`` is set.
        problem: Cause for which the spec cannot be read.
        trials: Its trials by rising number, without those of a deleted sweep of the same name.
        missing: Numbers of trials that are gone, confirmed by a live read.
        gone: The missing trials that this process has seen, in their last state.
        num_created: The highest number that this process has given, whatever the status contains.
        refusal: Cause for which the API server did not create the next trial.
    """

    sweep: Object
    parsed: FineTuneSweep | None
    problem: str = ""
    trials: tuple[Trial, ...] = ()
    missing: frozenset[int] = frozenset()
    gone: tuple[Trial, ...] = ()
    num_created: int = 0
    refusal: Refusal | None = None

    @property
    def name(self) -> str:
        """Name of the FineTuneSweep."""
        return str(self.sweep["metadata"]["name"])

    @property
    def namespace(self) -> str:
        """Namespace of the FineTuneSweep."""
        return str(self.sweep["metadata"]["namespace"])

    @property
    def uid(self) -> str:
        """UID of the FineTuneSweep."""
        return str(self.sweep["metadata"]["uid"])

    @property
    def spec(self) -> FineTuneSweepSpec:
        """The spec of a sweep that can be read."""
        assert self.parsed is not None
        return self.parsed.spec

    @property
    def owner(self) -> Owner:
        """The FineTuneSweep as the owner of its trials."""
        return Owner(namespace=self.namespace, name=self.name, uid=self.uid, kind=SWEEP_KIND)


def read_trials(
    jobs: Iterable[Object], uid: str, spec: FineTuneSweepSpec | None
) -> tuple[Trial, ...]:
    """Return the trials among FineTuneJobs, by rising number.

    Args:
        jobs: FineTuneJobs that a sweep of this name controls.
        uid: UID of the sweep; jobs of another owner are no trials.
        spec: The sweep's spec; None if it cannot be read.
    """
    paths = tuple(parameter.path for parameter in spec.parameters) if spec is not None else ()
    metric = metric_of(spec) if spec is not None else VALIDATION_LOSS
    found = (read_trial(job, paths, metric) for job in jobs if owner_uid(job) == uid)
    trials = tuple(sorted((each for each in found if each), key=lambda trial: trial.number))
    return trials if spec is None else tuple(_without_claims(trials, spec))


def _without_claims(trials: tuple[Trial, ...], spec: FineTuneSweepSpec) -> Iterator[Trial]:
    """Yield trials with the number that they repeat, whatever their labels claim.

    A replicate has its own seed and the values of a searched trial; both are immutable. The label
    counts only where that trial is gone.
    """
    template = {"hyperparameters": {"seed": spec.template.hyperparameters.seed}}
    bases: dict[tuple[object, ...], int] = {}
    for trial in trials:
        values = tuple(trial.values.get(parameter.path) for parameter in spec.parameters)
        seed = with_seed(template, {}, trial.number)[SEED_PATH]
        if not spec.replicates or value_at(trial.job["spec"], SEED_PATH) != seed:
            bases.setdefault(values, trial.number)
            yield replace(trial, replicate_of=None)
        else:
            claimed = trial.replicate_of or trial.number
            base = bases.setdefault(values, min(claimed, trial.number))
            yield replace(trial, replicate_of=base)


def find_own(
    trials: Iterable[Trial],
    sweep: Object,
    spec: FineTuneSweepSpec | None,
    *,
    num_created: int,
    deleted: Collection[int],
    uids: Mapping[int, str],
    judged: Mapping[str, bool],
) -> tuple[tuple[Trial, ...], Trial | None]:
    """Return the trials that the operator can have created, without forged ones.

    A user who may create FineTuneJobs can name one as a trial and write the owner. A new trial of
    the operator has the next number and equals the rendered trial. A number whose job was seen
    belongs to that job.

    Args:
        trials: By rising number.
        sweep: The sweep as stored.
        spec: Its spec; None if it cannot be read, and then no new trial is accepted.
        num_created: The highest number that was given.
        deleted: Numbers of trials that were recorded as deleted.
        uids: UIDs of the jobs that were seen, by number.
        judged: By UID, whether jobs that are cached as excerpts are trials.

    Returns:
        The trials, and the first one that needs its whole spec to decide; None without any.
    """
    found: list[Trial] = []
    unread: Trial | None = None
    for trial in trials:
        seen = uids.get(trial.number)
        if seen is not None and seen != trial.uid:
            continue
        is_new = trial.number > num_created
        if seen is None and (is_new or trial.number in deleted):
            if spec is None or trial.number > num_created + 1:
                continue
            if is_whole(trial.job):
                is_own = _is_rendered(trial, sweep, spec, found, is_back=not is_new)
            else:
                is_own = judged.get(trial.uid, False)
                unread = unread or (None if trial.uid in judged else trial)
            if not is_own:
                continue
        num_created += is_new
        found.append(trial)
    return tuple(found), unread


def _is_rendered(
    trial: Trial,
    sweep: Object,
    spec: FineTuneSweepSpec,
    before: Sequence[Trial],
    *,
    is_back: bool,
) -> bool:
    """Return whether a job equals the rendered trial of its number.

    Args:
        trial: The job, with its whole spec.
        sweep: The sweep as stored.
        spec: Its spec.
        before: The trials of lower numbers.
        is_back: Whether its number was given before, and its job deleted.
    """
    template, uid = sweep["spec"]["template"], sweep["metadata"]["uid"]
    try:
        if trial.replicate_of is None:
            values = _searched_values(trial, spec, uid)
        elif is_back or _is_next_replicate(trial, spec, uid, before):
            values = with_seed(template, trial.values, trial.number)
        else:
            values = None
    except ValueError:
        return False  # such parameters are refused, and have no trials
    if values is None:
        return False
    wanted = render_recipe(
        template, values, scoring=scoring_of(spec), requested_by=spec.requested_by
    )
    return has_recipe(wanted, trial.job["spec"])


def _searched_values(trial: Trial, spec: FineTuneSweepSpec, uid: str) -> Mapping[str, Value] | None:
    """Return the values of a trial of the search; None if there is none of its number."""
    # The budget may have been lowered since.
    if trial.number > spec.model_copy(update={"budget": None}).num_trials:
        return None
    return values_of(spec, uid, trial.number)


def _is_next_replicate(
    trial: Trial, spec: FineTuneSweepSpec, uid: str, before: Sequence[Trial]
) -> bool:
    """Return whether the search is over, and a job repeats one of its trials."""
    searched = [each for each in before if each.replicate_of is None]
    if any(each.is_under_way and not each.is_pruned for each in searched):
        return False
    number = trial.number
    is_over = number > spec.num_trials or values_of(spec, uid, number) is None
    return is_over and any(each.values == trial.values for each in searched)


def owner_uid(job: Object) -> str:
    """Return the UID of the controller of a FineTuneJob; empty if it has none."""
    for owner in job["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("uid") or "")
    return ""


def sweep_of(job: Object) -> tuple[str, str] | None:
    """Return namespace and name of the sweep that controls a FineTuneJob, or None."""
    name = sweep_owner(job).get("name")
    return (job["metadata"]["namespace"], str(name)) if name else None
