"""One step of a job's life: what it is planned from, and what has been decided so far."""

from __future__ import annotations

from datetime import datetime
from typing import TypeVar

from finetune_api.v1alpha1.status.traffic import TrafficPlace
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.state.actions import CreateStage, Plan, Read, Write
from finetune_operator.finetunejob.state.decisions import POLICY, ApprovalPolicy
from finetune_operator.finetunejob.state.draft import JobDraft
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.results import AnyResult
from finetune_operator.finetunejob.state.stages import STAGES, StageView, view_stage
from finetune_operator.status.conditions import ConditionType

TRAFFIC_SECTION = "traffic"
"""Where the status keeps the places of ``traffic://`` sources."""

_R = TypeVar("_R", bound=AnyResult)


class Step:
    """What the rooms of a plan pass on to each other. Made for one plan and dropped after it.

    Attributes:
        observed: The snapshot; read only.
        now: The present; read only.
        config: The administrator's settings; read only.
        views: The stages as they are, in order; read only.
        draft: The status being built.
        first: Reads and creations whose outcome the status must tell.
        then: Writes that follow the status.
        current: The stage that is not over yet, once the walk has come to it.
        is_queued: Whether the present stage waits for Kueue.
        held_as: Phase of a job whose present stage is held back; empty for that of any other.
        held_in: The condition that says why it is held back.
        requeue_after: Look again after this many seconds, or None.
    """

    def __init__(self, observed: Observed, now: datetime, config: OperatorConfig) -> None:
        self.observed = observed
        self.now = now
        self.config = config
        self.views = tuple(view_stage(observed, stage, now) for stage in STAGES)
        self.draft = JobDraft(observed.job, now)
        self.first: list[Read | CreateStage] = []
        self.then: list[Write] = []
        self.current: StageView | None = None
        self.is_queued = False
        self.held_as = ""
        self.held_in: ConditionType | None = None
        self.requeue_after: float | None = None

    @property
    def approval_policy(self) -> ApprovalPolicy:
        """What the administrator asked about approvals when the job was accepted."""
        return ApprovalPolicy.of_status(self.draft.get(POLICY))

    @property
    def traffic(self) -> list[TrafficPlace]:
        """Where the answers of the job's sources ``traffic://`` lie, fixed when it was accepted."""
        return [TrafficPlace.model_validate(each) for each in self.draft.get(TRAFFIC_SECTION) or ()]

    def look_again(self, seconds: float) -> None:
        """Plan again after so many seconds, or earlier if that was asked for before."""
        before = self.requeue_after
        self.requeue_after = seconds if before is None else min(before, seconds)

    def result(self, kind: type[_R]) -> _R | None:
        """Return the result of this kind, of the last stage that brings it; None if unknown."""
        for view in reversed(self.views):
            if isinstance(view.result, kind):
                return view.result
        return None

    def to_plan(self) -> Plan:
        """Return what was decided; a job that has ended starts nothing."""
        return Plan(
            first=() if self.draft.has_ended else tuple(self.first),
            status=self.draft.to_wire(),
            events=tuple(self.draft.events),
            then=tuple(self.then),
            requeue_after=self.requeue_after,
        )
