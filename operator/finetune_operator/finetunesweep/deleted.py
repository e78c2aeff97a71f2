"""The numbers of deleted trials, and what the status had counted of their use."""

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
        gpu_hours: GPU hours of all of them up to when each was missed. Of those that went while no
            operator ran, as the status had counted.
        tokens: Tokens of all of them, as the status had counted.
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
    """Return all deleted trials: those of the status and the new ones.

    Args:
        observed: The snapshot, with the numbers that a live read did not find.
        draft: The status as it is stored.
        now: The present.
    """
    told = read_deleted(draft.get("deleted"))
    new = observed.missing - told.numbers
    if not new:
        return told
    there = [trial for trial in observed.trials if trial.number not in told.numbers]
    left = draft.stored_gpu_hours - sum_of_hours(there, now)
    used = sum_of_hours((trial for trial in observed.gone if trial.number in new), now)
    tokens = int((draft.get("spent") or {}).get("tokens") or 0)
    tokens -= sum(max(trial.tokens, draft.stored_tokens(trial.name)) for trial in there)
    # The search is over when replicates begin: a trial with a higher number is a replicate.
    known = {trial.number for trial in observed.trials if trial.replicate_of is not None}
    known |= told.replicates
    known |= {n for n in new if draft.is_stored_replicate(trial_name(observed.name, n))}
    first = min(known, default=max(new) + 1)
    return replace(
        told,
        numbers=told.numbers | new,
        replicates=told.replicates | {number for number in new if number >= first},
        gpu_hours=max(told.gpu_hours + used, left),
        tokens=max(told.tokens, tokens),
    )
