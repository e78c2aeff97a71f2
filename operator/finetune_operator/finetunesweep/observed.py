"""What is known of one FineTuneSweep at one moment: a frozen snapshot of caches."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from finetune_api.meta import SWEEP_KIND
from finetune_api.names import Owner
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep, FineTuneSweepSpec
from finetune_api.v1alpha1.objective import VALIDATION_LOSS, metric_of
from finetune_api.v1alpha1.sweep_parameters import SEED_PATH
from finetune_operator.finetunejob.observed import Refusal
from finetune_operator.finetunesweep.rendering import SCORING_PATH, is_rendered_from, with_seed
from finetune_operator.finetunesweep.trials import (
    LastSeen,
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
        sweep: The FineTuneSweep as stored.
        parsed: The same, validated; None if ``problem`` says why not.
        problem: Why the spec cannot be read.
        trials: Its trials by rising number; of a namesake that is gone, none.
        missing: Numbers of trials that are gone, confirmed by a live read.
        last_seen: What those had used, where this process has seen them.
        num_created: The highest number that this process has given, whatever the status says.
        refusal: Why the API server did not create the next trial.
    """

    sweep: Object
    parsed: FineTuneSweep | None
    problem: str = ""
    trials: tuple[Trial, ...] = ()
    missing: frozenset[int] = frozenset()
    last_seen: Mapping[int, LastSeen] = field(default_factory=dict)
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
        uid: UID of the sweep: those of another owner are none of its trials.
        spec: Its spec, which names what is varied and compared; None if that cannot be read.
    """
    paths = tuple(parameter.path for parameter in spec.parameters) if spec is not None else ()
    metric = metric_of(spec) if spec is not None else VALIDATION_LOSS
    found = (read_trial(job, paths, metric) for job in jobs if owner_uid(job) == uid)
    trials = tuple(sorted((each for each in found if each), key=lambda trial: trial.number))
    return trials if spec is None else tuple(_without_claims(trials, spec))


def _without_claims(trials: tuple[Trial, ...], spec: FineTuneSweepSpec) -> Iterator[Trial]:
    """Yield trials with what they repeat, whatever their labels claim.

    A replicate has a seed of its own, and the values of a trial of the search. Neither can be
    changed. The label only says of which, where that trial is gone.
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
    spec: Object,
    *,
    num_created: int,
    deleted: Collection[int],
    uids: Mapping[int, str],
) -> tuple[Trial, ...]:
    """Return the trials that the operator can have created, and leave out what others put there.

    Whoever may create FineTuneJobs can name one as a trial and write the owner. What the operator
    has created and not told yet has the next number, and the recipe of the template. A number whose
    job was seen belongs to that job.

    Args:
        trials: By rising number.
        spec: The sweep's spec as stored.
        num_created: The highest number that is known to be given.
        deleted: Numbers of trials that were told as deleted.
        uids: UIDs of the jobs that were seen, by number.
    """
    varied = {parameter["path"] for parameter in spec.get("parameters") or ()}
    varied |= {SEED_PATH, SCORING_PATH}
    found: list[Trial] = []
    for trial in trials:
        if uids.get(trial.number, trial.uid) != trial.uid:
            continue
        is_new = trial.number > num_created
        if is_new or trial.number in deleted:
            is_possible = trial.number <= num_created + 1
            if not is_possible or not is_rendered_from(spec["template"], trial.job["spec"], varied):
                continue
        num_created += is_new
        found.append(trial)
    return tuple(found)


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
