"""Pods that do not start."""

from __future__ import annotations

import pytest

from finetune_api.trainer import Stage
from finetune_operator.finetunejob.actions import (
    LookUpWarnings,
    PauseJob,
)
from finetune_operator.finetunejob.plan import plan
from finetune_operator.status.conditions import is_terminal, timestamp
from unit.operator.builders import (
    CONFIG,
    after,
    at,
    condition,
    observe,
    pod,
    reasons,
    trained,
    unscheduled,
    waiting,
    with_train_pod,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


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
    known["warnings"] = {"headlines-train-0-abcde": "Multi-Attach error for volume"}
    made = plan(observe(body, **known), at(601), CONFIG)
    assert condition(made, "Training")["reason"] == "VolumesNotReady"
    assert not is_terminal(made.status)


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
    warning = 'MountVolume.SetUp failed for volume "credentials-0": secret "s3-rw" not found'
    known["warnings"] = {"headlines-train-0-abcde": warning}
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
