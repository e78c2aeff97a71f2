"""What a job is charged for begins once one of its pods has a node, and rests while none has."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.protocol.trainer import Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.step import Step
from finetune_operator.status.conditions import is_terminal, timestamp
from kit.builders.jobs import (
    CONFIG,
    accepted,
    after,
    at,
    child,
    complete,
    condition,
    ended,
    job,
    merged,
    observe,
    pod,
    stages_done,
    succeeded,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE
HOUR = 3600


def placed(since, *, stage=TRAIN, **more):
    """A pod that runs on a node since then."""
    scheduled = {
        "type": "PodScheduled",
        "status": "True",
        "lastTransitionTime": timestamp(at(since)),
    }
    state = {"running": {"startedAt": timestamp(at(since))}}
    return pod(stage, conditions=[scheduled], state=state, name=f"p-{since}", **more)


def unplaced(since):
    """A pod that no node takes."""
    lacking = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/5 nodes are available.", "lastTransitionTime": timestamp(at(since)),
    }  # fmt: skip
    return pod(TRAIN, phase="Pending", node="", conditions=[lacking], name=f"u-{since}")


def in_training(**spec):
    """A job whose training has just got its Job."""
    body = accepted(job(resources={"gpusPerNode": 2}, **spec))
    return lead(body, (60, stages_done(PREPARE)))


def known(*pods, stage=TRAIN, start=70, annotations=None, **status):
    """The children of a job whose Job of this stage began then and has these pods."""
    before = (PREPARE,) if stage is TRAIN else (PREPARE, TRAIN)
    began = {"startTime": timestamp(at(start)), **status}
    jobs = {stage: child(stage, status=began, annotations=annotations)}
    warnings = {f"headlines-{stage.value}": None}
    return merged(stages_done(*before), {"jobs": jobs, "pods": {stage: pods}, "warnings": warnings})


def lead(body, *scenes):
    """Plan each scene, from what the scene before it wrote; return the body."""
    for moment, snapshot in scenes:
        body = after(body, plan(observe(body, **snapshot), at(moment), CONFIG))
    return body


def used(body, moment, snapshot):
    """The running time that counts for budget and deadline."""
    step = Step(observe(body, **snapshot), at(moment), CONFIG)
    return step.draft.active_seconds([view for view in step.views if view.stage is not PREPARE])


@pytest.mark.parametrize("pods", [(), (unplaced(70),)], ids=["refused", "no node"])
@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        ({"budget": {"gpuHours": "8"}}, "BudgetExceeded"),
        ({"activeDeadlineSeconds": 4 * HOUR}, "DeadlineExceeded"),
    ],
)
def test_a_job_is_not_ended_for_hours_that_no_pod_had_a_node(pods, spec, reason):
    body = in_training(**spec)
    body = lead(body, *((moment, known(*pods)) for moment in (71, 101, HOUR, 20 * HOUR)))
    assert not is_terminal(body["status"])
    assert "cost" not in body["status"]
    at_last = known(placed(20 * HOUR), ready=1)
    body = lead(body, (20 * HOUR, at_last), (20 * HOUR + 3 * HOUR, at_last))
    assert not is_terminal(body["status"])
    body = lead(body, (24 * HOUR + 60, at_last))
    assert condition(body, "Failed")["reason"] == reason
    assert body["status"]["cost"] == {"gpuHours": "8.033"}


def test_the_pause_between_two_attempts_is_not_charged():
    body = in_training()
    first = known(placed(80), ready=1)
    crash = ended(TRAIN, 75, end=HOUR, start=80, name="p-80")
    between = known(crash, unplaced(HOUR), failed=1)
    again = known(crash, placed(5 * HOUR), failed=1, ready=1)
    body = lead(body, (80, first), (HOUR, between), (HOUR + 60, between), (5 * HOUR, again))
    assert used(body, 6 * HOUR, again) == pytest.approx(HOUR - 80 + HOUR, abs=2)


def test_what_was_charged_stays_when_the_pods_are_gone():
    body = in_training()
    body = lead(body, (71, known(unplaced(70))), (HOUR, known(placed(HOUR), ready=1)))
    gone = known()
    assert used(body, 2 * HOUR, gone) == HOUR
    body = lead(body, (2 * HOUR, gone), (9 * HOUR, gone))
    assert used(body, 9 * HOUR, gone) == HOUR


def test_a_stage_that_ends_records_what_ran_on_a_node():
    body = in_training()
    body = lead(body, (71, known(unplaced(70))), (101, known(unplaced(70))))
    assert body["status"]["stages"][1]["unplacedSince"] == timestamp(at(70))
    body = lead(body, (HOUR, known(placed(HOUR), ready=1)))
    over = known(succeeded(TRAIN))
    over["jobs"][TRAIN] = child(TRAIN, status=complete(70, 2 * HOUR))
    body = lead(body, (2 * HOUR, over))
    told = body["status"]["stages"][1]
    assert (told["activeSeconds"], told["unplacedSeconds"]) == (HOUR, HOUR - 70)
    assert "unplacedSince" not in told
    assert body["status"]["cost"]["gpuHours"] == "2.000"


def test_a_pause_closes_a_stretch_and_the_next_run_begins_another():
    body = in_training()
    body = lead(body, (71, known(unplaced(70))), (101, known(unplaced(70))))
    suspended = [{"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(at(HOUR))}]
    noted = {
        "finetune.dev/active-seconds": str(HOUR - 70),
        "finetune.dev/active-start": timestamp(at(70)),
        "finetune.dev/paused": "true",
    }
    held = known(annotations=noted, conditions=suspended)
    held["jobs"][TRAIN]["spec"]["suspend"] = True
    body["spec"]["suspend"] = True
    body = lead(body, (HOUR, held), (8 * HOUR, held))
    assert used(body, 8 * HOUR, held) == 0
    body["spec"]["suspend"] = False
    again = known(start=8 * HOUR, annotations=noted)
    body = lead(body, (8 * HOUR, again), (8 * HOUR + 31, again))
    placed_at_last = known(placed(9 * HOUR), start=8 * HOUR, annotations=noted, ready=1)
    body = lead(body, (9 * HOUR, placed_at_last))
    assert used(body, 10 * HOUR, placed_at_last) == HOUR


def test_a_job_of_an_operator_that_kept_no_record_is_charged_as_before():
    body = in_training()
    body["status"]["stages"] = [
        {"name": "prepare", "job": "headlines-prepare", "completionTime": timestamp(at(60))},
        {
            "name": "train", "job": "headlines-train",
            "incidents": [{"name": "Infrastructure", "count": 1}],
        },
    ]  # fmt: skip
    assert used(body, HOUR, known(unplaced(HOUR - 10), failed=1)) == pytest.approx(
        HOUR - 70, abs=10
    )


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([5, 40, 700, 9000]), st.booleans()), min_size=1, max_size=7),
    st.lists(st.booleans(), min_size=7, max_size=7),
)
def test_only_time_with_a_node_counts_and_what_is_counted_never_falls(segments, is_told):
    """Each segment has a pod with a node, or one without; some pods leave their end behind."""
    body, now, past = in_training(), 70, ()
    held = counted = 0
    for (seconds, has_node), leaves in zip(segments, is_told, strict=False):
        begin = now
        each = placed(begin) if has_node else unplaced(begin)
        snapshot = known(*past, each, failed=len(past), ready=int(has_node))
        for now in (begin, begin + min(31, seconds), begin + seconds):
            body = lead(body, (now, snapshot))
            assert used(body, now, snapshot) >= counted - 2
            counted = used(body, now, snapshot)
        held += seconds * has_node
        assert counted == pytest.approx(held, abs=35 * len(segments))
        if has_node and leaves:
            crash = ended(TRAIN, 79, end=now, start=begin, name=f"p-{begin}")
            past = (*past, crash)
        body = lead(body, (now, known(*past, failed=len(past))))
