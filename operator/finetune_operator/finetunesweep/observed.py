"""What is known of one FineTuneSweep at one moment: a frozen snapshot of caches."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from finetune_api.meta import SWEEP_KIND
from finetune_api.names import SWEEP_LABEL, Owner
from finetune_api.v1alpha1.finetunesweep import FineTuneSweep, FineTuneSweepSpec
from finetune_api.v1alpha1.objective import VALIDATION_LOSS, metric_of
from finetune_operator.finetunejob.observed import Refusal
from finetune_operator.finetunesweep.trials import Trial, read_trial

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
        refusal: Why the API server did not create the next trial.
    """

    sweep: Object
    parsed: FineTuneSweep | None
    problem: str = ""
    trials: tuple[Trial, ...] = ()
    missing: frozenset[int] = frozenset()
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
        jobs: FineTuneJobs that are labelled with the sweep's name.
        uid: UID of the sweep: those of another owner are none of its trials.
        spec: Its spec, which names what is varied and compared; None if that cannot be read.
    """
    paths = tuple(parameter.path for parameter in spec.parameters) if spec is not None else ()
    metric = metric_of(spec) if spec is not None else VALIDATION_LOSS
    found = (read_trial(job, paths, metric) for job in jobs if owner_uid(job) == uid)
    return tuple(sorted((each for each in found if each), key=lambda trial: trial.number))


def owner_uid(job: Object) -> str:
    """Return the UID of the controller of a FineTuneJob; empty if it has none."""
    for owner in job["metadata"].get("ownerReferences") or ():
        if owner.get("controller"):
            return str(owner.get("uid") or "")
    return ""


def sweep_of(job: Object) -> tuple[str, str] | None:
    """Return namespace and name of the sweep that a FineTuneJob is labelled with, or None."""
    metadata = job["metadata"]
    name = (metadata.get("labels") or {}).get(SWEEP_LABEL)
    return (metadata["namespace"], name) if name else None
