"""``holdAfter`` and ``prune``: a job among several, one of which is chosen."""

from __future__ import annotations

from datetime import timedelta

import pytest

from finetune_api.names import SWEEP_LABEL
from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import (
    ActivateWorkload,
    CreateStage,
    DeleteSelf,
    PauseJob,
)
from finetune_operator.finetunejob.state.decisions import Decision
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    NOW,
    accepted,
    after,
    at,
    child,
    condition,
    ended,
    failed,
    job,
    live,
    merged,
    observe,
    pod,
    queue,
    reasons,
    replace,
    running,
    stages_done,
    succeeded,
    suspended,
    trained,
)
from kit.cluster.simulation import result_of

PREPARE, TRAIN, EVALUATE, PUBLISH = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE, Stage.PUBLISH
STARTED = {"active": 1, "startTime": timestamp(NOW)}
GPU = {"nodes": 1, "gpusPerNode": 1}
RUNS = "s3://models/runs/team-a/headlines/uid-of-the-job"


def changed(body, **spec):
    """Return the job as its user has edited it; None removes a field."""
    left = {key: value for key, value in {**body["spec"], **spec}.items() if value is not None}
    return {**body, "spec": left}


def pruned(body):
    return changed(body, prune=True)


def held(**spec):
    """Return a job that was created with ``holdAfter`` and has trained."""
    _, body = live([stages_done(PREPARE, TRAIN)], trained(job(holdAfter="Train", **spec)), at(130))
    return body


def in_training(**more):
    return merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(60))}}, more)


# ---- the hold ------------------------------------------------------------------------------------


def test_a_held_job_waits_after_training_without_anything_that_runs():
    body = trained(job(holdAfter="Train"))
    made = plan(observe(body, **stages_done(PREPARE, TRAIN)), at(130), CONFIG)
    assert (made.first, made.then, made.requeue_after) == ((), (), None)
    assert (made.status["phase"], made.status["reason"]) == (
        "AwaitingSelection",
        "HeldAfterTraining",
    )
    told = condition(made, "Evaluated")
    assert (told["status"], told["reason"]) == ("False", "HeldAfterTraining")
    assert told["message"].startswith("Trained 171 steps. ")
    assert [(event.kind, event.reason) for event in made.events] == [
        ("Normal", "HeldAfterTraining"),
    ]
    assert made.status["progress"] == {
        "stage": "train", "percent": 100, "step": 171, "totalSteps": 171,
    }  # fmt: skip


def test_a_trial_waits_for_its_sweep_without_an_event_of_that():
    body = trained(job(holdAfter="Train"))
    body["metadata"]["labels"] = {SWEEP_LABEL: "rates"}
    made = plan(observe(body, **stages_done(PREPARE, TRAIN)), at(130), CONFIG)
    assert made.status["reason"] == "HeldAfterTraining"
    assert made.events == ()


def test_a_held_job_is_written_once_and_neither_deadline_nor_budget_run_on():
    limits = {"activeDeadlineSeconds": 300, "budget": {"gpuHours": "1"}, "resources": GPU}
    body = held(**limits)
    for seconds in (131, 10_000_000):
        made = plan(observe(body, **stages_done(PREPARE, TRAIN)), at(seconds), CONFIG)
        assert (made.status, made.first, made.requeue_after) == (None, (), None)


def test_without_the_hold_the_job_goes_on_as_any_other():
    body = changed(held(), holdAfter=None)
    made = plan(observe(body, **stages_done(PREPARE, TRAIN)), at(200), CONFIG)
    assert [action.stage for action in made.first] == [EVALUATE]
    known = merged(stages_done(PREPARE, TRAIN), {"jobs": {EVALUATE: child(EVALUATE)}})
    made, body = live([known], body, at(201))
    assert (made.status["phase"], made.status["progress"]) == (
        "Evaluating",
        {"stage": "evaluate", "percent": 0},
    )
    made, body = live([stages_done(PREPARE, TRAIN, EVALUATE)], body, at(300))
    assert made.status["phase"] == "Succeeded"


def test_other_holds_come_before_and_after():
    """The data is approved before training, the candidate is reviewed after its evaluation."""
    spec = {"holdAfter": "Train", "evaluation": {"review": {"required": True, "reviewers": 2}}}
    body = job(**spec)
    body["spec"]["dataset"]["approval"] = "Required"
    made, body = live([stages_done(PREPARE)], accepted(body), at(60))
    assert made.status["phase"] == "AwaitingApproval"
    yes = Decision(name="yes", digest="d" * 64, is_approval=True, by="ann", time=timestamp(NOW))
    known = {"decisions": (yes,)}
    made, body = live([merged(stages_done(PREPARE, TRAIN), known)] * 2, body, at(200))
    assert body["status"]["phase"] == "AwaitingSelection"
    made, body = live([merged(stages_done(PREPARE, TRAIN), known)], suspended(body), at(201))
    assert body["status"]["phase"] == "Suspended"


def test_a_held_job_that_is_suspended_and_resumed_is_held_again():
    known = stages_done(PREPARE, TRAIN)
    _, body = live([known], suspended(held()), at(140))
    assert body["status"]["phase"] == "Suspended"
    made, body = live([known], changed(body, suspend=False), at(150))
    assert (made.first, body["status"]["phase"]) == ((), "AwaitingSelection")


# ---- the prune -----------------------------------------------------------------------------------


def test_a_job_in_training_saves_stops_and_is_pruned():
    body = pruned(trained())
    body["status"]["progress"] = {
        "stage": "train", "step": 40, "percent": 30, "lastHeartbeatTime": timestamp(at(90)),
    }  # fmt: skip
    made = plan(observe(body, **in_training()), at(160), CONFIG)
    pause = PauseJob(
        stage=TRAIN, name="headlines-train", active_seconds=100, started=timestamp(at(60))
    )
    assert made.then == (pause,)
    assert (made.status["phase"], made.status["reason"]) == ("Pruned", "PruneRequested")
    told = condition(made, "Pruned")
    assert (told["status"], told["reason"]) == ("True", "PruneRequested")
    assert "at step 40" in told["message"]
    assert f"{RUNS}/checkpoints" in told["message"]
    assert "finetune retry headlines -n team-a" in told["message"]
    assert [(event.kind, event.reason) for event in made.events] == [("Normal", "Pruned")]
    assert condition(made, "Training")["status"] == "False"
    assert condition(made, "Failed") is None
    assert condition(made, "Stalled") is None
    assert "lastFailure" not in made.status
    assert made.status["completionTime"] == timestamp(at(160))


def test_what_a_pruned_job_has_used_is_told_as_its_cost():
    body = pruned(trained(job(resources=GPU)))
    made = plan(observe(body, **in_training()), at(60 + 3600), CONFIG)
    assert made.status["cost"] == {"gpuHours": "1.000"}


WAITING = {
    "before anything": (job, {}, "before stage prepare. Nothing was trained"),
    "while it prepares": (
        accepted, {"jobs": {PREPARE: child(PREPARE, status=STARTED)}},
        "in stage prepare: its pods are stopped, and save first. Nothing was trained",
    ),
    "suspended": (
        lambda: suspended(trained()),
        merged(stages_done(PREPARE),
               {"jobs": {TRAIN: child(TRAIN, suspend=True,
                                      annotations={"finetune.dev/paused": "true"})}}),
        "while stage train was waiting without pods. Its checkpoints are kept",
    ),
    "held after training": (held, stages_done(PREPARE, TRAIN),
                            "before stage evaluate. Its adapter is kept, unpublished: s3://"),
    "its Job was deleted": (trained, stages_done(PREPARE), "before stage train"),
}  # fmt: skip


@pytest.mark.parametrize("case", WAITING)
def test_a_job_that_waits_is_pruned_at_once(case):
    make, known, words = WAITING[case]
    made = plan(observe(pruned(make()), **known), at(300), CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Pruned"
    assert words in condition(made, "Pruned")["message"]
    body = after(pruned(make()), made)
    again = plan(observe(body, **known), at(301), CONFIG)
    assert (again.first, again.status, again.events) == ((), None, ())


def test_a_held_job_that_is_pruned_still_shows_its_training():
    made = plan(observe(pruned(held()), **stages_done(PREPARE, TRAIN)), at(300), CONFIG)
    assert made.status["progress"]["step"] == 171
    assert made.status["artifact"]["sha256"] == "a" * 64


QUEUE = {
    "waits for quota": ({"suspend": True}, {}),
    "holds quota": ({"status": STARTED}, {"is_admitted": True, "has_quota": True}),
    "saves, for Kueue takes its quota back": (
        {"status": STARTED}, {"is_evicted": True, "reason": "Preempted"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", QUEUE)
def test_a_queued_job_leaves_the_queue_and_gives_its_quota_back(case):
    of_job, state = QUEUE[case]
    body = pruned(trained(job(queueName="team-a")))
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, body, **of_job)}, "queue": {TRAIN: queue(**state)}},
    )
    made = plan(observe(body, **known, has_kueue=True), at(100), CONFIG)
    leaves = ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=False)
    assert made.then == (leaves,)
    assert made.status["phase"] == "Pruned"
    assert made.status.get("attempts", {}).get("counted", 0) == 0
    assert "queue" not in made.status
    # A Workload that comes late, or that somebody activates again, leaves too.
    again = plan(observe(after(body, made), **known, has_kueue=True), at(101), CONFIG)
    assert again.then == (leaves,)


def test_a_failure_that_is_under_way_is_not_counted_against_a_pruned_job():
    """The back-off of a pod that has failed ends with the job."""
    body = pruned(trained())
    known = in_training(pods={TRAIN: (ended(TRAIN, 70, "boom"),)})
    made = plan(observe(body, **known), at(160), CONFIG)
    assert made.status["phase"] == "Pruned"
    assert "lastFailure" not in made.status
    assert made.status.get("attempts", {}).get("counted", 0) == 0


def test_limits_do_not_fail_a_job_that_is_pruned():
    limits = {"activeDeadlineSeconds": 200, "budget": {"gpuHours": "0.03"}, "resources": GPU}
    body = pruned(trained(job(**limits)))
    made = plan(observe(body, **in_training()), at(5000), CONFIG)
    assert made.status["phase"] == "Pruned"


def test_a_job_that_nobody_can_wake_is_not_stalled_once_it_is_pruned():
    body = trained(job(queueName="team-a"))
    given_up = queue(
        is_active=False, deactivated_by="kueue", reason="DeactivatedDueToAdmissionCheck"
    )
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, body, suspend=True)}, "queue": {TRAIN: given_up}},
    )
    _, body = live([{**known, "has_kueue": True}], body, at(100))
    assert condition(body, "Stalled")["status"] == "True"
    made = plan(observe(pruned(body), **known, has_kueue=True), at(101), CONFIG)
    assert (made.status["phase"], made.then) == ("Pruned", ())
    assert condition(made, "Stalled")["status"] == "False"


# ---- which of two wins ---------------------------------------------------------------------------


def test_training_that_ended_at_the_same_time_is_recorded_before_the_prune():
    made = plan(observe(pruned(trained()), **stages_done(PREPARE, TRAIN)), at(200), CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Pruned"
    assert made.status["artifact"]["sha256"] == "a" * 64
    assert reasons(made) == ["Pruned"]


def test_a_stage_that_has_just_ended_is_waited_for_before_the_prune():
    """Its last words bring the adapter and the validation loss."""
    body = pruned(trained())
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=complete_at(199))}})
    made = plan(observe(body, **known), at(200), CONFIG)
    assert (made.status or {}).get("phase") != "Pruned"
    assert made.requeue_after == 1.0
    later = plan(observe(after(body, made), **known), at(220), CONFIG)
    assert later.status["phase"] == "Pruned"
    assert condition(later, "Training")["status"] == "Unknown"


def complete_at(seconds):
    moment = timestamp(at(seconds))
    done = {"type": "Complete", "status": "True", "lastTransitionTime": moment}
    return {"startTime": timestamp(NOW), "completionTime": moment, "conditions": [done]}


def test_a_job_whose_stage_has_failed_for_good_has_failed():
    body = pruned(trained())
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status=failed())}, "pods": {TRAIN: (ended(TRAIN, 64),)}},
    )
    made = plan(observe(body, **known), at(200), CONFIG)
    assert made.status["phase"] == "Failed"
    assert condition(made, "Pruned") is None


@pytest.mark.parametrize("goal_met", [True, False])
def test_a_job_whose_verdict_is_in_ends_with_it(goal_met):
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    if not goal_met:
        known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=False),)
    made = plan(observe(pruned(trained()), **known), at(400), CONFIG)
    assert made.status["phase"] == ("Succeeded" if goal_met else "Failed")
    assert condition(made, "Pruned") is None


def test_a_version_that_may_be_published_is_never_called_pruned():
    """An evaluation that publishes has lost its result: what it has stored is read first."""
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    made = plan(observe(pruned(trained()), **known), at(400), CONFIG)
    assert [action.stage for action in made.first if isinstance(action, CreateStage)] == [PUBLISH]
    assert (made.status or {}).get("phase") != "Pruned"


def test_a_candidate_that_waits_for_its_reviewers_is_pruned():
    body = trained(job(evaluation={"review": {"required": True, "reviewers": 2}}))
    result = result_of(EVALUATE).model_copy(update={"version": None, "manifest_uri": ""})
    text = TerminationMessage(stage=EVALUATE, exit_code=0, result=result).to_text()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (ended(EVALUATE, 0, text),)
    _, body = live([known], body, at(300))
    assert body["status"]["reason"] == "ReviewRequired"
    made = plan(observe(pruned(body), **known), at(400), CONFIG)
    assert made.status["phase"] == "Pruned"
    assert condition(made, "Published")["reason"] == "PruneRequested"


# ---- after the end -------------------------------------------------------------------------------


def test_after_its_end_a_prune_changes_nothing():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    _, body = live([known], trained(), at(400))
    made = plan(observe(pruned(body), **known), at(401), CONFIG)
    assert (made.status, made.first, made.then) == (None, (), ())


def test_a_pruned_job_stays_so_whatever_its_pods_do_and_is_deleted_in_its_time():
    body = pruned(trained(job(ttlSecondsAfterFinished=600)))
    made = plan(observe(body, **in_training()), at(160), CONFIG)
    assert made.requeue_after == 600
    body = after(body, made)
    for known in (
        in_training(pods={TRAIN: (ended(TRAIN, 79),)}),
        merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=failed())}}),
        stages_done(PREPARE, TRAIN),
    ):
        again = plan(observe(body, **known), at(200), CONFIG)
        assert (again.status, again.first) == (None, ())
    last = plan(observe(body, **in_training()), at(160) + timedelta(seconds=600), CONFIG)
    assert last.then == (DeleteSelf(),)
    assert is_terminal(body["status"])


def test_a_pod_that_still_runs_when_an_operator_comes_back_is_stopped():
    """The status is written before anything is stopped: a crash in between loses nothing."""
    body = pruned(trained())
    made = plan(observe(body, **in_training()), at(160), CONFIG)
    body = after(body, made)
    again = plan(observe(body, **in_training(pods={TRAIN: (pod(TRAIN),)})), at(170), CONFIG)
    assert [action.name for action in again.then] == ["headlines-train"]
    assert replace(again.then[0], active_seconds=0) == replace(made.then[0], active_seconds=0)
