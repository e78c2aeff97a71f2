"""The state of one stage, read off its Job and its pods."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from finetune_api.names import QUEUE_LABEL, run_of
from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.state.failure import problem_of_words, read_termination_message
from finetune_operator.finetunejob.state.observed import Observed
from finetune_operator.finetunejob.state.results import AnyResult, result_of_status
from finetune_operator.finetunejob.state.retry import active_seconds, past_active_seconds, run_began
from finetune_operator.finetunejob.state.trimmed import (
    TrimmedJob,
    TrimmedPod,
    completion_index,
    container_of,
)
from finetune_operator.status.conditions import (
    ConditionType,
    Reason,
    find_condition,
    is_true,
    parse_timestamp,
)

STAGES = tuple(Stage)
"""The stages in order: walked through in every plan, and an Enum makes a generator each time."""
RESULT_GRACE_SECONDS = 15.0
"""How long after the end of a Job its pods are waited for: two watches, two latencies."""


@dataclass(frozen=True, kw_only=True, slots=True)
class StageTraits:
    """What is said of a stage.

    Attributes:
        condition: The condition that tells of it.
        phase: The job's phase while it is under way.
        under_way_reason: Reason of the condition meanwhile.
        under_way: Its message; ``{job}`` stands for the name of the batch/v1 Job.
        needs_result: Whether the job's end rests on its result: without it, it runs again.
    """

    condition: ConditionType
    phase: str
    under_way_reason: Reason
    under_way: str
    needs_result: bool = False


TRAITS = {
    Stage.PREPARE: StageTraits(
        condition=ConditionType.DATASET_READY,
        phase="Preparing",
        under_way_reason=Reason.PREPARING,
        under_way="Job {job} reads, checks and divides the examples.",
    ),
    Stage.TRAIN: StageTraits(
        condition=ConditionType.TRAINING,
        phase="Training",
        under_way_reason=Reason.WAITING_FOR_PODS,
        under_way="Job {job}: pods are starting.",
    ),
    Stage.EVALUATE: StageTraits(
        condition=ConditionType.EVALUATED,
        phase="Evaluating",
        under_way_reason=Reason.EVALUATING,
        under_way="Job {job} compares base and tuned model.",
    ),
    Stage.PUBLISH: StageTraits(
        condition=ConditionType.PUBLISHED,
        phase="Publishing",
        under_way_reason=Reason.PUBLISHING,
        under_way="Job {job} reads evaluation and gates from storage, and publishes.",
        needs_result=True,
    ),
}


class StageState(StrEnum):
    """Where a stage is."""

    ABSENT = "Absent"
    SUSPENDED = "Suspended"
    WAITING = "Waiting"
    RUNNING = "Running"
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


@dataclass(frozen=True, kw_only=True, slots=True)
class StageView:
    """One stage as it is now.

    Attributes:
        stage: Which.
        state: Where it is.
        job: Its trimmed Job, or None.
        pods: Its trimmed pods, by name.
        result: Its result, from a termination message, or from the status once its pod is gone;
            None while unknown.
        problem: Why a result that arrived is not taken; empty where none did.
        ended_at: When the Job ended.
        failure_reason: Reason the Job controller gave, when it failed.
        failure_message: Message the Job controller gave.
        active_seconds: Running time over all attempts, in seconds.
        past_seconds: The part of it that was over at the last pause.
    """

    stage: Stage
    state: StageState
    job: TrimmedJob | None
    pods: tuple[TrimmedPod, ...]
    result: AnyResult | None
    problem: str = ""
    ended_at: datetime | None = None
    failure_reason: str = ""
    failure_message: str = ""
    active_seconds: int = 0
    past_seconds: int = 0

    @property
    def run(self) -> int:
        """Which run of the stage its Job is; 0 without one."""
        return 0 if self.job is None else run_of(self.job["metadata"]["name"])

    @property
    def num_pods(self) -> int:
        """How many pods an attempt of it has."""
        return 0 if self.job is None else self.job["spec"].get("completions") or 1

    @property
    def has_peers(self) -> bool:
        """Whether an attempt of it has several pods."""
        return self.num_pods > 1

    @property
    def run_began(self) -> datetime | None:
        """When its Job began, or began again after a pause; None before it does."""
        return None if self.job is None else run_began(self.job)

    @property
    def youngest_began(self) -> datetime | None:
        """When the youngest pod that runs was started; None while none is known to run."""
        running = [state for pod in self.pods if (state := container_of(pod).get("running"))]
        started = [moment for each in running if (moment := parse_timestamp(each.get("startedAt")))]
        return max(started, default=None)

    @property
    def first_ran(self) -> datetime | None:
        """When the first of the containers that are known ran; None if none did."""
        states = [container_of(pod) for pod in self.pods]
        begun = [
            parse_timestamp(
                (state.get("running") or state.get("terminated") or {}).get("startedAt")
            )
            for state in states
        ]
        return min((moment for moment in begun if moment is not None), default=None)

    @property
    def is_stoppable(self) -> bool:
        """Whether there is a Job that still runs, or would; not one that has only to be counted."""
        return self.state in (StageState.WAITING, StageState.RUNNING) and not self.is_ending

    @property
    def is_ending(self) -> bool:
        """Whether all its ranks have succeeded, and the Job controller has yet to say so."""
        is_running = self.state is StageState.RUNNING
        return is_running and _num_succeeded(self.pods) >= self.num_pods

    @property
    def is_stopped(self) -> bool:
        """Whether the Job controller has stopped the pods of its suspended Job, and says so."""
        return self.job is not None and is_true(self.job["status"].get("conditions"), "Suspended")

    @property
    def has_ended(self) -> bool:
        """Whether its Job is over, for good or for bad."""
        return self.state in (StageState.SUCCEEDED, StageState.FAILED)

    def is_settled(self, now: datetime) -> bool:
        """Return whether the pods of an ended Job need not be waited for any longer."""
        if self.state is StageState.SUCCEEDED and self.result is not None:
            return True
        if self.state is StageState.FAILED and any(
            pod["status"]["phase"] == "Failed" for pod in self.pods
        ):
            return True
        if self.ended_at is None:
            return True
        return (now - self.ended_at).total_seconds() >= RESULT_GRACE_SECONDS


def view_stage(observed: Observed, stage: Stage, now: datetime) -> StageView:
    """Read the state of a stage off the snapshot."""
    job = observed.jobs.get(stage)
    # Caches have them in no order: of several that fail or wait the same one is always told.
    pods = tuple(sorted(observed.pods.get(stage, ()), key=lambda pod: pod["metadata"]["name"]))
    result = _result_of(pods, stage) or result_of_status(observed.job.get("status"), stage)
    if job is None:
        return StageView(stage=stage, state=StageState.ABSENT, job=None, pods=pods, result=result)
    problem = "" if result is not None else _problem_of(pods)
    queue = observed.queue.get(stage)
    past = max(past_active_seconds(job), _recorded_seconds(observed, job, stage))
    if queue is not None:
        past = max(past, queue.past_active_seconds)
    conditions = job["status"].get("conditions")
    failed = find_condition(conditions, "Failed")
    reason = message = ""
    ended_at: datetime | None = None
    if is_true(conditions, "Complete"):
        state = StageState.SUCCEEDED
        complete = find_condition(conditions, "Complete") or {}
        ended_at = parse_timestamp(
            job["status"].get("completionTime") or complete.get("lastTransitionTime")
        )
    elif failed is not None and failed.get("status") == "True":
        state = StageState.FAILED
        reason, message = failed.get("reason") or "", failed.get("message") or ""
        ended_at = parse_timestamp(failed.get("lastTransitionTime"))
    elif job["spec"]["suspend"]:
        state = StageState.SUSPENDED
    elif job["status"].get("ready") or any(_is_running(pod) for pod in pods):
        state = StageState.RUNNING
    elif _num_succeeded(pods) >= (job["spec"].get("completions") or 1):
        state = StageState.RUNNING  # until the Job controller says that it is over
    else:
        state = StageState.WAITING
    return StageView(
        stage=stage,
        state=state,
        job=job,
        pods=pods,
        result=result,
        problem=problem,
        ended_at=ended_at,
        failure_reason=reason,
        failure_message=message,
        active_seconds=active_seconds(job, now, past=past),
        past_seconds=past,
    )


def _recorded_seconds(observed: Observed, job: TrimmedJob, stage: Stage) -> int:
    """Return the running time that the status records of a Job up to its last pause.

    The Job's annotation may be changed by others, and gives nothing back. Of a Job in a queue Kueue
    keeps it.
    """
    if QUEUE_LABEL in job["metadata"]["labels"]:
        return 0
    for entry in (observed.job.get("status") or {}).get("stages") or ():
        if entry["name"] == stage.value and entry.get("job") == job["metadata"]["name"]:
            return int(entry.get("pastSeconds") or 0)
    return 0


def _is_running(pod: TrimmedPod) -> bool:
    return pod["status"]["phase"] == "Running" and not pod["metadata"].get("deletionTimestamp")


def _num_succeeded(pods: tuple[TrimmedPod, ...]) -> int:
    """Return of how many ranks a pod has succeeded."""
    return len({completion_index(pod) for pod in pods if pod["status"]["phase"] == "Succeeded"})


def _result_of(pods: tuple[TrimmedPod, ...], stage: Stage) -> AnyResult | None:
    """Return the result in the termination message of the lowest rank that left one."""
    for pod in sorted(pods, key=completion_index):
        if pod["status"]["phase"] != "Succeeded":
            continue
        words = read_termination_message(pod)
        if words is not None and words.result is not None and words.result.stage == stage.value:
            return words.result
    return None


def _problem_of(pods: tuple[TrimmedPod, ...]) -> str:
    """Return why the result of the lowest rank that left one is not taken; empty if none did."""
    for pod in sorted(pods, key=completion_index):
        if pod["status"]["phase"] == "Succeeded" and (problem := problem_of_words(pod)):
            return problem
    return ""
