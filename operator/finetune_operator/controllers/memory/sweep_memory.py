"""What the operator remembers of a FineTuneSweep between two looks at it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from finetune_api.v1alpha1.finetunesweep import FineTuneSweep, FineTuneSweepSpec
from finetune_operator.finetunejob.state.observed import Refusal
from finetune_operator.finetunesweep.deleted import read_deleted
from finetune_operator.finetunesweep.trials.observed import find_own, read_trials
from finetune_operator.finetunesweep.trials.trial import Trial
from finetune_operator.kube.api.resource import Object


@dataclass(slots=True)
class SweepMemory:
    """State of a sweep between two reconciles; losing it only costs requests.

    Attributes:
        generation: Generation of the spec in ``parsed`` and ``problem``.
        parsed: The sweep, validated; None if ``problem`` is set.
        problem: Cause for which the spec cannot be read.
        missing: Trials that a live read did not find.
        seen: Trials as they were seen last, by number.
        refusal: Cause for which the API server did not create a trial.
        refused_until: Monotonic time of the next try.
        judged: By UID, whether large jobs that no status has counted are trials.
    """

    generation: int = -1
    parsed: FineTuneSweep | None = None
    problem: str = ""
    missing: frozenset[int] = frozenset()
    seen: dict[int, Trial] = field(default_factory=dict)
    num_created: int = 0
    refusal: Refusal | None = None
    refused_until: float = 0.0
    judged: dict[str, bool] = field(default_factory=dict)

    def own_trials(
        self, sweep: Object, jobs: Iterable[Object], spec: FineTuneSweepSpec | None
    ) -> tuple[tuple[Trial, ...], Trial | None]:
        """Return the trials among FineTuneJobs, and the first that must be read to decide."""
        status = sweep.get("status") or {}
        counts = status.get("counts") or {}
        return find_own(
            read_trials(jobs, sweep["metadata"]["uid"], spec),
            sweep,
            spec,
            num_created=max(int(counts.get("created") or 0), self.num_created),
            deleted=read_deleted(status.get("deleted")).numbers,
            uids={number: trial.uid for number, trial in self.seen.items()},
            judged=self.judged,
        )
