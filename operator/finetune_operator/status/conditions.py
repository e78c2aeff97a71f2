"""Condition types and reasons, and changes of a list of conditions.

Types and reasons are part of the API: scripts compare them.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any


class ConditionType(StrEnum):
    """What a condition is about."""

    ACCEPTED = "Accepted"
    AVAILABLE = "Available"
    VERIFIED = "Verified"
    PROGRESSING = "Progressing"
    DEGRADED = "Degraded"
    DRIFTED = "Drifted"
    RECORDED = "Recorded"
    READY = "Ready"
    DATASET_READY = "DatasetReady"
    DATA_APPROVED = "DataApproved"
    QUOTA_RESERVED = "QuotaReserved"
    TRAINING = "Training"
    EVALUATED = "Evaluated"
    GOAL_MET = "GoalMet"
    PUBLISHED = "Published"
    WITHIN_BUDGET = "WithinBudget"
    SUSPENDED = "Suspended"
    STALLED = "Stalled"
    COMPLETE = "Complete"
    FAILED = "Failed"
    PRUNED = "Pruned"


TERMINAL = (ConditionType.COMPLETE, ConditionType.FAILED, ConditionType.PRUNED)
"""One of them is true of an object that has reached its end."""


class Reason(StrEnum):
    """Why a condition holds or does not. Failure classes and pod reasons may stand there too."""

    # Accepted
    VALID = "Valid"
    INVALID_SPEC = "InvalidSpec"
    INVALID_STATUS = "InvalidStatus"
    INVALID_TEMPLATE = "InvalidTemplate"
    URI_NOT_ALLOWED = "URINotAllowed"
    ENDPOINT_NOT_ALLOWED = "EndpointNotAllowed"
    TRACKER_NOT_ALLOWED = "TrackerNotAllowed"
    REMOTE_CODE_NOT_ALLOWED = "RemoteCodeNotAllowed"
    RESERVED_NAME = "ReservedName"
    JUDGE_NOT_ALLOWED = "JudgeNotAllowed"
    ENGINE_NOT_ALLOWED = "EngineNotAllowed"
    RED_TEAM_NOT_ALLOWED = "RedTeamNotAllowed"
    CUSTOM_METRIC_NOT_ALLOWED = "CustomMetricNotAllowed"
    MODEL_DOWNLOAD_NOT_ALLOWED = "ModelDownloadNotAllowed"
    IMAGE_NOT_ALLOWED = "ImageNotAllowed"
    SERVICE_ACCOUNT_NOT_ALLOWED = "ServiceAccountNotAllowed"
    NODE_SELECTOR_NOT_ALLOWED = "NodeSelectorNotAllowed"
    MOUNT_NOT_ALLOWED = "MountNotAllowed"
    ENVIRONMENT_NOT_ALLOWED = "EnvironmentNotAllowed"
    LABEL_NOT_ALLOWED = "LabelNotAllowed"
    ANNOTATION_NOT_ALLOWED = "AnnotationNotAllowed"
    TOLERATION_NOT_ALLOWED = "TolerationNotAllowed"
    PRIORITY_CLASS_NOT_ALLOWED = "PriorityClassNotAllowed"
    RUNTIME_CLASS_NOT_ALLOWED = "RuntimeClassNotAllowed"
    SCHEDULER_NOT_ALLOWED = "SchedulerNotAllowed"
    EXTRA_RESOURCE_NOT_ALLOWED = "ExtraResourceNotAllowed"
    RESOURCE_CLAIM_NOT_ALLOWED = "ResourceClaimNotAllowed"
    CAPABILITY_NOT_ALLOWED = "CapabilityNotAllowed"
    PRICE_NOT_SET = "PriceNotSet"
    LICENCE_NOT_ALLOWED = "LicenceNotAllowed"
    REQUESTER_NOT_NAMED = "RequesterNotNamed"
    TRAFFIC_NOT_CAPTURED = "TrafficNotCaptured"
    # stages
    PREPARING = "Preparing"
    PREPARED = "Prepared"
    TAKEN_OVER = "TakenOver"
    WAITING_FOR_PODS = "WaitingForPods"
    PODS_NOT_CREATED = "PodsNotCreated"
    POD_NOT_ENDING = "PodNotEnding"
    WAITING_FOR_QUOTA = "WaitingForQuota"
    QUEUED = "Queued"
    RUNNING = "Running"
    NO_RECENT_PROGRESS = "NoRecentProgress"
    EVALUATING = "Evaluating"
    PUBLISHING = "Publishing"
    RETRYING = "Retrying"
    SUCCEEDED = "Succeeded"
    RESULT_NOT_REPORTED = "ResultNotReported"
    RESULT_REFUSED = "ResultRefused"
    JOB_DELETED = "JobDeleted"
    # approval of the data
    APPROVAL_REQUIRED = "ApprovalRequired"
    OTHER_DATA_APPROVED = "OtherDataApproved"
    APPROVALS_NOT_READ = "ApprovalsNotRead"
    APPROVED_BY_REQUESTER = "ApprovedByRequester"
    APPROVED = "Approved"
    DATA_REJECTED = "DataRejected"
    # a child that the API server does not create
    NAME_TAKEN = "NameTaken"
    NODE_LOST = "NodeLost"
    NODES_RELEASED = "NodesReleased"
    OUTAGE = "Outage"
    ADMISSION_DENIED = "AdmissionDenied"
    WEBHOOK_UNAVAILABLE = "WebhookUnavailable"
    API_SERVER_ERROR = "APIServerError"
    FORBIDDEN = "Forbidden"
    INVALID = "Invalid"
    # quota
    NOT_MANAGED_BY_KUEUE = "NotManagedByKueue"
    KUEUE_NOT_INSTALLED = "KueueNotInstalled"
    QUOTA_RESERVED = "QuotaReserved"
    MULTIKUEUE = "MultiKueue"
    # suspension
    SUSPENDED_BY_USER = "SuspendedByUser"
    RESUMED = "Resumed"
    PREEMPTED = "Preempted"
    DEACTIVATED = "Deactivated"
    REACTIVATED = "Reactivated"
    # cost estimate
    WITHIN_BUDGET = "WithinBudget"
    ESTIMATE_EXCEEDS_BUDGET = "EstimateExceedsBudget"
    BUDGET_TOO_SMALL = "BudgetTooSmall"
    # selection among several
    HELD_AFTER_TRAINING = "HeldAfterTraining"
    PRUNE_REQUESTED = "PruneRequested"
    # end
    EVALUATED = "Evaluated"
    GOAL_REACHED = "GoalReached"
    GOAL_NOT_MET = "GoalNotMet"
    GATES_NOT_MET = "GatesNotMet"
    PUBLISHED = "Published"
    # publication that a person decided on
    REVIEW_REQUIRED = "ReviewRequired"
    PUBLICATION_APPROVAL_REQUIRED = "PublicationApprovalRequired"
    PUBLICATION_REJECTED = "PublicationRejected"
    OVERRIDDEN = "Overridden"
    PUBLISHING_FAILED = "PublishingFailed"
    # sweeps
    INVALID_TRIAL = "InvalidTrial"
    SEARCHING = "Searching"
    REPLICATING = "Replicating"
    BUDGET_REACHED = "BudgetReached"
    NO_TRIAL_TRAINED = "NoTrialTrained"
    NOT_SCORED = "NotScored"
    TRIAL_DELETED = "TrialDeleted"
    # endpoints
    SERVING = "Serving"
    NO_VERSION = "NoVersion"
    JOB_NOT_FOUND = "JobNotFound"
    FRONT_NOT_READY = "FrontNotReady"
    SERVER_NOT_READY = "ServerNotReady"
    PODS_MISSING = "PodsMissing"
    PODS_REFUSE = "PodsRefuse"
    NOT_REPORTED = "NotReported"
    MOVING = "Moving"
    WAITS_FOR_TURN = "WaitsForTurn"
    MOVE_REFUSED = "MoveRefused"
    MOVE_STUCK = "MoveStuck"
    FETCHING = "Fetching"
    LOADING = "Loading"
    VERIFYING = "Verifying"
    FEW_QUESTIONS = "FewQuestions"
    VERIFIED = "Verified"
    VERSION_REJECTED = "VersionRejected"
    VERSION_NOT_FOUND = "VersionNotFound"
    DECISIONS_UNREAD = "DecisionsUnread"
    RECORDED = "Recorded"
    RESTORED = "Restored"
    ROLLING_OUT = "RollingOut"
    HELD = "Held"
    UNDECIDED = "Undecided"
    UP_TO_DATE = "UpToDate"
    AS_WANTED = "AsWanted"
    WORSE = "Worse"
    TRIPPED = "Tripped"
    NO_DRIFT = "NoDrift"
    NO_COMPARISON = "NoComparison"
    TOO_FEW_USERS = "TooFewUsers"
    LOOK_FAILED = "LookFailed"
    NOT_MONITORED = "NotMonitored"
    LOOKS_TOO_FREQUENT = "LooksTooFrequent"
    QUALITY_BELOW_GOAL = "QualityBelowGoal"
    # schedules
    WAITING_FOR_TRIGGER = "WaitingForTrigger"
    CYCLE_RUNNING = "CycleRunning"
    COOLING_DOWN = "CoolingDown"
    BACKOFF = "Backoff"
    TOO_FREQUENT = "TooFrequent"
    FEW_LOOKS_LEFT = "FewLooksLeft"
    TOO_MANY_SCHEDULES = "TooManySchedules"
    TOO_MANY_JOBS = "TooManyJobs"
    TOO_MANY_ENDPOINTS = "TooManyEndpoints"
    BUDGET_SPENT = "BudgetSpent"
    ENDPOINT_NOT_FOUND = "EndpointNotFound"
    INVALID_SCHEDULE = "InvalidSchedule"


MIN_YEAR, MAX_YEAR = 1970, 2999
"""Years of timestamps that are read."""
MESSAGE_CHARACTERS = 1024
"""Bound of a condition message in the schema."""


MOVE_REASONS = (Reason.MOVE_REFUSED, Reason.MOVE_STUCK)
"""Why an active version cannot move to its new server."""


def timestamp(moment: datetime) -> str:
    """Format a time as the API server does: UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str | None) -> datetime | None:
    """Parse an API timestamp, with or without fractions of a second; None if absent or invalid.

    A time at the edge of the datetime range is invalid, because results would exceed it.
    """
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if not MIN_YEAR <= moment.year <= MAX_YEAR:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def shorten(message: str, limit: int = MESSAGE_CHARACTERS) -> str:
    """Cut a message to what the schema holds."""
    return message if len(message) <= limit else message[: limit - 3] + "..."


def find_condition(conditions: Iterable[Any] | None, kind: str) -> dict[str, Any] | None:
    """Return the condition of this type, or None."""
    for condition in conditions or ():
        if condition.get("type") == kind:
            found: dict[str, Any] = condition
            return found
    return None


def is_true(conditions: Iterable[Any] | None, kind: str) -> bool:
    """Return whether the condition of this type is there and ``True``."""
    found = find_condition(conditions, kind)
    return found is not None and found.get("status") == "True"


def is_terminal(status: dict[str, Any] | None) -> bool:
    """Return whether a FineTuneJob has reached its end; it is never run again."""
    conditions = (status or {}).get("conditions")
    return any(is_true(conditions, kind) for kind in TERMINAL)


_ORDER = {kind.value: index for index, kind in enumerate(ConditionType)}


class Conditions:
    """The conditions of one new status.

    Starts from the present ones; a type that is not set again stays as it was.
    """

    def __init__(
        self, present: Iterable[Any] | None, *, generation: int | None, now: datetime
    ) -> None:
        self._by_type: dict[str, dict[str, Any]] = {item["type"]: item for item in present or ()}
        self._generation = generation
        self._now = timestamp(now)

    def set(self, kind: ConditionType, status: str | bool, reason: str, message: str = "") -> None:
        """Set a condition; ``lastTransitionTime`` changes only when the status flips."""
        if isinstance(status, bool):
            status = "True" if status else "False"
        before = self._by_type.get(kind)
        since = self._now
        if before is not None and before.get("status") == status:
            since = before["lastTransitionTime"]
        condition: dict[str, Any] = {
            "type": kind.value,
            "status": status,
            "reason": str(reason)[:63],
            "message": shorten(message),
            "lastTransitionTime": since,
        }
        if self._generation is not None:
            condition["observedGeneration"] = self._generation
        self._by_type[kind.value] = condition

    def get(self, kind: ConditionType) -> dict[str, Any] | None:
        """Return the condition as it stands."""
        return self._by_type.get(kind)

    def status_of(self, kind: ConditionType) -> str | None:
        """Return ``True``, ``False``, ``Unknown`` or None."""
        found = self._by_type.get(kind)
        return None if found is None else found["status"]

    def reason_of(self, kind: ConditionType) -> str | None:
        """Return the reason, or None."""
        found = self._by_type.get(kind)
        return None if found is None else found["reason"]

    def to_wire(self) -> list[dict[str, Any]]:
        """Return the list in the order of the types, which is the order of the life cycle."""
        return sorted(self._by_type.values(), key=lambda item: _ORDER.get(item["type"], 99))
