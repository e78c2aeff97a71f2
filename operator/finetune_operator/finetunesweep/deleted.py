"""The counts of deleted trials: deleting a trial does not return its share of a limit.

The operator remembers what such a job used. After a restart only the status has it, so the numbers
in the status never fall.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Any

from finetune_api.names import trial_name
from finetune_operator.finetunejob.state.gpu_time import decimal_or_zero
from finetune_operator.finetunesweep.draft import SweepDraft
from finetune_operator.finetunesweep.trials.observed import Observed
from finetune_operator.finetunesweep.trials.trial import sum_of_hours

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Deleted:
    """The trials of a sweep that were deleted.

    Attributes:
        numbers: Their numbers. A number is never used again; a job that returns is no trial.
        gpu_hours: GPU hours that all of them used.
        tokens: Tokens that all of them used.
    """

    numbers: frozenset[int] = frozenset()
    replicates: frozenset[int] = frozenset()
    gpu_hours: Decimal = Decimal(0)
    tokens: int = 0

    def to_wire(self) -> Object:
        """Return what the status has of them."""
        return {
            "numbers": sorted(self.numbers),
            "replicates": sorted(self.replicates),
            "gpuHours": str(self.gpu_hours),
            "tokens": self.tokens,
        }


def read_deleted(told: Object | None) -> Deleted:
    """Read ``status.deleted`` of a sweep."""
    told = told or {}
    return Deleted(
        numbers=frozenset(told.get("numbers") or ()),
        replicates=frozenset(told.get("replicates") or ()),
        gpu_hours=decimal_or_zero(told.get("gpuHours")),
        tokens=int(told.get("tokens") or 0),
    )


def count_deleted(observed: Observed, draft: SweepDraft, now: datetime) -> Deleted:
    """Return all deleted trials with their use: those of the status and the new ones.

    Args:
        observed: The snapshot, with the numbers that a live read did not find.
        draft: The status as it is stored.
        now: The present.
    """
    told = read_deleted(draft.get("deleted"))
    new = observed.missing - told.numbers
    if not new:
        return told
    seen = {number: observed.last_seen[number] for number in new if number in observed.last_seen}
    gpu_hours = told.gpu_hours + sum((each.hours_until(now) for each in seen.values()), Decimal(0))
    if len(seen) < len(new):
        there = [trial for trial in observed.trials if trial.number not in told.numbers]
        gpu_hours = max(gpu_hours, draft.stored_gpu_hours - sum_of_hours(there, now))
    names = {number: trial_name(observed.name, number) for number in new}
    tokens = sum(
        max(seen[number].tokens if number in seen else 0, draft.stored_tokens(name))
        for number, name in names.items()
    )
    # The search is over when replicates begin: a trial with a higher number is a replicate.
    known = {trial.number for trial in observed.trials if trial.replicate_of is not None}
    known |= told.replicates | {number for number, each in seen.items() if each.is_replicate}
    known |= {number for number, name in names.items() if draft.is_stored_replicate(name)}
    first = min(known, default=max(new) + 1)
    return replace(
        told,
        numbers=told.numbers | new,
        replicates=told.replicates | {number for number in new if number >= first},
        gpu_hours=gpu_hours,
        tokens=told.tokens + tokens,
    )
