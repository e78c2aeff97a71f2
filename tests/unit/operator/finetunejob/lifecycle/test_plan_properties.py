"""Whatever the snapshot: there is a plan, it is stable, and terminal states stick."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from finetune_api.names import ACTIVE_SECONDS_ANNOTATION, ACTIVE_START_ANNOTATION
from finetune_api.protocol.trainer import CLASS_OF_EXIT_CODE, Stage
from finetune_api.v1alpha1.status.job import FineTuneJobStatus
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.state.actions import CreateStage
from finetune_operator.finetunejob.state.decisions import Decision
from finetune_operator.finetunejob.state.observed import Refusal, WarningEvent
from finetune_operator.integrations.kueue.state import QueueState
from finetune_operator.status.conditions import is_terminal
from kit.builders.jobs import (
    CONFIG,
    NOW,
    after,
    child,
    complete,
    ended,
    failed,
    job,
    observe,
    pod,
    running,
    succeeded,
    waiting,
)

JOB_STATUSES = st.sampled_from(
    [{}, {"active": 1}, running(), complete(), failed(), failed("PodFailurePolicy", count=1),
     {"startTime": "not a time"}, {"conditions": [{"type": "Failed", "status": "True"}]}]
)  # fmt: skip
ANNOTATIONS = st.sampled_from(
    [None, {"finetune.dev/paused": "true"}, {"finetune.dev/active-seconds": "-7"},
     {"finetune.dev/active-seconds": "90"}]
)  # fmt: skip
RUBBISH = st.text(max_size=20) | st.sampled_from(
    ["", "\u00b2", "\u0663", "9" * 10, "9" * 5000, "-1", "0001-01-01T00:00:00Z",
     "0001-01-01T00:00:00+14:00", "9999-12-31T23:59:59-14:00", "9999-12-31T23:59:59Z"]
)  # fmt: skip
INT32 = st.sampled_from([-(2**31), -1, 0, 1, 255, 2**31 - 1])
IDENTITY = frozenset({"name", "namespace", "uid", "type", "phase", "finetune.dev/stage"})


@st.composite
def pods(draw, stage):
    kind = draw(st.sampled_from(["running", "ok", "goal", "dead", "waiting", "evicted", "junk"]))
    name = f"p{draw(st.integers(0, 3))}"
    if kind == "running":
        return pod(stage, name=name)
    if kind == "ok":
        return succeeded(stage)
    if kind == "goal":
        return succeeded(stage, goal_met=False)
    if kind == "dead":
        codes = st.sampled_from([*map(int, CLASS_OF_EXIT_CODE), 1, 137, 143, 255])
        return ended(stage, draw(codes.filter(bool)), draw(st.text(max_size=20)), name=name)
    if kind == "waiting":
        reason = draw(
            st.sampled_from(["ImagePullBackOff", "ContainerCreating", "InvalidImageName"])
        )
        return waiting(stage, reason, name=name)
    if kind == "evicted":
        return pod(stage, name=name, phase="Failed", reason="Evicted")
    return ended(stage, 0, '{"stage": "nonsense", "result": 7}')


@st.composite
def spoilt(draw, value, key=""):
    """Draw a trimmed object any of whose words and numbers are rubbish of their type."""
    if isinstance(value, dict):
        return {each: draw(spoilt(item, each)) for each, item in value.items()}
    if isinstance(value, list):
        return [draw(spoilt(item)) for item in value]
    if key in IDENTITY or isinstance(value, bool) or value is None or draw(st.integers(0, 3)):
        return value
    return draw(INT32 if isinstance(value, int) else RUBBISH)


WARNINGS = st.none() | st.builds(
    WarningEvent, st.sampled_from(["FailedMount", "FailedCreatePodSandBox"]), st.just("no secret")
)
DECISIONS = st.builds(
    Decision,
    name=st.sampled_from(["a", "b"]),
    digest=st.sampled_from(["d" * 64, "d" * 64, "e" * 64]),
    is_approval=st.booleans(),
    by=st.sampled_from(["ann", "b" * 512]),
    reason=st.sampled_from(["", "r" * 512]),
    time=st.sampled_from(["", "2026-11-24T12:00:00Z"]),
)


@st.composite
def snapshots(draw):
    spec = {
        "suspend": draw(st.booleans()),
        "backoffLimit": draw(st.integers(0, 3)),
    }
    if draw(st.booleans()):
        spec["activeDeadlineSeconds"] = draw(st.integers(1, 500))
    if draw(st.booleans()):
        spec["budget"] = {"gpuHours": draw(st.sampled_from(["0.01", "0.1", "5"]))}
    if draw(st.booleans()):
        spec["ttlSecondsAfterFinished"] = draw(st.integers(0, 500))
    if draw(st.booleans()):
        spec["queueName"] = "team-a"
    if draw(st.integers(0, 3)) == 0:
        spec["holdAfter"] = "Train"
    if draw(st.integers(0, 3)) == 0:
        spec["prune"] = True
    if draw(st.integers(0, 9)) == 0:
        spec["model"] = {"uri": "file:///etc/passwd"}
    known = {"jobs": {}, "pods": {}, "queue": {}, "refusals": {}}
    for stage in Stage:
        if draw(st.integers(0, 3)):
            known["jobs"][stage] = child(
                stage,
                status=draw(JOB_STATUSES),
                suspend=draw(st.booleans()),
                annotations=draw(ANNOTATIONS),
            )
        # No two pods share a name.
        several = st.lists(pods(stage), max_size=2, unique_by=lambda each: each["metadata"]["name"])
        known["pods"][stage] = tuple(draw(several))
        if draw(st.integers(0, 3)) == 0:
            is_admitted = draw(st.booleans())
            known["queue"][stage] = QueueState(
                workload="w",
                is_active=draw(st.booleans()),
                is_admitted=is_admitted,
                is_evicted=not is_admitted and draw(st.booleans()),
                reason="Pending",
                message="",
            )
        if draw(st.integers(0, 5)) == 0:
            known["refusals"][stage] = Refusal(
                reason="Forbidden", message="no", is_final=draw(st.booleans())
            )
    sources = [{"uri": "s3://data/headlines.jsonl"}]
    approval = draw(st.sampled_from(["NotRequired", "Required"]))
    spec["dataset"] = {"sources": sources, "approval": approval}
    known["decisions"] = draw(st.none() | st.lists(DECISIONS, max_size=3).map(tuple))
    known["missing"] = frozenset(draw(st.sets(st.sampled_from(list(Stage)))))
    known["has_kueue"] = draw(st.booleans())
    known["warnings"] = {"p0": draw(WARNINGS)}
    return job(**spec), known


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(st.lists(snapshots(), min_size=1, max_size=6), st.integers(0, 2000))
def test_every_sequence_of_snapshots_has_valid_plans_and_terminal_states_stick(steps, seconds):
    body, _ = steps[0]
    now = NOW
    for spec_of, known in steps:
        body = {**body, "spec": {**spec_of["spec"]}}
        before = body.get("status")
        made = plan(observe(body, **known), now, CONFIG)
        if is_terminal(before):
            assert made.status is None
            assert not any(isinstance(action, CreateStage) for action in made.first)
        if made.status is not None:
            FineTuneJobStatus.model_validate(made.status)
        if made.requeue_after is not None:
            assert made.requeue_after >= 0
        body = after(body, made)
        now += timedelta(seconds=seconds)


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.data(), st.lists(snapshots(), min_size=1, max_size=3), st.integers(0, 2000))
def test_there_is_a_plan_whatever_jobs_and_pods_say(data, steps, seconds):
    body, now = steps[0][0], NOW
    for spec_of, known in steps:
        jobs = {stage: data.draw(spoilt(each)) for stage, each in known["jobs"].items()}
        for each in jobs.values():
            each["metadata"]["annotations"] = {
                ACTIVE_SECONDS_ANNOTATION: data.draw(RUBBISH),
                ACTIVE_START_ANNOTATION: data.draw(RUBBISH),
            }
        pods = {
            stage: tuple(data.draw(spoilt(each)) for each in several)
            for stage, several in known["pods"].items()
        }
        body = {**body, "spec": {**spec_of["spec"]}}
        made = plan(observe(body, **{**known, "jobs": jobs, "pods": pods}), now, CONFIG)
        body = after(body, made)
        now += timedelta(seconds=seconds)


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(snapshots(), st.integers(0, 2000))
def test_a_plan_that_was_carried_out_asks_for_no_second_write(snapshot, seconds):
    body, known = snapshot
    now = NOW + timedelta(seconds=seconds)
    made = plan(observe(body, **known), now, CONFIG)
    again = plan(observe(after(body, made), **known), now, CONFIG)
    assert again.status is None
    assert again.events == ()


@pytest.mark.slow
@settings(max_examples=300, deadline=None)
@given(snapshots(), st.integers(0, 2000))
def test_a_stage_is_only_created_when_all_before_it_are_over_and_nothing_holds_the_job(
    snapshot, seconds
):
    body, known = snapshot
    made = plan(observe(body, **known), NOW + timedelta(seconds=seconds), CONFIG)
    for action in made.first:
        if isinstance(action, CreateStage):
            assert not body["spec"]["suspend"]
            assert not body["spec"].get("holdAfter") or action.stage is not Stage.EVALUATE
            # Only what may be published already is looked into.
            assert not body["spec"].get("prune") or action.stage is Stage.PUBLISH
            # Approved is not enough: it has to be on record before.
            if body["spec"]["dataset"]["approval"] == "Required":
                assert action.stage is Stage.PREPARE
            # A stage whose result was lost is run again, under another name.
            there = known["jobs"].get(action.stage)
            assert not there or action.job["metadata"]["name"] != there["metadata"]["name"]
            for stage in list(Stage)[: list(Stage).index(action.stage)]:
                conditions = known["jobs"][stage]["status"]["conditions"]
                assert any(each["type"] == "Complete" for each in conditions)
