"""The life of a FineTuneJob that has not ended: prepare, train, evaluate, publish.

One object lives for one plan. It walks the stages in order and stops at the first that is not
over; everything it decides lands in the draft of the status and in lists of actions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from finetune_api.trainer import (
    EvaluateResult,
    ExitCode,
    FailureClass,
    PrepareResult,
    Stage,
    TrainResult,
)
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.config import OperatorConfig
from finetune_operator.domain import results
from finetune_operator.domain.actions import (
    ActivateWorkload,
    ConfirmMissing,
    CreateStage,
    LookUpWarnings,
    PauseJob,
    Plan,
    ResumeJob,
)
from finetune_operator.domain.admission import find_violations
from finetune_operator.domain.conditions import (
    ConditionType,
    Reason,
    parse_timestamp,
    timestamp,
)
from finetune_operator.domain.draft import StatusDraft
from finetune_operator.domain.failure import (
    STUCK_SECONDS,
    Cause,
    cause_of_waiting,
    is_stuck,
    latest_cause,
    seconds_waiting,
)
from finetune_operator.domain.observed import Observed, Refusal
from finetune_operator.domain.phase import phase_of, reason_of
from finetune_operator.domain.retry import may_be_retried
from finetune_operator.domain.rounds import fruitless_rounds
from finetune_operator.domain.stages import STAGES, StageState, StageView, view_stage
from finetune_operator.render.config import render_config_map
from finetune_operator.render.job import backoff_limit_of, is_queued, render_job
from finetune_operator.render.names import PAUSED_ANNOTATION, child_job_name
from finetune_operator.render.pod import memory_of
from finetune_operator.render.service import render_service

Object = dict[str, Any]

SILENCE_SECONDS = 120.0
"""A stage that runs for so long without a progress push is told to be silent."""
QUEUE_GRACE_SECONDS = 60.0
"""How long a queued Job may be without a Workload before its queue is in doubt."""
RECHECK_SECONDS = 30.0
WARNING_SECONDS = 180.0
"""For how long the kubelet's warnings of a pod are believed; it repeats them every two minutes."""

CONDITION_OF = {
    Stage.PREPARE: ConditionType.DATASET_READY,
    Stage.TRAIN: ConditionType.TRAINING,
    Stage.EVALUATE: ConditionType.EVALUATED,
}
_UNDER_WAY = {
    Stage.PREPARE: (Reason.PREPARING, "Job {job} reads, checks and divides the examples."),
    Stage.TRAIN: (Reason.WAITING_FOR_PODS, "Job {job}: pods are starting."),
    Stage.EVALUATE: (Reason.EVALUATING, "Job {job} compares base and tuned model."),
}


def stop_actions(
    observed: Observed, views: Iterable[StageView]
) -> Iterator[PauseJob | ActivateWorkload]:
    """Yield what stops the pods of these stages: through Kueue where it owns the Job."""
    for view in views:
        if view.job is None or not view.is_stoppable:
            continue
        queue = observed.queue.get(view.stage)
        if queue is None:
            yield PauseJob(
                stage=view.stage,
                name=view.job["metadata"]["name"],
                active_seconds=view.active_seconds,
            )
        elif queue.is_active:
            yield ActivateWorkload(stage=view.stage, name=queue.workload, active=False)


def seconds_to_live(job: Object, ended: str | None, now: datetime) -> float | None:
    """Return the seconds until ``ttlSecondsAfterFinished`` is over; None if nothing is to be done.

    Args:
        job: The FineTuneJob; its spec may be unreadable.
        ended: When it reached its end.
        now: The present.
    """
    ttl = (job.get("spec") or {}).get("ttlSecondsAfterFinished")
    moment = parse_timestamp(ended)
    if not isinstance(ttl, int) or moment is None:
        return None
    return (moment + timedelta(seconds=ttl) - now).total_seconds()


class Lifecycle:
    """Plans one step of a job that has not ended."""

    def __init__(self, observed: Observed, now: datetime, config: OperatorConfig) -> None:
        self._observed = observed
        self._now = now
        self._config = config
        self._draft = StatusDraft(observed.job, now)
        self._views = [view_stage(observed, stage, now) for stage in STAGES]
        self._current: StageView | None = None
        self._is_queued = False
        self._failed = False
        self._is_unreadable = False
        self._first: list[CreateStage | ConfirmMissing | LookUpWarnings] = []
        self._then: list[PauseJob | ResumeJob | ActivateWorkload] = []
        self._requeue_after: float | None = None

    def plan(self) -> Plan:
        """Walk the stages and return what to do."""
        spec = self._accept()
        if spec is not None:
            self._suspend_or_resume(spec)
            if not self._is_overdue(spec):
                for view in self._views:
                    if not self._advance(spec, view):
                        break
                else:
                    self._conclude(spec)
        return self._finish()

    # ---- acceptance, suspension, deadline ----------------------------------------------------

    def _accept(self) -> FineTuneJobSpec | None:
        observed, draft = self._observed, self._draft
        was_accepted = draft.conditions.status_of(ConditionType.ACCEPTED) in ("True", "Unknown")
        if observed.parsed is None:
            if was_accepted:
                self._tell_unreadable(observed.problem)
            else:
                self._refuse(Reason.INVALID_SPEC, observed.problem)
            return None
        spec = observed.parsed.spec
        if was_accepted:
            # Settings that changed since do not reach back to jobs that were accepted.
            draft.conditions.set(ConditionType.ACCEPTED, True, Reason.VALID, _ACCEPTED)
            return spec
        violations = find_violations(spec, self._config)
        if violations:
            self._refuse(violations[0].reason, "; ".join(str(item) for item in violations))
            return None
        draft.conditions.set(ConditionType.ACCEPTED, True, Reason.VALID, _ACCEPTED)
        first = child_job_name(observed.name, Stage.PREPARE)
        text = f"Accepted; created Job {first}" if self._views[0].job else "Accepted"
        draft.announce("Accepted", text)
        return spec

    def _tell_unreadable(self, problem: str) -> None:
        """Leave a job alone that another version of the operator has accepted: it may be running.

        Its phase stays as it was; a version that reads it goes on.
        """
        self._is_unreadable = True
        message = (
            f"This version of the operator cannot read the spec, which was accepted before:"
            f" {problem}. Nothing is stopped, and nothing new is started, until CRD and operator"
            " are of one version."
        )
        conditions = self._draft.conditions
        if conditions.reason_of(ConditionType.ACCEPTED) != Reason.INVALID_SPEC:
            self._draft.announce(Reason.INVALID_SPEC, message, warning=True)
        conditions.set(ConditionType.ACCEPTED, "Unknown", Reason.INVALID_SPEC, message)
        self._draft.put("reason", Reason.INVALID_SPEC.value)

    def _refuse(self, reason: Reason, message: str) -> None:
        self._draft.conditions.set(ConditionType.ACCEPTED, False, reason, message)
        cause = Cause(
            failure_class=FailureClass.USER_ERROR,
            reason=reason,
            message=message,
            time=timestamp(self._now),
        )
        self._fail(reason, message)
        wire = cause.to_wire(Stage.PREPARE)
        del wire["stage"]
        self._draft.put("lastFailure", wire)

    def _suspend_or_resume(self, spec: FineTuneJobSpec) -> None:
        draft = self._draft
        if spec.suspend:
            if draft.conditions.reason_of(ConditionType.SUSPENDED) != Reason.SUSPENDED_BY_USER:
                draft.announce("Suspended", "Suspended by spec.suspend; running pods save and stop")
            draft.conditions.set(
                ConditionType.SUSPENDED,
                True,
                Reason.SUSPENDED_BY_USER,
                "spec.suspend is true; set it to false to go on where it stopped.",
            )
            self._then += stop_actions(self._observed, self._views)
            self._then += self._queue_actions(active=False)
            return
        if draft.conditions.reason_of(ConditionType.SUSPENDED) != Reason.SUSPENDED_BY_USER:
            return
        wakes: list[ResumeJob | ActivateWorkload] = list(self._queue_actions(active=True))
        for view in self._views:
            if view.state is StageState.SUSPENDED and _is_paused(view):
                name = child_job_name(self._observed.name, view.stage)
                wakes.append(ResumeJob(stage=view.stage, name=name))
        if wakes:
            # The condition stays until the Jobs are seen to go on: a crash loses nothing.
            self._then += wakes
            return
        draft.conditions.set(ConditionType.SUSPENDED, False, Reason.RESUMED, "")
        is_training = any(
            view.stage is Stage.TRAIN and view.active_seconds and not draft.is_done(view.stage)
            for view in self._views
        )
        text = "Resumed; training goes on at the last checkpoint" if is_training else "Resumed"
        draft.announce("Resumed", text)

    def _queue_actions(self, *, active: bool) -> list[ActivateWorkload]:
        return [
            ActivateWorkload(stage=view.stage, name=queue.workload, active=active)
            for view in self._views
            # Resumed before Kueue has suspended it, a Job's Workload is inactive all the same.
            if (view.state is StageState.SUSPENDED or (active and view.is_stoppable))
            and (queue := self._observed.queue.get(view.stage)) is not None
            and queue.is_active is not active
        ]

    def _is_overdue(self, spec: FineTuneJobSpec) -> bool:
        limit = spec.active_deadline_seconds
        if limit is None:
            return False
        used = self._draft.active_seconds(self._views)
        open_views = [v for v in self._views if v.is_stoppable]
        if used < limit:
            if open_views:
                self._look_again(max(1.0, limit - used))
            return False
        if not open_views:
            # What has ended in time or late is ended; only what runs can be cut.
            return False
        view = open_views[-1]
        message = (
            f"The job ran for {used} s and activeDeadlineSeconds is {limit}; stage"
            f" {view.stage.value} was stopped. Raise the deadline in a new job, or ask for less:"
            " fewer epochs, more GPUs."
        )
        self._fail_stage(
            view,
            Cause(
                failure_class=FailureClass.DEADLINE_EXCEEDED,
                reason="DeadlineExceeded",
                message=message,
                time=timestamp(self._now),
            ),
        )
        return True

    # ---- one stage ---------------------------------------------------------------------------

    def _advance(self, spec: FineTuneJobSpec, view: StageView) -> bool:
        """Take one stage as far as it goes; return whether the next one may start."""
        draft = self._draft
        if draft.is_done(view.stage):
            late = draft.conditions.status_of(CONDITION_OF[view.stage]) == "Unknown"
            if late and view.result is not None:
                self._succeed(view)
            else:
                self._take_result(view)
            return True
        self._current = view
        if view.state is StageState.ABSENT:
            self._start(spec, view)
            return False
        draft.record_stage(view)
        if draft.get("startTime") is None and view.job is not None:
            draft.put("startTime", view.job["metadata"].get("creationTimestamp"))
        if view.state in (StageState.SUCCEEDED, StageState.FAILED):
            if not view.is_settled(self._now):
                self._look_again(1.0)
                return False
            draft.record_end(view)
            if view.state is StageState.SUCCEEDED:
                self._succeed(view)
                return True
            self._fail_stage(view, self._cause_of_end(spec, view))
            return False
        self._tell_quota(spec, view)
        if view.state is StageState.SUSPENDED:
            self._tell_suspended(spec, view)
        else:
            self._tell_under_way(spec, view)
        return False

    def _start(self, spec: FineTuneJobSpec, view: StageView) -> None:
        observed, draft, stage = self._observed, self._draft, view.stage
        name = child_job_name(observed.name, stage)
        if draft.stage(stage) is not None:
            if stage not in observed.missing:
                self._first.append(ConfirmMissing(stage=stage, name=name))
                return
            message = (
                f"Job {name} is gone and did not finish: somebody deleted it, or Kueue did after it"
                " deactivated the Workload. It is not run again; create a new FineTuneJob."
            )
            self._fail_stage(
                view,
                Cause(
                    failure_class=FailureClass.INTERNAL,
                    reason=Reason.JOB_DELETED,
                    message=message,
                    time=timestamp(self._now),
                ),
            )
            return
        if spec.suspend or draft.is_true(ConditionType.SUSPENDED):
            return
        if is_queued(spec, stage) and not observed.has_kueue:
            self._tell_no_kueue(spec)
            return
        refusal = observed.refusals.get(stage)
        if refusal is not None:
            self._tell_refused(view, refusal)
            return
        assert observed.parsed is not None
        identity = {"namespace": observed.namespace, "uid": observed.uid}
        needs = [render_config_map(observed.parsed, **identity)] if stage is Stage.PREPARE else []
        if stage is Stage.TRAIN and spec.resources.nodes > 1:
            needs.append(render_service(observed.name, config=self._config, **identity))
        job = render_job(spec, stage, name=observed.name, config=self._config, **identity)
        self._first.append(CreateStage(stage=stage, needs=tuple(needs), job=job))

    def _tell_refused(self, view: StageView, refusal: Refusal) -> None:
        """Say why a child cannot be created, and end the job if it never can."""
        draft, kind = self._draft, CONDITION_OF[view.stage]
        if refusal.is_final:
            cause = Cause(
                failure_class=FailureClass.USER_ERROR,
                reason=refusal.reason,
                message=refusal.message,
                time=timestamp(self._now),
            )
            self._fail_stage(view, cause)
            return
        if draft.conditions.reason_of(kind) != refusal.reason:
            draft.announce(refusal.reason, f"{view.stage.value}: {refusal.message}", warning=True)
        draft.conditions.set(kind, False, refusal.reason, refusal.message)
        self._look_again(RECHECK_SECONDS / 3)

    def _tell_under_way(self, spec: FineTuneJobSpec, view: StageView) -> None:
        """Say whether a stage runs, waits for its pods, or why it cannot start."""
        draft, stage = self._draft, view.stage
        endless = self._cause_of_giving_up(spec, view)
        if endless is not None:
            self._fail_stage(view, endless)
            return
        problem = self._problem_of_start(view)
        if problem is not None:
            if draft.note_failure(problem, stage):
                draft.announce(problem.reason, f"{stage.value}: {problem.message}", warning=True)
            if self._is_start_overdue(problem, view):
                self._fail_stage(view, problem)
                return
            draft.conditions.set(CONDITION_OF[stage], False, problem.reason, problem.message)
            return
        cause = latest_cause(view.pods, memory=memory_of(spec, stage, self._config))
        # Pods that cannot be replaced end the Job in a moment: its end is what is told then.
        goes_on = may_be_retried(view.pods, backoff_limit_of(spec, stage))
        if cause is not None and draft.note_failure(cause, stage) and goes_on:
            where = f" on {cause.node}" if cause.node else ""
            draft.announce(
                "Retrying",
                f"{stage.value}: pod {cause.pod}{where}: {cause.reason}: {cause.message}",
                warning=True,
            )
        if stage is Stage.TRAIN and view.state is StageState.RUNNING:
            self._tell_training(view)
        elif cause is not None and view.state is StageState.WAITING:
            if goes_on:
                message = f"Waiting for the next pod after {cause.reason}: {cause.message}"
                draft.conditions.set(CONDITION_OF[stage], False, Reason.RETRYING, message)
        else:
            # The same words whether the pod is young or runs: not worth a write of its own.
            reason, text = _UNDER_WAY[stage]
            name = child_job_name(self._observed.name, stage)
            draft.conditions.set(CONDITION_OF[stage], False, reason, text.format(job=name))

    def _cause_of_giving_up(self, spec: FineTuneJobSpec, view: StageView) -> Cause | None:
        """Explain why a stage that the Job controller would start for ever is given up, if so."""
        rounds = fruitless_rounds(view.pods, self._observed.ledger)
        if rounds.count <= spec.backoff_limit + 1:
            return None
        cause = latest_cause(rounds.pods)
        if cause is None:
            return None
        message = (
            f"{rounds.count} times in a row, more than backoffLimit + 1, the pods ended with exit"
            f" code {int(ExitCode.RETRYABLE)} before a new step was made. {_ENDLESS} The last one:"
            f" {cause.message}"
        )
        return replace(cause, message=message)

    def _tell_training(self, view: StageView) -> None:
        draft = self._draft
        if not draft.is_true(ConditionType.TRAINING):
            draft.announce("TrainingStarted", f"Training started: {_pods_text(view)}")
        message = "Training."
        if self._is_silent(view):
            message = f"{message} {self._silence_text()}"
        draft.conditions.set(ConditionType.TRAINING, True, Reason.RUNNING, message)

    def _problem_of_start(self, view: StageView) -> Cause | None:
        stuck = [pod for pod in view.pods if is_stuck(pod, self._now)]
        unknown = [
            name
            for pod in stuck
            if (name := pod["metadata"]["name"]) not in self._observed.warnings
        ]
        if unknown:
            since = self._now - timedelta(seconds=WARNING_SECONDS)
            self._first.append(LookUpWarnings(pods=tuple(unknown), since=since))
            return None
        found: Cause | None = None
        for pod in view.pods:
            if pod["status"]["phase"] == "Pending":
                age = seconds_waiting(pod, self._now)
                self._look_again(RECHECK_SECONDS if age >= STUCK_SECONDS else STUCK_SECONDS - age)
            warning = self._observed.warnings.get(pod["metadata"]["name"], "")
            cause = cause_of_waiting(pod, self._now, warning=warning)
            if cause is not None and (found is None or cause.is_hopeless):
                found = cause
        return found

    def _is_start_overdue(self, problem: Cause, view: StageView) -> bool:
        """Return whether a start that fails has used up its time; waiting for nodes has none."""
        if problem.failure_class is FailureClass.UNSCHEDULABLE:
            return False
        if problem.is_hopeless:
            return True
        limit = float(self._config.image_pull_deadline_seconds)
        waited = max(
            seconds_waiting(pod, self._now)
            for pod in view.pods
            if pod["metadata"]["name"] == problem.pod
        )
        if waited >= limit:
            return True
        self._look_again(limit - waited)
        return False

    def _is_silent(self, view: StageView) -> bool:
        if not self._config.progress_url or self._has_heartbeat():
            return False
        if view.active_seconds < SILENCE_SECONDS:
            self._look_again(SILENCE_SECONDS - view.active_seconds)
            return False
        return True

    def _has_heartbeat(self) -> bool:
        progress = (self._observed.job.get("status") or {}).get("progress") or {}
        return bool(progress.get("lastHeartbeatTime"))

    def _silence_text(self) -> str:
        return (
            f"No progress was received: pods may not reach {self._config.progress_url}"
            " (NetworkPolicy?). The job is not affected."
        )

    # ---- queue -------------------------------------------------------------------------------

    def _tell_quota(self, spec: FineTuneJobSpec, view: StageView) -> None:
        queue = self._observed.queue.get(view.stage)
        conditions = self._draft.conditions
        if queue is not None:
            self._is_queued = not queue.is_admitted
            had_quota = conditions.status_of(ConditionType.QUOTA_RESERVED) == "True"
            if had_quota and queue.is_evicted and queue.is_active and not spec.suspend:
                text = f"{view.stage.value}: {queue.reason}: {queue.message}"
                self._draft.announce("Preempted", text, warning=True)
            conditions.set(
                ConditionType.QUOTA_RESERVED, queue.is_admitted, queue.reason, queue.message
            )
            return
        if not is_queued(spec, view.stage) or view.state is not StageState.SUSPENDED:
            return
        self._is_queued = True
        assert view.job is not None
        age = seconds_waiting(view.job, self._now)
        if age < QUEUE_GRACE_SECONDS:
            message = f"Waiting for Kueue to take Job {view.job['metadata']['name']}."
            conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.WAITING_FOR_QUOTA, message)
            self._look_again(QUEUE_GRACE_SECONDS - age)
            return
        if conditions.reason_of(ConditionType.QUOTA_RESERVED) != Reason.NOT_MANAGED_BY_KUEUE:
            self._draft.announce(Reason.NOT_MANAGED_BY_KUEUE, _UNMANAGED, warning=True)
        conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.NOT_MANAGED_BY_KUEUE, _UNMANAGED)

    def _tell_no_kueue(self, spec: FineTuneJobSpec) -> None:
        message = (
            f"The job names queue {spec.queue_name!r}, and Kueue is not installed here (or switched"
            " off in the operator's configuration). It waits; create it without queueName to run"
            " at once."
        )
        conditions = self._draft.conditions
        if conditions.reason_of(ConditionType.QUOTA_RESERVED) != Reason.KUEUE_NOT_INSTALLED:
            self._draft.announce(Reason.KUEUE_NOT_INSTALLED, message, warning=True)
        conditions.set(ConditionType.QUOTA_RESERVED, False, Reason.KUEUE_NOT_INSTALLED, message)
        self._is_queued = True
        self._look_again(2 * RECHECK_SECONDS)

    def _tell_suspended(self, spec: FineTuneJobSpec, view: StageView) -> None:
        kind, conditions = CONDITION_OF[view.stage], self._draft.conditions
        queue = self._observed.queue.get(view.stage)
        if spec.suspend or _is_paused(view):
            conditions.set(kind, False, Reason.SUSPENDED_BY_USER, "Held by spec.suspend.")
        elif queue is not None and queue.is_evicted and not queue.was_resumed:
            conditions.set(kind, False, Reason.PREEMPTED, queue.message)
        elif queue is not None or is_queued(spec, view.stage):
            conditions.set(kind, False, Reason.QUEUED, "Waiting in the queue.")
        else:
            assert view.job is not None
            message = f"Job {view.job['metadata']['name']} was suspended, not by this operator."
            conditions.set(kind, False, "JobSuspended", message)

    # ---- ends --------------------------------------------------------------------------------

    def _take_result(self, view: StageView) -> None:
        """Put the result of an ended stage into the status, if it is known."""
        draft, result = self._draft, view.result
        if isinstance(result, PrepareResult):
            draft.put("dataset", results.dataset_section(result))
        elif isinstance(result, TrainResult):
            artifact = draft.get("artifact") or {}
            draft.put("artifact", {**artifact, **results.artifact_section(result)})
            if selection := results.selection_section(result):
                draft.put("selection", selection)
        elif isinstance(result, EvaluateResult):
            draft.put("evaluation", results.evaluation_section(result))
            artifact = draft.get("artifact") or {}
            draft.put("artifact", results.published_section(artifact, result))

    def _succeed(self, view: StageView) -> None:
        draft, stage = self._draft, view.stage
        self._take_result(view)
        kind = CONDITION_OF[stage]
        result = view.result
        if result is None:
            message = (
                f"Stage {stage.value} succeeded; its result was lost with its pod. It is in object"
                " storage."
            )
            draft.conditions.set(kind, "Unknown", Reason.RESULT_NOT_REPORTED, message)
            draft.announce(Reason.RESULT_NOT_REPORTED, message, warning=True)
        elif isinstance(result, PrepareResult):
            rows = result.rows
            message = (
                f"{rows.train} training, {rows.validation} validation and {rows.test} held-out"
                f" rows; {result.num_invalid_rows} left out, {result.num_truncated_rows} truncated."
            )
            draft.conditions.set(kind, True, Reason.PREPARED, message)
            draft.announce("DatasetReady", message)
        elif isinstance(result, TrainResult):
            message = f"Trained {result.step} steps."
            if self._config.progress_url and not self._has_heartbeat():
                message = f"{message} {self._silence_text()}"
            draft.conditions.set(kind, False, Reason.SUCCEEDED, message)
            draft.announce("Trained", f"Trained {result.step} steps; adapter {result.sha256[:12]}")
        else:
            message = results.scores_text(result) or "Evaluated."
            draft.conditions.set(kind, True, Reason.EVALUATED, message)

    def _conclude(self, spec: FineTuneJobSpec) -> None:
        """All stages are over: publish the verdict."""
        draft = self._draft
        view = self._views[-1]
        result = view.result if isinstance(view.result, EvaluateResult) else None
        # Also without a goal: too few held-out prompts prove nothing.
        if result is not None and result.goal_met is False:
            self._miss_goal(view, result)
            return
        if spec.goal is not None:
            known = result is not None and result.goal_met is not None
            draft.conditions.set(
                ConditionType.GOAL_MET,
                True if known else "Unknown",
                Reason.GOAL_REACHED if known else Reason.RESULT_NOT_REPORTED,
                result.goal_message if result is not None else "",
            )
        if result is None or result.version is None:
            message = "The published version is not known here; see versions/ in object storage."
            draft.conditions.set(
                ConditionType.PUBLISHED, "Unknown", Reason.RESULT_NOT_REPORTED, message
            )
        else:
            message = f"Version {result.version}: {results.scores_text(result)}"
            draft.conditions.set(ConditionType.PUBLISHED, True, Reason.PUBLISHED, message)
        draft.conditions.set(ConditionType.COMPLETE, True, Reason.SUCCEEDED, message)
        draft.announce("Published", message)
        draft.put("completionTime", timestamp(self._now))
        self._close_progress()

    def _miss_goal(self, view: StageView, result: EvaluateResult) -> None:
        message = result.goal_message or f"The goal was missed: {results.scores_text(result)}"
        conditions = self._draft.conditions
        conditions.set(ConditionType.GOAL_MET, False, Reason.GOAL_NOT_MET, message)
        conditions.set(ConditionType.PUBLISHED, False, Reason.GOAL_NOT_MET, message)
        cause = Cause(
            failure_class=FailureClass.GOAL_NOT_MET,
            reason=Reason.GOAL_NOT_MET,
            message=message,
            time=timestamp(self._now),
        )
        self._draft.note_failure(cause, view.stage)
        self._fail(Reason.GOAL_NOT_MET, message, event=Reason.GOAL_NOT_MET)
        self._close_progress()

    def _close_progress(self) -> None:
        """Show the end in the columns: no push follows, and the last one may have been lost."""
        progress: Object = {"stage": Stage.EVALUATE.value, "percent": 100}
        trained = self._views[1].result
        metrics: list[Object] = []
        if isinstance(trained, TrainResult):
            progress |= {"step": trained.step, "totalSteps": trained.step}
            metrics = results.metrics_section(trained)
        self._draft.put_final_progress(progress, metrics)

    def _cause_of_end(self, spec: FineTuneJobSpec, view: StageView) -> Cause:
        """Explain why the Job controller gave a stage up."""
        cause = latest_cause(view.pods, memory=memory_of(spec, view.stage, self._config))
        if cause is not None:
            return cause
        ending = view.failure_message or "The Job failed"
        message = f"{ending}; its pods are gone, so no cause is known."
        return Cause(
            failure_class=FailureClass.INTERNAL,
            reason=view.failure_reason or "JobFailed",
            message=message,
            time=timestamp(view.ended_at or self._now),
        )

    def _fail_stage(self, view: StageView, cause: Cause) -> None:
        """End the job because of one stage."""
        self._draft.put("lastFailure", cause.to_wire(view.stage))
        suffix = ""
        if view.failure_reason == "BackoffLimitExceeded":
            suffix = " All retries of backoffLimit are used up."
        where = f" (pod {cause.pod} on {cause.node})" if cause.pod and cause.node else ""
        message = f"{view.stage.value}: {cause.reason}{where}: {cause.message}{suffix}"
        reason = cause.failure_class.value
        self._draft.conditions.set(CONDITION_OF[view.stage], False, reason, message)
        self._fail(reason, message)

    def _fail(self, reason: str, message: str, *, event: str = "Failed") -> None:
        draft = self._draft
        draft.conditions.set(ConditionType.STALLED, True, reason, message)
        draft.conditions.set(ConditionType.FAILED, True, reason, message)
        draft.put("completionTime", timestamp(self._now))
        draft.announce(event, message, warning=True)
        self._failed = True
        self._then = list(stop_actions(self._observed, self._views))

    # ---- outcome -----------------------------------------------------------------------------

    def _look_again(self, seconds: float) -> None:
        before = self._requeue_after
        self._requeue_after = seconds if before is None else min(before, seconds)

    def _finish(self) -> Plan:
        draft, observed = self._draft, self._observed
        counted = sum(int(v.job["status"].get("failed") or 0) for v in self._views if v.job)
        if observed.ledger.num_started or counted or draft.get("attempts"):
            draft.count_attempts(observed.ledger, counted)
        if not self._is_unreadable:
            self._tell_phase()
        return Plan(
            first=() if self._failed else tuple(self._first),
            status=draft.to_wire(),
            events=tuple(draft.events),
            then=tuple(self._then),
            requeue_after=self._requeue_after,
        )

    def _tell_phase(self) -> None:
        draft, current = self._draft, self._current
        phase = phase_of(
            draft.conditions,
            current.stage if current else None,
            current.state if current else None,
            is_queued=self._is_queued,
        )
        draft.put("phase", phase)
        of_stage = CONDITION_OF[current.stage] if current else ConditionType.ACCEPTED
        draft.put("reason", reason_of(draft.conditions, phase, of_stage, draft.get("lastFailure")))
        if current is not None:
            draft.restart_progress(current.stage)
        if phase in ("Succeeded", "Failed"):
            # Nothing else wakes a job that has ended.
            left = seconds_to_live(self._observed.job, draft.get("completionTime"), self._now)
            self._requeue_after = None if left is None else max(0.0, left)


_ENDLESS = (
    "Check that the pods of the job reach each other (NetworkPolicy, DNS, NCCL_SOCKET_IFNAME) and"
    " that their nodes have memory left."
)
_ACCEPTED = "The spec is valid and allowed on this cluster."
_UNMANAGED = (
    "No Kueue Workload exists for the Job: is the namespace managed by Kueue, and does the"
    " LocalQueue exist? The Job stays suspended."
)


def _is_paused(view: StageView) -> bool:
    return view.job is not None and PAUSED_ANNOTATION in (
        view.job["metadata"].get("annotations") or {}
    )


def _pods_text(view: StageView) -> str:
    nodes = sorted({pod["spec"]["nodeName"] for pod in view.pods if pod["spec"]["nodeName"]})
    count = len([pod for pod in view.pods if pod["status"]["phase"] == "Running"])
    where = f" on {', '.join(nodes[:8])}" if nodes else ""
    return f"{count} pod{'' if count == 1 else 's'}{where}"
