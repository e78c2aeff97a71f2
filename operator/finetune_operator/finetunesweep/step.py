"""One step of a sweep's life: what it is planned from, and what has been decided so far."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal

from finetune_api.names import trial_name
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunesweep.actions import Action, ConfirmMissing, PatchTrial, Plan
from finetune_operator.finetunesweep.deleted import count_deleted
from finetune_operator.finetunesweep.draft import SweepDraft
from finetune_operator.finetunesweep.trials.checking import Fault
from finetune_operator.finetunesweep.trials.observed import Observed
from finetune_operator.finetunesweep.trials.trial import Trial, sum_of_hours
from finetune_operator.status.conditions import ConditionType, Reason, shorten, timestamp


class Step:
    """State that the parts of one plan share.

    Attributes:
        observed: The snapshot; read only.
        now: The present; read only.
        config: The administrator's settings; read only.
        first: Reads and writes of trials.
        chosen: The trial that was chosen, or None.
        waiting: Numbers of trials that wait at a rung for others.
        rung: Step at which they wait.
        fault: Cause for which this cluster refuses the next trial, or None.
        is_judged: Whether a trial came to a step at which it is compared with others.
        under_way: Phase of a running sweep.
        requeue_after: Look again after this many seconds, or None.
    """

    def __init__(self, observed: Observed, now: datetime, config: OperatorConfig) -> None:
        self.observed = observed
        self.now = now
        self.config = config
        self.draft = SweepDraft(observed.sweep, now)
        self.deleted = count_deleted(observed, self.draft, now)
        self.first: list[Action] = []
        self.chosen: Trial | None = None
        self.waiting: frozenset[int] = frozenset()
        self.rung = 0
        self.fault: Fault | None = None
        self.is_judged = False
        self.under_way = "Searching"
        self.requeue_after: float | None = None

    @property
    def trials(self) -> tuple[Trial, ...]:
        """The present trials and replicates, without those recorded as deleted."""
        gone = self.deleted.numbers
        return tuple(trial for trial in self.observed.trials if trial.number not in gone)

    @property
    def searched(self) -> tuple[Trial, ...]:
        """The trials of the search."""
        return tuple(trial for trial in self.trials if trial.replicate_of is None)

    @property
    def numbers(self) -> set[int]:
        """Numbers of all trials that were ever created."""
        return {trial.number for trial in self.trials} | self.deleted.numbers

    @property
    def searched_numbers(self) -> set[int]:
        """Numbers of the trials of the search that were ever created."""
        replicates = {t.number for t in self.trials if t.replicate_of is not None}
        return self.numbers - replicates - self.deleted.replicates

    @property
    def is_all_created(self) -> bool:
        """Whether the search begins no more trials."""
        has_replicates = len(self.searched) < len(self.trials) or self.deleted.replicates
        return bool(has_replicates) or len(self.numbers) >= self.observed.spec.num_trials

    @property
    def num_free_places(self) -> int:
        """How many trials more may be under way at once."""
        return self.observed.spec.parallelism - sum(
            trial.is_under_way and not self.rests(trial) for trial in self.trials
        )

    def halves(self, trial: Trial) -> bool:
        """Whether a trial is one that waits at rungs: whether it is suspended is up to them."""
        return trial.replicate_of is None and self.observed.spec.stopping_method == "Halving"

    def rests(self, trial: Trial) -> bool:
        """Whether a trial has stopped at a rung, and holds neither pods nor a place."""
        return trial.is_suspended and trial.state == "Suspended" and self.halves(trial)

    @property
    def next_number(self) -> int:
        """Number of the next trial: none is given twice."""
        return max(self.numbers | {self.num_created}, default=0) + 1

    @property
    def gpu_hours(self) -> Decimal:
        """What all trials have used; a run that is cut short or deleted takes nothing back."""
        used = sum_of_hours(self.trials, self.now) + self.deleted.gpu_hours
        return max(used, self.draft.stored_gpu_hours)

    @property
    def num_created(self) -> int:
        """The highest number that the status or this process knows to be given."""
        return max(self.draft.num_created, self.observed.num_created)

    @property
    def is_settled(self) -> bool:
        """Whether no trial trains; a trial that is being stopped does not count."""
        return not any(trial.is_under_way and not trial.is_pruned for trial in self.trials)

    def look_again(self, seconds: float) -> None:
        """Plan again after so many seconds, or earlier if that was asked for before."""
        before = self.requeue_after
        self.requeue_after = seconds if before is None else min(before, seconds)

    def patch(self, trial: Trial, **spec: object) -> None:
        """Change what steers a trial."""
        version = str(trial.job["metadata"]["resourceVersion"])
        action = PatchTrial(name=trial.name, uid=trial.uid, version=version, spec=dict(spec))
        self.first.append(action)

    def prune_under_way(self) -> None:
        """End every trial that still trains, or would; what is trained waits for the choice."""
        for trial in self.trials:
            if trial.is_under_way and not trial.is_pruned:
                self.patch(trial, prune=True)

    def prune_returned(self) -> None:
        """End jobs that return under the number of a deleted trial; they are not counted."""
        for trial in self.observed.trials:
            is_back = trial.number in self.deleted.numbers
            if is_back and trial.is_under_way and not trial.is_pruned:
                self.patch(trial, prune=True)

    def prune_all_but(self, kept: Trial | None) -> None:
        """End every trial that has not ended, but one."""
        for trial in self.trials:
            has_ended = trial.state in ("Pruned", "Failed", "Published")
            if trial is not kept and not (has_ended or trial.is_pruned or trial.is_released):
                self.patch(trial, prune=True)

    def confirm_missing(self) -> bool:
        """Request a live read of created trials that are not in the cache.

        The cache may be older than the status. Returns whether there are any.
        """
        unseen = set(range(1, self.num_created + 1)) - self.numbers
        name = self.observed.name
        self.first += [
            ConfirmMissing(number=number, name=trial_name(name, number))
            for number in sorted(unseen)
        ]
        return bool(unseen)

    def fail(self, reason: str, message: str) -> None:
        """End the sweep: terminal, whatever comes after; trials that still run are ended first."""
        self.prune_all_but(None)
        text = shorten(message)
        conditions = self.draft.conditions
        conditions.set(ConditionType.PROGRESSING, False, reason, text)
        conditions.set(ConditionType.STALLED, True, reason, text)
        conditions.set(ConditionType.FAILED, True, reason, text)
        self.draft.put("completionTime", timestamp(self.now))
        self.draft.announce(reason, text, warning=True)

    def complete(self, message: str) -> None:
        """End the sweep with a published version."""
        conditions = self.draft.conditions
        conditions.set(ConditionType.PROGRESSING, False, Reason.PUBLISHED, message)
        conditions.set(ConditionType.PUBLISHED, True, Reason.PUBLISHED, message)
        conditions.set(ConditionType.COMPLETE, True, Reason.PUBLISHED, message)
        self.draft.put("completionTime", timestamp(self.now))
        self.draft.announce("Published", message)

    def to_plan(self) -> Plan:
        """Return what was decided: trials first, and the status once they are as they shall be."""
        if self.first:
            return Plan(first=tuple(self.first))
        return Plan(
            status=self.draft.to_wire(is_judged=self.is_judged),
            events=tuple(self.draft.events),
            requeue_after=self.requeue_after,
        )
