"""Pods that do not start."""

from __future__ import annotations

from uuid import UUID

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import LookUpWarnings, PauseJob
from finetune_operator.finetunejob.state.observed import WarningEvent
from finetune_operator.finetunejob.state.waiting import find_wait
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONDITIONS,
    CONFIG,
    NOW,
    accepted,
    after,
    at,
    child,
    condition,
    done_before,
    ended,
    initializing,
    job,
    merged,
    observe,
    plans,
    pod,
    reasons,
    running,
    stages_done,
    succeeded,
    trained,
    unscheduled,
    waiting,
    with_train_pod,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
NO_SECRET = WarningEvent(
    "FailedMount",
    'MountVolume.SetUp failed for volume "credentials-0": secret "s3-rw" not found',
)


def no_address(number=0):
    """What the kubelet tells at each try, of another sandbox."""
    return WarningEvent(
        "FailedCreatePodSandBox",
        f'Failed to create pod sandbox: no network for sandbox "{number:064x}": plugin'
        ' type="aws-cni": failed to assign an IP address.',
    )


NO_ADDRESS = no_address()


def in_stage(stage, *pods, warning=None):
    """A job in this stage with these pods, and what the Events of the first say."""
    body = accepted() if stage is PREPARE else trained()
    known = merged(
        done_before(stage),
        {"jobs": {stage: child(stage, status=running(60))}, "pods": {stage: pods}},
    )
    return body, {**known, "warnings": {pods[0]["metadata"]["name"]: warning}}


def test_an_image_that_cannot_be_pulled_is_told_at_once_and_fails_after_its_deadline():
    body = trained()
    known = with_train_pod(body, waiting(TRAIN, "ImagePullBackOff", "manifest unknown"))
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.status["lastFailure"]["class"] == "ImageError"
    assert condition(made, "Training")["reason"] == "ImagePullBackOff"
    assert "manifest unknown" in condition(made, "Training")["message"]
    assert not is_terminal(made.status)
    assert made.requeue_after is not None
    late = plan(observe(after(body, made), **known), at(701), CONFIG)
    assert condition(late, "Failed")["reason"] == "ImageError"
    assert [type(action) for action in late.then] == [PauseJob]


def test_a_start_has_its_time_from_the_first_failure_on():
    """Not from scheduling: an image of 40 GB is pulled for longer than that without any failure."""
    body = trained()
    failing = with_train_pod(body, waiting(TRAIN, "ErrImagePull", "connection reset"))
    made = plan(observe(body, **failing), at(621), CONFIG)
    assert not is_terminal(made.status)
    assert made.requeue_after == pytest.approx(30)
    body = after(body, made)
    backing_off = with_train_pod(body, waiting(TRAIN, "ImagePullBackOff", "connection reset"))
    made = plan(observe(body, **backing_off), at(1200), CONFIG)
    assert not is_terminal(made.status)
    made = plan(observe(after(body, made), **backing_off), at(1221), CONFIG)
    assert condition(made, "Failed")["reason"] == "ImageError"


def test_a_start_that_went_well_in_between_has_its_whole_time_again():
    body = trained()
    failing = with_train_pod(body, waiting(TRAIN, "ErrImagePull", "connection reset"))
    pulling = with_train_pod(body, waiting(TRAIN, "PodInitializing"))
    for seconds, known in [(100, failing), (200, pulling), (900, failing)]:
        made = plan(observe(body, **known), at(seconds), CONFIG)
        body = after(body, made)
    assert not is_terminal(body["status"])
    assert body["status"]["lastFailure"]["time"] == timestamp(at(900))


def test_a_volume_that_another_node_still_holds_is_waited_for():
    body = trained()
    known = with_train_pod(body, waiting(TRAIN, "ContainerCreating"))
    held = WarningEvent("FailedAttachVolume", "Multi-Attach error for volume")
    known["warnings"] = {"headlines-train-0-abcde": held}
    made = plan(observe(body, **known), at(601), CONFIG)
    assert condition(made, "Training")["reason"] == "VolumesNotReady"
    assert not is_terminal(made.status)


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_a_secret_that_does_not_exist_is_waited_for_until_its_deadline(stage):
    body, known = in_stage(stage, waiting(stage, "ContainerCreating"), warning=NO_SECRET)
    made, body = plans(body, known, 100, 699, 701)
    assert [is_terminal(each.status) for each in (made[0], made[2])] == [False, True]
    assert made[1].status is None
    assert body["status"]["lastFailure"]["reason"] == "VolumesNotReady"
    assert condition(body, "Failed")["reason"] == "UserError"


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_a_node_that_cannot_start_a_pod_is_waited_for_and_told_as_what_it_is(stage):
    """Nothing of it is the job's: its network plugin has no address to give, for example."""
    body, known = in_stage(stage, waiting(stage, "ContainerCreating"), warning=NO_ADDRESS)
    made, body = plans(body, known, 100, 130, 800, 100_000)
    told = condition(body, CONDITIONS[stage])
    assert (told["status"], told["reason"]) == ("False", "FailedCreatePodSandBox")
    assert "on node-1: " in told["message"]
    assert "failed to assign an IP address." in told["message"]
    assert f"kubectl -n team-a delete pod headlines-{stage.value}-0-abcde" in told["message"]
    assert "Secrets" not in told["message"]
    failure = body["status"]["lastFailure"]
    assert (failure["class"], failure["reason"]) == ("Retryable", "FailedCreatePodSandBox")
    assert [reasons(each).count("FailedCreatePodSandBox") for each in made] == [1, 0, 0, 0]
    assert {each.requeue_after for each in made} == {30.0}
    assert not is_terminal(body["status"])
    wait = find_wait(body, at(100_000), expects_progress=True)
    assert (wait.state, wait.reason) == ("NotStarting", "FailedCreatePodSandBox")


def no_attachment(number):
    """The same of Multus, which names the network namespace too."""
    return WarningEvent(
        "FailedCreatePodSandBox",
        'Failed to create pod sandbox: plugin type="multus-shim" failed (add):'
        f' ContainerID:"{number:064x}" Netns:"/var/run/netns/cni-{UUID(int=number)}"',
    )


def no_answer(number):
    """The same of a plugin that asks a daemon."""
    return WarningEvent(
        "FailedCreatePodSandBox",
        f"Failed to create pod sandbox: read tcp 10.0.0.1:{40000 + number}->10.96.0.1:443: EOF",
    )


@pytest.mark.parametrize("told", [no_address, no_attachment, no_answer])
def test_another_try_of_the_node_is_no_news(told):
    body, known = in_stage(PREPARE, waiting(PREPARE, "ContainerCreating"), warning=told(1))
    _, body = plans(body, known, 100)
    known["warnings"] = {"headlines-prepare-0-abcde": told(2)}
    (made,), _ = plans(body, known, 130)
    assert made.status is None, "nothing to write"


CLAIM = f'AttachVolume.Attach failed for volume "pvc-{UUID(int=7)}"'


@pytest.mark.parametrize(
    ("warning", "words"),
    [
        (no_answer(1), "read tcp 10.0.0.1:...->10.96.0.1:443: EOF"),
        (WarningEvent("FailedAttachVolume", f"{CLAIM}: request {UUID(int=8)}: timeout"),
         f"{CLAIM}: request ...: timeout"),
    ],
    ids=["the port that is connected to", "a volume's name"],
)  # fmt: skip
def test_what_a_try_does_not_draw_is_told(warning, words):
    _, body = plans(*in_stage(PREPARE, waiting(PREPARE, ""), warning=warning), 100)
    assert words in condition(body, "DatasetReady")["message"]


def test_a_node_that_can_start_pods_again_leaves_nothing_used_up():
    body, known = in_stage(TRAIN, waiting(TRAIN, "ContainerCreating"), warning=NO_ADDRESS)
    _, body = plans(body, known, 100, 2000)
    known["pods"][TRAIN] = (pod(TRAIN, state={"running": {"startedAt": timestamp(at(2010))}}),)
    _, body = plans(body, known, 2020)
    assert condition(body, "Training")["status"] == "True"
    assert body["status"]["attempts"]["counted"] == 0


def test_a_wrong_image_name_fails_at_once():
    body = trained()
    known = with_train_pod(body, waiting(TRAIN, "InvalidImageName", "bad"))
    made = plan(observe(body, **known), at(100), CONFIG)
    assert condition(made, "Failed")["reason"] == "ImageError"


def test_an_unschedulable_pod_waits_for_ever_with_the_schedulers_reason():
    body = trained()
    unscheduled = pod(
        TRAIN, phase="Pending", node="",
        conditions=[{"type": "PodScheduled", "status": "False", "reason": "Unschedulable",
                     "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
                     "lastTransitionTime": timestamp(at(80))}],
    )  # fmt: skip
    known = with_train_pod(body, unscheduled)
    made = plan(observe(body, **known), at(100_000), CONFIG)
    assert condition(made, "Training")["reason"] == "Unschedulable"
    assert "Insufficient nvidia.com/gpu" in condition(made, "Training")["message"]
    assert made.status["lastFailure"]["class"] == "Unschedulable"
    assert not is_terminal(made.status)
    assert reasons(made) == ["Unschedulable"]


def test_pods_that_have_ended_well_are_not_starting():
    """The Job controller may be behind: its Job is over seconds after its pods."""
    begun, running_pod = trained(), with_train_pod(trained(), pod(TRAIN))
    body = after(begun, plan(observe(begun, **running_pod), at(75), CONFIG))
    assert condition(body, "Training")["status"] == "True"
    known = with_train_pod(body, succeeded(TRAIN))
    made = plan(observe(body, **known), at(80), CONFIG)
    assert made.status is None or made.status == body["status"]
    assert reasons(made) == []


def test_of_two_ranks_one_that_has_ended_well_says_nothing_of_the_other():
    body = trained(job(resources={"nodes": 2, "gpusPerNode": 1}))
    two = {"jobs": {TRAIN: child(TRAIN, body, status={"startTime": timestamp(NOW), "active": 1})}}
    over = ended(TRAIN, 0, name="headlines-train-0-a")
    young = pod(TRAIN, phase="Pending", index=1, node="")
    known = merged(stages_done(PREPARE), two, {"pods": {TRAIN: (over, young)}})
    made = plan(observe(body, **known), at(80), CONFIG)
    assert condition(made, "Training")["reason"] == "WaitingForPods"


def test_a_pod_whose_predecessor_is_still_in_its_place_is_not_worth_a_word():
    body = trained()
    known = with_train_pod(body, unscheduled())  # since second 60
    made = plan(observe(body, **known), at(62), CONFIG)
    assert reasons(made) == []
    assert condition(made, "Training")["reason"] == "WaitingForPods"
    assert "lastFailure" not in made.status
    assert made.requeue_after == 28
    body["status"] = made.status
    later = plan(observe(body, **known), at(90), CONFIG)
    assert reasons(later) == ["Unschedulable"]
    assert condition(later, "Training")["reason"] == "Unschedulable"
    body["status"] = later.status
    assert reasons(plan(observe(body, **known), at(900), CONFIG)) == []


def test_a_pod_stuck_in_creation_has_its_warnings_looked_up():
    body = trained()
    known = with_train_pod(body, waiting(TRAIN, "ContainerCreating"))
    made = plan(observe(body, **known), at(30), CONFIG)
    assert made.first == (
        LookUpWarnings(kind="Pod", names=("headlines-train-0-abcde",), since=at(-150)),
    )
    known["warnings"] = {"headlines-train-0-abcde": NO_SECRET}
    made = plan(observe(body, **known), at(30), CONFIG)
    assert made.first == ()
    assert made.status["lastFailure"]["reason"] == "VolumesNotReady"
    assert 'secret "s3-rw" not found' in condition(made, "Training")["message"]


def test_a_pod_that_waited_long_for_its_node_has_as_long_to_start_as_any_other():
    body = trained()
    scheduled = [
        {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(at(5000))}
    ]
    young = waiting(TRAIN, "ContainerCreating", conditions=scheduled)
    made = plan(observe(body, **with_train_pod(body, young)), at(5005), CONFIG)
    assert made.first == ()
    assert made.requeue_after == pytest.approx(15)
    pulling = waiting(TRAIN, "ErrImagePull", "registry restarts", conditions=scheduled)
    made = plan(observe(body, **with_train_pod(body, pulling)), at(5005), CONFIG)
    assert condition(made, "Training")["reason"] == "ErrImagePull"
    assert not is_terminal(made.status)


def test_a_young_pod_is_left_in_peace():
    body = trained()
    known = with_train_pod(body, waiting(TRAIN, "ContainerCreating"))
    made = plan(observe(body, **known), at(5), CONFIG)
    assert made.first == ()
    assert made.requeue_after == pytest.approx(15)


# ---- containers that others have put before the stage's ----------------------------------------

NO_IMAGE = {"waiting": {"reason": "ImagePullBackOff", "message": "no such image"}}
NOT_BEGUN = {"waiting": {"reason": "PodInitializing"}}
RUNS = {"running": {"startedAt": timestamp(at(70))}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
CRASHES = {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 5m0s restarting"}}


@pytest.mark.parametrize("stage", list(CONDITIONS))
def test_an_image_of_an_init_container_that_cannot_be_pulled_has_a_deadline_too(stage):
    body, known = in_stage(stage, initializing(stage, ("istio-init", NO_IMAGE)))
    made, body = plans(body, known, 100)
    told = condition(body, CONDITIONS[stage])
    assert told["reason"] == "ImagePullBackOff"
    assert "init container istio-init" in told["message"]
    assert ": no such image" in told["message"]
    assert "spec.trainer.image" not in told["message"]
    assert reasons(made[0]).count("ImagePullBackOff") == 1
    made, body = plans(body, known, 701)
    assert condition(body, "Failed")["reason"] == "ImageError"


@pytest.mark.parametrize(
    ("before", "reason", "words"),
    [
        ([("a", DONE), ("b", NO_IMAGE), ("c", NOT_BEGUN)], "ImagePullBackOff", "container b"),
        ([("mesh", RUNS, True), ("b", NO_IMAGE)], "ImagePullBackOff", "container b"),
        ([("mesh", CRASHES, False), ("b", NOT_BEGUN)], "CrashLoopBackOff", "container mesh"),
        ([("a", {"waiting": {"reason": "CreateContainerError", "message": "no"}})],
         "CreateContainerError", "Init container a cannot be created: no"),
    ],
    ids=["the first that is not done", "a native sidecar runs on", "it crashes", "not created"],
)  # fmt: skip
def test_the_first_init_container_that_waits_for_a_reason_is_named(before, reason, words):
    body, known = in_stage(TRAIN, initializing(TRAIN, *before))
    _, body = plans(body, known, 100)
    assert condition(body, "Training")["reason"] == reason
    assert words in condition(body, "Training")["message"]


def test_a_sidecar_that_crashes_is_waited_for_it_is_none_of_the_jobs():
    body, known = in_stage(EVALUATE, initializing(EVALUATE, ("istio-proxy", CRASHES, False)))
    _, body = plans(body, known, 100, 800, 9000)
    assert body["status"]["lastFailure"]["class"] == "Retryable"
    assert (
        "logs headlines-evaluate-0-abcde -c istio-proxy"
        in (condition(body, "Evaluated")["message"])
    )
    assert not is_terminal(body["status"])


NOT_RUN = {"waiting": {"reason": "RunContainerError", "message": 'exec: "sh": not found'}}
NOT_CREATED = {"waiting": {"reason": "CreateContainerError", "message": "no such program"}}


@pytest.mark.parametrize(
    "states",
    [
        [("vllm", NOT_RUN, False), ("vllm", CRASHES, False)],
        [("garak", NO_IMAGE, False), ("garak", NOT_RUN, False)],
        [("istio-init", NO_IMAGE), ("istio-init", NOT_CREATED)],
    ],
    ids=["ended, and not begun anew", "pulled at last", "of two classes"],
)
def test_a_start_that_fails_in_several_ways_by_turns_has_its_time_from_the_first(states):
    body, known = in_stage(EVALUATE, initializing(EVALUATE, states[0]))
    ended_at = None
    for number, seconds in enumerate(range(100, 900, 100)):
        state = states[number % len(states)]
        known["pods"] = {**known["pods"], EVALUATE: (initializing(EVALUATE, state),)}
        _, body = plans(body, known, seconds)
        if is_terminal(body["status"]):
            ended_at = seconds
            break
    assert ended_at == 700
    assert condition(body, "Failed")["reason"] in ("ImageError", "UserError")


def test_what_the_node_lacks_uses_up_none_of_a_starts_time():
    body, known = in_stage(TRAIN, waiting(TRAIN, "ContainerCreating"), warning=NO_ADDRESS)
    _, body = plans(body, known, 100, 5000)
    known["warnings"] = {"headlines-train-0-abcde": NO_SECRET}
    _, body = plans(body, known, 5030, 5620)
    assert not is_terminal(body["status"])
    _, body = plans(body, known, 5640)
    assert condition(body, "Failed")["reason"] == "UserError"


def test_events_are_asked_for_where_init_containers_have_not_begun():
    """Volumes come before all containers: the kubelet says only that the pod initialises."""
    body, known = in_stage(PREPARE, initializing(PREPARE, ("istio-init", NOT_BEGUN)))
    (made,), _ = plans(body, {**known, "warnings": {}}, 100)
    assert [action.names for action in made.first] == [("headlines-prepare-0-abcde",)]
    known["warnings"] = {"headlines-prepare-0-abcde": NO_SECRET}
    _, body = plans(body, known, 100)
    assert condition(body, "DatasetReady")["reason"] == "VolumesNotReady"


# ---- pods of which nothing bad is known --------------------------------------------------------

SCHEDULED = {"type": "PodScheduled", "status": "True", "lastTransitionTime": timestamp(at(60))}
SLOW = {
    "an init container that hangs": (
        lambda stage: initializing(stage, ("vault-agent-init", RUNS), conditions=[SCHEDULED]),
        ["init container vault-agent-init", "since 2026-11-24T12:01:10Z",
         "kubectl -n team-a logs headlines-{}-0-abcde -c vault-agent-init"],
    ),
    "a native sidecar that is never ready": (
        lambda stage: initializing(stage, ("istio-proxy", RUNS, False)),
        ["init container istio-proxy", "-c istio-proxy"],
    ),
    "a scheduler that does not exist": (
        lambda stage: pod(stage, phase="Pending", node="", spec={"schedulerName": "volcano"}),
        ["no scheduler", "volcano", "podTemplate.schedulerName",
         "kubectl -n team-a describe pod headlines-{}-0-abcde"],
    ),
    "a pod of which the kubelet tells nothing": (
        lambda stage: pod(stage, phase="Pending"),
        ["on node-1", "kubectl -n team-a describe pod headlines-{}-0-abcde"],
    ),
    "a large image": (
        lambda stage: waiting(stage, "ContainerCreating"),
        ["on node-1", "image", "kubectl -n team-a describe pod headlines-{}-0-abcde"],
    ),
}  # fmt: skip


UNHEALTHY = WarningEvent("Unhealthy", "Startup probe failed: HTTP probe failed: 503")


def test_an_init_container_that_runs_is_waited_for_whatever_the_pods_events_say():
    pods = initializing(EVALUATE, ("istio-proxy", RUNS, False))
    body, known = in_stage(EVALUATE, pods, warning=UNHEALTHY)
    _, body = plans(body, known, 100)
    assert condition(body, "Evaluated")["reason"] == "Evaluating"
    _, body = plans(body, known, 500)
    told = condition(body, "Evaluated")
    assert told["reason"] == "WaitingForPods"
    assert "-c istio-proxy" in told["message"]


@pytest.mark.parametrize("stage", list(CONDITIONS))
@pytest.mark.parametrize("case", list(SLOW))
def test_a_pod_that_is_pending_for_minutes_is_not_said_to_be_at_work(stage, case):
    make, words = SLOW[case]
    body, known = in_stage(stage, make(stage))
    (early, *later), body = plans(body, known, 100, 361, 400, 7 * 86400)
    told = condition(body, CONDITIONS[stage])
    assert (told["status"], told["reason"]) == ("False", "WaitingForPods")
    for each in ["headlines-{}-0-abcde", *words]:
        assert each.format(stage.value) in told["message"]
    assert early.requeue_after == 30.0
    assert [each.status is None for each in later] == [False, True, True], "told once"
    assert not is_terminal(body["status"])
    wait = find_wait(body, at(7 * 86400), expects_progress=True)
    assert (wait.state, wait.reason) == ("NotStarting", "WaitingForPods")


def test_a_slow_pod_that_runs_at_last_is_at_work():
    body, known = in_stage(PREPARE, waiting(PREPARE, "ContainerCreating"))
    _, body = plans(body, known, 500)
    known["pods"][PREPARE] = (pod(PREPARE, state=RUNS),)
    _, body = plans(body, known, 600)
    assert condition(body, "DatasetReady")["reason"] == "Preparing"


def test_a_rank_that_does_not_come_is_told_although_the_others_run():
    body = trained(job(resources={"nodes": 2, "gpusPerNode": 8}))
    slow = waiting(TRAIN, "ContainerCreating", index=1)
    under_way = child(TRAIN, body, status={**running(60), "active": 2})
    pods = {TRAIN: (pod(TRAIN, state=RUNS), slow)}
    known = merged(done_before(TRAIN), {"jobs": {TRAIN: under_way}, "pods": pods})
    _, body = plans(body, {**known, "warnings": {slow["metadata"]["name"]: None}}, 100, 500)
    told = condition(body, "Training")
    assert (told["status"], told["reason"]) == ("False", "WaitingForPods")
    assert "headlines-train-1-abcde" in told["message"]


@pytest.mark.parametrize("reason", ["ContainerCreating", "ImagePullBackOff"])
def test_of_several_pods_that_do_not_start_always_the_same_is_told(reason):
    body = trained(job(resources={"nodes": 2, "gpusPerNode": 8}))
    slow = [waiting(TRAIN, reason, index=index) for index in (0, 1)]
    under_way = child(TRAIN, body, status={**running(60), "active": 2})
    known = merged(done_before(TRAIN), {"jobs": {TRAIN: under_way}, "pods": {TRAIN: slow}})
    known["warnings"] = {each["metadata"]["name"]: None for each in slow}
    _, body = plans(body, known, 500)
    known["pods"] = {**known["pods"], TRAIN: slow[::-1]}
    (made,), _ = plans(body, known, 530)
    assert made.status is None, "nothing to write"


@pytest.mark.parametrize(
    "other",
    [
        waiting(PREPARE, "ContainerCreating", deleted=True),
        pod(PREPARE, phase="Pending", state=RUNS),
    ],
    ids=["is being deleted", "a container beside the stage's has not started"],
)
def test_no_other_pod_is_slow(other):
    body, known = in_stage(PREPARE, other)
    _, body = plans(body, known, 500)
    assert condition(body, "DatasetReady")["reason"] == "Preparing"
