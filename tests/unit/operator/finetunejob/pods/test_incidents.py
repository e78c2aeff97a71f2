"""What ended an attempt, what it costs, and when a stage is given up."""

from __future__ import annotations

import pytest

from finetune_api.names import Owner
from finetune_api.protocol.trainer import ExitCode, FailureClass, Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods.incidents import find_incidents
from finetune_operator.finetunejob.render.job import PUBLISH_RETRIES, render_job
from finetune_operator.finetunejob.state.actions import PauseJob
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    after,
    at,
    child,
    condition,
    ended,
    failed,
    initializing,
    job,
    merged,
    observe,
    pod,
    running,
    stages_done,
    succeeded,
    words,
)

PREPARE, TRAIN = Stage.PREPARE, Stage.TRAIN

DRAINED = {"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}
TAINTED = {"type": "DisruptionTarget", "status": "True", "reason": "DeletionByTaintManager"}
PEER_LOST = words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeerLost", "rank 0 is gone")
NO_PEER = words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeersMissing", "no node 1")


def own(code, *, rank=0, start=0.0, end=60.0, text="", **more):
    """Return the pod of a rank that failed of itself."""
    name = f"rank{rank}-{int(start)}"
    return ended(
        TRAIN, code, text, name=name, index=rank, start=start, end=end, created=start, **more
    )


def peer(*, rank, start=0.0, end=65.0, **more):
    """Return the pod of a rank that only noticed."""
    return own(75, rank=rank, start=start, end=end, text=PEER_LOST, **more)


def alive(*, rank, start=0.0):
    state = {"running": {"startedAt": timestamp(at(start))}}
    return pod(TRAIN, name=f"rank{rank}-{int(start)}", index=rank, created=start, state=state)


def attempt(number, *, code=77, ranks=16):
    """Return the pods of an attempt in which rank 0 failed, and the others noticed."""
    start = 100.0 + 200 * number
    first = own(code, start=start, end=start + 60)
    return [first, *(peer(rank=n, start=start + 1, end=start + 70) for n in range(1, ranks))]


def of_class(pods, now=10_000):
    return [(each.incident_class, each.rank) for each in find_incidents(pods, at(now))]


def in_training(**spec):
    """Return a job whose training Job is there."""
    body = job(**spec)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, body, status=running())}})
    return after(body, plan(observe(body, **known), at(70), CONFIG)), known


def told(body, known, pods, seconds):
    """Plan with these pods; return the plan, and the object as it is stored then."""
    known = merged(known, {"pods": {TRAIN: tuple(pods)}})
    made = plan(observe(body, **known), at(seconds), CONFIG)
    return made, after(body, made)


# ---- what is one incident, and whose -----------------------------------------------------------


@pytest.mark.parametrize(
    ("pods", "expected"),
    [
        ([], []),
        ([alive(rank=0)], []),
        ([succeeded(TRAIN)], []),
        ([own(77)], [("OutOfMemory", 0)]),
        ([own(64)], [("User", 0)]),
        ([own(65)], [("Data", 0)]),
        ([own(73)], [("Storage", 0)]),
        ([own(76)], [("Hang", 0)]),
        ([own(76), own(76, rank=1), peer(rank=2)], [("Hang", 0)]),
        ([own(70)], [("Internal", 0)]),
        ([own(1)], [("Internal", 0)]),
        ([own(137)], [("Infrastructure", 0)]),
        ([own(137, reason="OOMKilled")], [("OutOfMemory", 0)]),
        ([own(255)], [("Internal", 0)]),
        ([own(255, reason="Unknown")], [("Infrastructure", 0)]),
        ([own(137, reason="ContainerStatusUnknown")], [("Infrastructure", 0)]),
        ([own(79)], [("Preemption", 0)]),
        ([own(79, conditions=[DRAINED])], [("Preemption", 0)]),
        ([own(79, conditions=[TAINTED])], [("Infrastructure", 0)]),
        ([own(79, deleted=True), own(143, rank=1, deleted=True)], []),
        ([pod(TRAIN, phase="Failed", deleted=True)], []),
        ([initializing(TRAIN, ("vault", {"terminated": {"exitCode": 137}}), phase="Failed",
                       deleted=True)], []),
        ([initializing(TRAIN, ("vault", {"terminated": {"exitCode": 1}}), phase="Failed")],
         [("Infrastructure", 0)]),
        ([peer(rank=0), peer(rank=1)], []),
        ([own(75, end=3600, text=NO_PEER)], []),
        (attempt(0), [("OutOfMemory", 0)]),
        ([*attempt(0), *attempt(1), *attempt(2)], [("OutOfMemory", 0)] * 3),
        ([own(77, end=60), own(77, rank=1, end=60)], [("OutOfMemory", 0)]),
        ([own(1, end=60), own(77, rank=1, end=62)], [("OutOfMemory", 1)]),
        ([own(1, end=60), own(77, rank=1, end=90)], [("Internal", 0)]),
        ([own(77, end=60), own(1, rank=1, end=1800)], [("OutOfMemory", 0)]),
        ([own(77, end=60), own(77, rank=1, start=70, end=90)],
         [("OutOfMemory", 0), ("OutOfMemory", 1)]),
        ([own(77, end=60), own(77, start=60, end=90)], [("OutOfMemory", 0), ("OutOfMemory", 0)]),
    ],
    ids=[
        "nothing", "runs", "succeeded", "memory", "user", "data", "storage", "hang",
        "hang of all", "internal", "crash", "killed", "killed for memory",
        "an exit code that nobody gives", "node restarted", "container not found",
        "stopped by hand", "drained", "node lost",
        "stopped on request", "deleted before it started", "deleted with an init container",
        "an init container failed", "only peers", "no peer came",
        "one of sixteen", "three times one of sixteen",
        "two ranks at once", "a crash beside a cause", "a crash long before", "noticed late",
        "another rank of the next attempt", "the same rank in the same second",
    ],
)  # fmt: skip
def test_endings_that_belong_together_are_one_incident_with_its_root_cause(pods, expected):
    assert of_class(pods) == expected


def test_a_single_pod_that_lost_a_peer_lost_a_process_of_its_own_and_that_costs_nothing():
    (incident,) = find_incidents([peer(rank=0)], at(100), has_peers=False)
    assert (incident.incident_class, incident.is_free) == ("Infrastructure", True)
    body, known = in_training(backoffLimit=0)
    _, body = told(body, known, [peer(rank=0)], 100)
    assert not is_terminal(body["status"])
    assert [item["reason"] for item in body["status"]["attempts"]["history"]] == ["PeerLost"]


def test_other_ranks_are_waited_for_before_a_failure_is_believed_to_be_the_first():
    pods = [own(1, end=60), alive(rank=1)]
    (young,) = find_incidents(pods, at(62))
    assert not young.is_settled
    (old,) = find_incidents(pods, at(66))
    assert old.is_settled
    (alone,) = find_incidents([own(1, end=60)], at(60))
    assert alone.is_settled


def test_an_end_that_no_kubelet_saw_is_dated_to_when_the_pod_was_no_longer_ready():
    """Its times are missing, or the zero of the runtime's clock: an earlier incident had them."""
    not_ready = {"type": "Ready", "status": "False", "lastTransitionTime": timestamp(at(900))}
    zero = "1970-01-01T00:00:00Z"
    for times in ({"startedAt": None, "finishedAt": None}, {"startedAt": zero, "finishedAt": zero}):
        state = {"terminated": {"exitCode": 137, "reason": "ContainerStatusUnknown", **times}}
        lost = pod(TRAIN, phase="Failed", state=state, created=100, conditions=[not_ready])
        (incident,) = find_incidents([lost], at(1000))
        assert (incident.began, incident.at) == (at(100), at(900))


@pytest.mark.parametrize(("code", "reason"), [(255, "Unknown"), (137, "ContainerStatusUnknown")])
def test_a_node_that_restarts_costs_nothing_however_often_while_steps_are_made(code, reason):
    body, known = in_training(backoffLimit=0, retryPolicy={"infrastructure": 0})
    pods = []
    for n in range(9):
        pods.append(own(code, reason=reason, start=100 * n, end=100 * n + 60))
        reported = timestamp(at(100 * n + 50))
        progress = {"stage": "train", "step": n + 1, "lastHeartbeatTime": reported}
        body = {**body, "status": {**body["status"], "progress": progress}}
        made, body = told(body, known, pods, 100 * n + 70)
    assert not is_terminal(body["status"])
    assert body["status"]["attempts"]["counted"] == 0
    assert {entry["counted"] for entry in body["status"]["attempts"]["history"]} == {False}


# ---- budgets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("nodes", [1, 2, 16])
def test_backoff_limit_counts_incidents_whatever_the_number_of_nodes(nodes):
    body, known = in_training(resources={"nodes": nodes, "gpusPerNode": 1})
    pods = []
    for number in range(4):
        assert not is_terminal(body["status"])
        pods += attempt(number, ranks=nodes)
        made, body = told(body, known, pods, 400 + 200 * number)
        assert body["status"]["attempts"]["counted"] == number + 1
    assert condition(made, "Failed")["reason"] == "OutOfMemory"
    assert "All retries of backoffLimit (3) are used up." in condition(made, "Failed")["message"]
    assert [type(action) for action in made.then] == [PauseJob]
    assert body["status"]["stages"][1]["incidents"] == [{"name": "OutOfMemory", "count": 4}]


@pytest.mark.parametrize(
    ("policy", "limit", "code", "count", "gives_up", "says"),
    [
        ({"storage": 5}, 0, 73, 5, False, ""),
        ({"storage": 5}, 0, 73, 6, True, "retryPolicy.storage (5)"),
        ({"storage": 0}, 3, 73, 1, True, "retryPolicy.storage is 0"),
        ({"outOfMemory": 1}, 0, 77, 2, True, "retryPolicy.outOfMemory (1)"),
        ({"infrastructure": 2}, 0, 137, 2, False, ""),
        ({"hang": 1}, 0, 76, 2, True, "retryPolicy.hang (1)"),
        ({"storage": 5}, 1, 77, 1, False, ""),
        ({"storage": 5}, 1, 77, 2, True, "backoffLimit (1)"),
        ({}, 0, 1, 1, True, "backoffLimit is 0"),
        ({"storage": 5}, 0, 79, 9, False, ""),
    ],
)
def test_a_class_that_is_named_has_a_budget_of_its_own(policy, limit, code, count, gives_up, says):
    body, known = in_training(backoffLimit=limit, retryPolicy=policy)
    pods = [own(code, start=100 * n, end=100 * n + 60) for n in range(count)]
    made, body = told(body, known, pods, 2000)
    assert is_terminal(body["status"]) is gives_up
    assert says in (condition(made, "Failed") or {}).get("message", "")


def test_classes_without_a_budget_of_their_own_share_one():
    body, known = in_training(backoffLimit=2)
    codes = [73, 77, 1]
    pods = [own(code, start=100 * n, end=100 * n + 60) for n, code in enumerate(codes)]
    assert not is_terminal(told(body, known, pods[:2], 2000)[1]["status"])
    assert is_terminal(told(body, known, pods, 2000)[1]["status"])


@pytest.mark.parametrize("code", [64, 65])
def test_what_cannot_help_is_not_tried_again_whatever_the_budget(code):
    body, known = in_training(backoffLimit=100)
    _, body = told(body, known, [own(code)], 100)
    assert is_terminal(body["status"])


def test_a_budget_that_is_raised_while_the_job_runs_holds():
    body, known = in_training(backoffLimit=0)
    body = {**body, "spec": {**body["spec"], "backoffLimit": 1}}
    _, body = told(body, known, [own(77)], 100)
    assert not is_terminal(body["status"])


@pytest.mark.parametrize("lost", [DRAINED, TAINTED])
def test_preemptions_and_lost_nodes_cost_nothing(lost):
    body, known = in_training(backoffLimit=0)
    pods = [own(79, start=100 * n, end=100 * n + 60, conditions=[lost]) for n in range(20)]
    _, body = told(body, known, pods, 5000)
    assert not is_terminal(body["status"])
    assert body["status"]["attempts"]["counted"] == 0
    assert len(body["status"]["attempts"]["history"]) == 10


# ---- the record --------------------------------------------------------------------------------


def test_the_history_says_what_happened_where_and_to_which_step():
    body, known = in_training(resources={"nodes": 2, "gpusPerNode": 1})
    text = words(
        TRAIN, ExitCode.OUT_OF_MEMORY, FailureClass.OUT_OF_MEMORY, "CudaOutOfMemory", "more memory",
        step=57, resumed_from_step=50,
    )  # fmt: skip
    made, body = told(body, known, [own(77, rank=1, text=text), peer(rank=0)], 100)
    assert made.status["attempts"]["history"] == [
        {
            "class": "OutOfMemory",
            "reason": "CudaOutOfMemory",
            "stage": "train",
            "rank": 1,
            "node": "node-1",
            "pod": "rank1-0",
            "fromStep": 50,
            "toStep": 57,
            "counted": True,
            "time": timestamp(at(60)),
        }
    ]
    assert made.status["lastFailure"]["reason"] == "CudaOutOfMemory"
    assert told(body, known, [own(77, rank=1, text=text), peer(rank=0)], 101)[0].status is None


def test_an_incident_is_counted_once_also_where_its_pods_are_gone():
    """The operator restarts, the cluster collects pods: the record in the status is the memory."""
    body, known = in_training()
    _, body = told(body, known, [own(77)], 100)
    _, body = told(body, known, [own(77, start=70, end=90)], 200)
    assert body["status"]["attempts"]["counted"] == 2
    _, body = told(body, known, [], 300)
    assert body["status"]["attempts"]["counted"] == 2


def test_a_peer_that_notices_after_the_incident_is_recorded_is_part_of_it():
    body, known = in_training(resources={"nodes": 2, "gpusPerNode": 1})
    _, body = told(body, known, [own(77), alive(rank=1)], 100)
    assert body["status"]["attempts"]["counted"] == 1
    late = own(1, rank=1, end=1900)  # NCCL's watchdog after half an hour; rank 0's pod is gone
    _, body = told(body, known, [late, alive(rank=0, start=70)], 2000)
    assert body["status"]["attempts"]["counted"] == 1


def test_what_an_operator_missed_is_in_the_record_of_a_stage_that_has_ended():
    body, known = in_training()
    over = merged(known, stages_done(TRAIN))
    over["pods"][TRAIN] = (own(77, start=0, end=30), succeeded(TRAIN))
    made = plan(observe(body, **over), at(200), CONFIG)
    assert [item["class"] for item in made.status["attempts"]["history"]] == ["OutOfMemory"]
    assert not is_terminal(made.status)


def test_a_job_that_the_job_controller_failed_keeps_its_cause():
    body, known = in_training()
    over = merged(known, {"jobs": {TRAIN: child(TRAIN, status=failed("PodFailurePolicy"))}})
    made, body = told(body, over, [own(65)], 100)
    assert condition(made, "Failed")["reason"] == "DataError"
    assert body["status"]["attempts"]["history"][0]["class"] == "Data"


def test_words_of_a_newer_trainer_are_understood_as_far_as_they_are_known():
    text = words(TRAIN, ExitCode.INTERNAL, FailureClass.INTERNAL, "Crash", "it broke")
    newer = text.replace('"reason"', '"mood":"grim","reason"')
    (incident,) = find_incidents([own(70, text=newer)], at(100))
    assert (incident.cause.reason, incident.cause.message) == ("Crash", "it broke")


# ---- the Job -----------------------------------------------------------------------------------


@pytest.mark.parametrize("stage", Stage)
def test_the_job_controller_neither_gives_up_nor_waits_longer_for_more_pods(stage):
    spec = FineTuneJob.from_wire(job(backoffLimit=0, resources={"nodes": 16})).spec
    rendered = render_job(spec, stage, Owner(namespace="x", name="y", uid="z"), CONFIG)["spec"]
    assert rendered["backoffLimit"] == (PUBLISH_RETRIES if stage is Stage.PUBLISH else 2**31 - 1)
    assert rendered.get("backoffLimitPerIndex") == (2**31 - 1 if stage is TRAIN else None)
    actions = [rule["action"] for rule in rendered["podFailurePolicy"]["rules"]]
    assert actions == ["Ignore", "FailJob"]


@pytest.mark.parametrize("code", [79, 75, 137])
def test_a_pod_that_uses_more_disk_than_it_may_counts_however_it_ends(code):
    evicted = own(code)
    evicted["status"] |= {"reason": "Evicted", "message": "usage exceeds the limit"}
    (incident,) = find_incidents([evicted], at(10_000))
    assert not incident.is_free
    assert "This counts against backoffLimit" in incident.cause.message
