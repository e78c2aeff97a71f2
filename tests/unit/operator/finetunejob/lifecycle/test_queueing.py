"""A job in Kueue's queues, by its Workload: what is told, done and left be."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers import children
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import ActivateWorkload, RelabelJob
from finetune_operator.finetunejob.state.retry import Ledger
from finetune_operator.integrations.kueue.state import FIELD_MANAGER, Place, queue_state
from finetune_operator.integrations.kueue.workload import is_waiting, trim_workload
from finetune_operator.status.conditions import is_terminal, parse_timestamp
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    condition,
    job,
    live,
    merged,
    observe,
    pod,
    replace,
    running,
    stages_done,
)
from kit.cluster.workloads import kueue_workload

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN


def changed(state, *, conditions=(), **status):
    """Return a Workload with conditions and status as given."""
    body = kueue_workload(state)
    by_type = {c["type"]: c for c in body["status"]["conditions"]}
    for kind, value, reason, message in conditions:
        by_type[kind] = {"type": kind, "status": value, "reason": reason, "message": message}
    body["status"] |= {**status, "conditions": list(by_type.values())}
    return body


def state_of(workload):
    body = kueue_workload(workload) if isinstance(workload, str) else workload
    return queue_state(trim_workload(body))


def in_queue(workload, *, suspend=True, spec=None, pods=()):
    """Return the snapshot of a job whose training stands in Kueue with this Workload."""
    body = job(**{"queueName": "team-a", **(spec or {})})
    status = {} if suspend else running(60)
    return {
        **merged(
            stages_done(PREPARE),
            {
                "jobs": {TRAIN: child(TRAIN, body, status=status, suspend=suspend)},
                "queue": {TRAIN: state_of(workload)},
                "pods": {TRAIN: tuple(pods)},
            },
        ),
        "has_kueue": True,
    }


def planned(workload, body=None, **known):
    snapshot = in_queue(workload, **known)
    body = body or begun()
    return plan(observe(body, **snapshot), at(100), CONFIG)


def begun(**spec):
    """Return a job that trains in the queue."""
    body = job(queueName="team-a", **spec)
    _, body = live([in_queue("admitted", suspend=False, spec=spec)], body, at(80))
    assert body["status"]["phase"] == "Training"
    return body


def with_spec(body, **spec):
    return {**body, "spec": {**body["spec"], **spec}}


def reasons(made):
    return [event.reason for event in made.events]


TOLD = [
    # name, workload, phase, (status, reason) of QuotaReserved, words
    ("waits", "waiting", "Queued", ("False", "Pending"), ["insufficient"]),
    ("no such queue", "no local queue", "Queued", ("False", "Inadmissible"), ["doesn't exist"]),
    ("a check is pending", "check pending", "Queued", ("True", "AdmissionChecksPending"),
     ["admission check record-check (Pending", "no capacity in this zone"]),
    ("a check wants to wait", "check retried", "Queued", ("True", "AdmissionChecksPending"),
     ["(Retry: no capacity in this zone)", "tries again at 20"]),
    ("preempted", "preempted", "Queued", ("False", "Preempted"),
     ["prioritization in the ClusterQueue", "Now: couldn't assign", "insufficient"]),
    ("its LocalQueue was stopped", "LocalQueue stopped", "Queued",
     ("False", "LocalQueueStopped"), ["queued again when the queue is started"]),
    ("its ClusterQueue was stopped", "ClusterQueue stopped", "Queued",
     ("False", "ClusterQueueStopped"), ["queued again when the queue is started"]),
    ("an administrator holds it", "deactivated by an administrator", "Suspended",
     ("False", "Deactivated"), ["deactivated"]),
    ("it ran too long", "ran too long", "Suspended",
     ("False", "DeactivatedDueToMaximumExecutionTimeExceeded"), ["maximum execution time"]),
    ("a check rejected it", "check rejected", "Suspended",
     ("False", "DeactivatedDueToAdmissionCheck"), ["record-check", "rejected"]),
    ("its pods were not ready in time", "pods not ready", "Queued", ("False", "PodsReadyTimeout"),
     ["Exceeded the PodsReady timeout", "queues it again at 20", "the 1st time"]),
    ("its pods were not ready too often", "given up", "Suspended",
     ("False", "DeactivatedDueToRequeuingLimitExceeded"), ["exceeding the maximum number"]),
    ("a node failed",
     changed("preempted", conditions=[("Evicted", "True", "NodeFailures", "node n1 is lost")]),
     "Queued", ("False", "NodeFailures"), ["node n1 is lost"]),
]  # fmt: skip


@pytest.mark.parametrize("case", TOLD, ids=[case[0] for case in TOLD])
def test_what_kueue_says_is_told_in_words(case):
    _, workload, phase, quota, told = case
    made = planned(workload)
    mirrored = condition(made, "QuotaReserved")
    assert made.status["phase"] == phase
    assert (mirrored["status"], mirrored["reason"]) == quota
    for text in told:
        assert text in mirrored["message"]
    assert condition(made, "Training")["status"] == "False"


def test_evictions_are_told_once_by_their_reason():
    for workload, reason in (
        ("preempted", "Preempted"),
        ("LocalQueue stopped", "LocalQueueStopped"),
        ("pods not ready", "PodsReadyTimeout"),
    ):
        body = begun()
        made = planned(workload, body)
        assert reasons(made) == [reason]
        assert condition(made, "Training")["reason"] == reason
        assert reasons(planned(workload, after(body, made))) == []


def test_while_evicted_pods_save_the_job_is_not_said_to_train():
    stopping = changed("admitted", conditions=[("Evicted", "True", "Preempted", "for another")])
    made = planned(stopping, suspend=False, pods=[pod(TRAIN)])
    assert made.status["phase"] == "Queued"
    assert condition(made, "Training")["reason"] == "Preempted"
    assert "pods save and stop" in condition(made, "QuotaReserved")["message"]


def test_a_job_that_kueue_cannot_start_fails_with_kueues_words():
    made = planned("failed to start")
    assert made.status["phase"] == "Failed"
    assert made.status["lastFailure"]["reason"] == "FailedToStart"
    assert "conflict" in condition(made, "Failed")["message"]


def test_an_end_that_the_job_tells_itself_is_left_to_the_job():
    done = changed("admitted", conditions=[("Finished", "True", "Failed", "Job failed")])
    assert state_of(done).finished == ""


@pytest.mark.parametrize("suspend", [True, False], ids=["it waits", "it runs"])
def test_an_end_for_a_reason_that_is_not_known_fails_nothing(suspend):
    """A newer Kueue says more: unknown is not failed, and the Job tells how it ended."""
    dropped = changed("admitted", conditions=[("Finished", "True", "OwnerGone", "no owner")])
    made = planned(dropped, suspend=suspend)
    assert not is_terminal(made.status)
    told = condition(made, "QuotaReserved")
    assert (told["status"], told["reason"]) == ("False", "OwnerGone")
    assert "kubectl delete workload" in told["message"]
    assert reasons(made) == ["OwnerGone"]


# ---- deactivation ------------------------------------------------------------------------------


def test_our_name_in_managed_fields_is_the_one_we_write_with():
    assert FIELD_MANAGER == children.FIELD_MANAGER


def test_who_deactivated_a_workload_is_read_from_the_servers_record():
    assert state_of("deactivated by an administrator").deactivated_by == "kubectl-patch"
    assert state_of("deactivated by an administrator").is_held_by_others
    assert state_of("deactivated by the operator").is_paused_by_us
    assert state_of("ran too long").is_given_up
    assert not state_of("admitted").is_held_by_others
    assert state_of("reactivated").is_admitted
    assert parse_timestamp(state_of("admitted").admitted_at) is not None
    assert state_of("waiting").admitted_at == state_of("preempted").admitted_at == ""
    evicted = changed("admitted", conditions=[("Evicted", "True", "Preempted", "for another")])
    assert state_of(evicted).admitted_at == state_of("admitted").admitted_at


@pytest.mark.parametrize(
    ("workload", "who", "is_stalled"),
    [
        ("deactivated by an administrator", "manager kubectl-patch has deactivated", False),
        ("ran too long", "Kueue has deactivated", True),
        ("check rejected", "Kueue has deactivated", True),
    ],
)
def test_a_deactivated_job_says_who_holds_it_and_what_lets_it_go_on(workload, who, is_stalled):
    body = begun()
    made = planned(workload, body)
    held = condition(made, "Suspended")
    assert (held["status"], held["reason"]) == ("True", "Deactivated")
    assert who in held["message"]
    assert "kubectl patch workload" in held["message"]
    assert made.status["reason"] == "Deactivated"
    assert (condition(made, "Stalled") or {}).get("status") == ("True" if is_stalled else None)
    assert condition(made, "Failed") is None
    assert "Deactivated" in reasons(made)
    body = after(body, made)
    assert planned(workload, body).events == ()
    # Active again, it waits as any other.
    made = planned("waiting", body)
    assert made.status["phase"] == "Queued"
    assert (condition(made, "Suspended")["status"], reasons(made)) == ("False", ["Reactivated"])
    assert not is_stalled or condition(made, "Stalled")["status"] == "False"


@pytest.mark.parametrize(
    "looks",
    [
        [(True, "given up"), (True, "waiting"), (False, "deactivated by the operator")],
        [(True, "given up"), (False, "deactivated by the operator")],
        [(True, "given up")],
        [(False, "given up")],
    ],
    ids=["while it is suspended", "and is paused by us", "and resumed at once", "without a pause"],
)
def test_what_kueue_gave_up_and_somebody_lets_go_on_is_not_stalled(looks):
    body = begun()
    body = after(body, planned("given up", body))
    assert condition(body, "Stalled")["status"] == "True"
    for suspend, workload in looks:
        body = with_spec(body, suspend=suspend)
        body = after(body, planned(workload, body))
        is_held = workload == "given up"
        assert condition(body, "Stalled")["status"] == ("True" if is_held else "False")
    body = with_spec(body, suspend=False)
    body = after(body, planned("admitted again", body, suspend=False))
    assert condition(body, "Suspended")["status"] == "False"
    stalled = condition(body, "Stalled")
    assert (stalled["status"], stalled["reason"]) == ("False", "Reactivated")


def test_a_users_resume_does_not_override_an_administrator():
    body = with_spec(begun(), suspend=True)
    made = planned("deactivated by an administrator", body)
    assert made.then == ()
    assert condition(made, "Suspended")["reason"] == "SuspendedByUser"
    assert "kubectl-patch has deactivated" in condition(made, "Suspended")["message"]
    body = with_spec(after(body, made), suspend=False)
    made = planned("deactivated by an administrator", body)
    assert made.then == ()
    assert condition(made, "Suspended")["reason"] == "Deactivated"
    assert "Resumed" not in reasons(made)


def test_a_users_resume_wakes_what_the_users_suspend_stopped():
    body = with_spec(begun(), suspend=True)
    made = planned("deactivated by the operator", body)
    body = with_spec(after(body, made), suspend=False)
    made = planned("deactivated by the operator", body)
    (wake,) = made.then
    assert isinstance(wake, ActivateWorkload)
    assert wake.active


# ---- evictions are counted ---------------------------------------------------------------------


def test_preemptions_by_kueue_are_counted_once_over_restarts_of_the_operator():
    assert state_of("admitted").num_evictions == 0
    assert state_of("preempted").num_evictions == 1
    body = begun()
    body = after(body, planned("preempted", body))
    attempts = {"preemptions": 1, "counted": 0}
    assert attempts.items() <= body["status"]["attempts"].items()
    for workload in ("preempted", "admitted again", "admitted again"):
        snapshot = in_queue(workload, suspend=workload == "preempted")
        # A new operator begins from the status and the pods that are there.
        ledger = Ledger.resume(body["status"]["attempts"], [], body["status"]["stages"])
        made = plan(observe(body, **snapshot, ledger=ledger), at(120), CONFIG)
        body = after(body, made)
        assert attempts.items() <= body["status"]["attempts"].items()
    twice = changed("admitted again", schedulingStats={
        "evictions": [{"reason": "Preempted", "underlyingCause": "", "count": 2}]
    })  # fmt: skip
    snapshot = in_queue(twice, suspend=False)
    ledger = Ledger.resume(body["status"]["attempts"], [], body["status"]["stages"])
    made = plan(observe(body, **snapshot, ledger=ledger), at(130), CONFIG)
    assert made.status["attempts"]["preemptions"] == 2


def test_evicted_pods_and_evictions_by_kueue_add_up():
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    drained = pod(TRAIN, name="drained", phase="Failed", conditions=disrupted)
    body = begun()
    snapshot = in_queue("preempted", pods=[drained])
    body = after(body, plan(observe(body, **snapshot), at(100), CONFIG))
    assert body["status"]["attempts"]["preemptions"] == 2
    ledger = Ledger.resume(body["status"]["attempts"], [], body["status"]["stages"])
    assert ledger.num_evicted == 1


@pytest.mark.parametrize("workload", ["deactivated by an administrator", "ran too long"])
def test_a_deactivation_is_no_preemption(workload):
    assert state_of(workload).num_evictions == 0


# ---- edits are carried -------------------------------------------------------------------------


def relabels(made):
    return {k: v for a in made.then if isinstance(a, RelabelJob) for k, v in a.labels.items()}


QUEUE, PRIORITY = "kueue.x-k8s.io/queue-name", "kueue.x-k8s.io/priority-class"


def test_an_edited_queue_is_carried_to_a_job_that_waits():
    body = with_spec(begun(), queueName="team-b", priorityClassName="high")
    for workload in ("waiting", "preempted", "no local queue", "deactivated by the operator"):
        made = planned(workload, body)
        assert relabels(made) == {QUEUE: "team-b", PRIORITY: "high"}
        assert "QueueChanged" not in reasons(made), "told once it is done"
    moved = in_queue("waiting", spec={"queueName": "team-b", "priorityClassName": "high"})
    assert relabels(plan(observe(body, **moved), at(100), CONFIG)) == {}


def test_an_edited_queue_is_carried_to_a_job_that_kueue_has_not_taken_yet():
    body = with_spec(begun(), priorityClassName="exists")
    snapshot = in_queue("waiting", spec={"priorityClassName": "missing"})
    snapshot = {**snapshot, "queue": {}}
    made = plan(observe(body, **snapshot), at(1000), CONFIG)
    assert relabels(made) == {PRIORITY: "exists"}
    told = condition(made, "QuotaReserved")
    assert told["reason"] == "NotManagedByKueue"
    assert "WorkloadPriorityClass missing" in told["message"]


@pytest.mark.parametrize(("workload", "suspend"), [("admitted", False), ("check pending", True)])
def test_a_queue_that_cannot_change_now_is_told(workload, suspend):
    made = planned(workload, with_spec(begun(), queueName="team-b"), suspend=suspend)
    assert relabels(made) == {}
    told = condition(made, "QuotaReserved")["message"]
    for value in ("spec.queueName", "team-b", "team-a"):
        assert value in told


def test_a_running_jobs_priority_changes_but_is_not_given():
    low, high = {"priorityClassName": "low"}, {"priorityClassName": "high"}
    made = planned("admitted", with_spec(begun(**low), **high), suspend=False, spec=low)
    assert relabels(made) == {PRIORITY: "high"}
    made = planned("admitted", with_spec(begun(), **high), suspend=False)
    assert relabels(made) == {}
    assert "high counts once it waits again" in condition(made, "QuotaReserved")["message"]


def test_the_next_stage_waits_in_the_queue_that_is_named_then():
    body = with_spec(begun(), queueName="team-b", priorityClassName="high")
    known = {**stages_done(PREPARE, TRAIN), "has_kueue": True}
    made, body = live([known], body, at(200))
    (action,) = made.first
    assert action.stage is Stage.EVALUATE
    labels = action.job["metadata"]["labels"]
    assert (labels[QUEUE], labels[PRIORITY]) == ("team-b", "high")


# ---- where it stands ---------------------------------------------------------------------------


def test_a_waiting_job_shows_its_place_and_a_running_one_its_cluster_queue():
    snapshot = in_queue("waiting")
    placed = replace(snapshot["queue"][TRAIN], place=Place(in_cluster_queue=3, in_local_queue=1))
    made = plan(observe(begun(), **{**snapshot, "queue": {TRAIN: placed}}), at(100), CONFIG)
    workload = kueue_workload("waiting")["metadata"]["name"]
    assert made.status["queue"] == {
        "localQueue": "small",
        "workload": workload,
        "position": 3,
        "positionInLocalQueue": 1,
    }
    assert begun()["status"]["queue"]["clusterQueue"] == "record-kueue-one"
    made = plan(observe(begun(), **stages_done(*Stage), has_kueue=True), at(300), CONFIG)
    assert "queue" not in made.status


def test_only_workloads_in_the_line_wait():
    for workload, waits in (
        ("waiting", True), ("preempted", True), ("admitted", False), ("check pending", False),
        ("deactivated by an administrator", False), ("failed to start", False),
    ):  # fmt: skip
        assert is_waiting(trim_workload(kueue_workload(workload))) is waits, workload


# ---- namespaces with a default queue, and other clusters ---------------------------------------


def defaulted(**more):
    """Return the trimmed prepare Job that Kueue's webhook put into LocalQueue default."""
    found = child(PREPARE, suspend=True)
    found["metadata"]["labels"][QUEUE] = "default"
    return {"jobs": {PREPARE: found}, **more}


def test_a_job_in_the_default_queue_of_its_namespace_is_told_as_one_that_names_it():
    known = defaulted(queue={PREPARE: state_of("waiting")}, has_kueue=True)
    made = plan(observe(job(), **known), at(30), CONFIG)
    assert made.status["phase"] == "Queued"
    assert "insufficient" in condition(made, "QuotaReserved")["message"]
    assert made.status["queue"]["localQueue"] == "small"


def test_without_a_watch_on_kueue_a_default_queue_is_named_all_the_same():
    made = plan(observe(job(), **defaulted()), at(30), CONFIG)
    assert made.status["phase"] == "Queued"
    told = condition(made, "DatasetReady")["message"]
    assert "LocalQueue default" in told
    assert "kueue.enabled" in told


def test_a_queue_of_other_clusters_is_refused_with_the_reason():
    snapshot = in_queue("check pending")
    snapshot["jobs"][TRAIN]["spec"]["managedBy"] = "kueue.x-k8s.io/multikueue"
    body = begun()
    made = plan(observe(body, **snapshot), at(100), CONFIG)
    assert made.status["phase"] == "Failed"
    assert made.status["lastFailure"]["reason"] == "MultiKueue"
    assert "LocalQueue team-a" in condition(made, "Failed")["message"]
    # What was handed over is taken back, also by the next plan.
    off = ActivateWorkload(stage=TRAIN, name=state_of("check pending").workload, active=False)
    assert made.then == (off,)
    assert plan(observe(after(body, made), **snapshot), at(110), CONFIG).then == (off,)
