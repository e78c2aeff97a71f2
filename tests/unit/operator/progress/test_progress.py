"""What a push becomes: progress of the current stage, never of one that is over."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace

import pytest

from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.status.fields import MAX_COUNT
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.kube.api.errors import Invalid
from finetune_operator.kube.cache.store import Store
from finetune_operator.kube.status import StatusThrottle
from finetune_operator.progress import writer as writing
from finetune_operator.progress.report import Report, metrics_section, progress_section
from finetune_operator.progress.writer import ProgressWriter, is_wanted
from kit.builders.jobs import NOW, job
from kit.cluster.crd import status_problems
from kit.cluster.fake_client import FakeClient
from kit.cluster.simulation import result_of
from kit.processes.clock import FakeClock
from kit.processes.eventually import eventually_async

PUSH = {
    "trainerStatus": {
        "progressPercentage": 40,
        "metrics": [{"name": "loss", "value": "0.5"}],
    },
    "finetune": {"step": 20, "totalSteps": 50, "epoch": "0.80"},
}


class Throttle:
    """Keeps what is submitted."""

    def __init__(self):
        self.submitted = []

    def submit(self, obj, status, *, urgent=False):
        self.submitted.append(status)

    def forget(self, key):
        pass


def no_events(job, events):
    raise AssertionError(f"nothing of these reports is to be cut: {events}")


class Caches:
    """One FineTuneJob."""

    def __init__(self, body):
        self.finetunejobs = self
        self.body = body

    def get(self, namespace, name):
        return self.body


def with_status(**status):
    return {**job(), "status": status}


def stages(**ends):
    return [
        {"name": name, "job": f"headlines-{name}", **({"completionTime": end} if end else {})}
        for name, end in ends.items()
    ]


def push_to(body, stage, wire=PUSH):
    throttle = Throttle()
    writer = ProgressWriter(Caches(body), throttle, clock=FakeClock(), announce=no_events)
    assert writer.accept(body, stage, Report.model_validate(wire))
    return throttle.submitted[-1]


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EVALUATE])
def test_rows_of_other_stages_are_not_optimiser_steps(stage):
    section = progress_section(Report.model_validate(PUSH), stage, NOW)
    assert section["percent"] == 40
    assert "step" not in section
    assert "totalSteps" not in section


async def test_what_training_left_stays_while_the_job_is_evaluated():
    metrics = [{"name": "loss", "value": "0.1", "step": 171}]
    body = with_status(
        progress={"stage": "evaluate", "percent": 0, "step": 171, "totalSteps": 171},
        metrics=metrics,
    )
    status = push_to(body, Stage.EVALUATE, {"finetune": {"step": 3, "totalSteps": 30}})
    assert status["metrics"] == metrics
    assert {key: status["progress"][key] for key in ("stage", "percent", "step")} == {
        "stage": "evaluate",
        "percent": 10,
        "step": 171,
    }


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (with_status(stages=stages(prepare=None)), True),
        (with_status(), True),
        (job(), True),
        (with_status(stages=stages(prepare="2026-11-24T12:00:00Z", train=None)), False),
        (None, False),
        ({**job(), "metadata": {**job()["metadata"], "uid": "another"}}, False),
    ],
    ids=["runs", "no stages yet", "no status yet", "is over", "job is gone", "a namesake"],
)
def test_a_late_write_is_dropped_when_its_stage_is_over(body, expected):
    status = {"progress": {"stage": "prepare", "percent": 100}}
    assert is_wanted(Caches(body), job(), status) is expected


@pytest.mark.parametrize(("second", "expected"), [(9, False), (10, True), (11, True)])
def test_a_newer_report_that_another_replica_wrote_is_kept(second, expected):
    body = with_status(progress={"stage": "train", "lastHeartbeatTime": "2026-11-24T12:00:10Z"})
    late = {"stage": "train", "lastHeartbeatTime": f"2026-11-24T12:00:{second:02d}Z"}
    assert is_wanted(Caches(body), job(), {"progress": late}) is expected


async def test_the_end_of_the_curve_is_the_latest_step_that_any_replica_knows():
    throttle = Throttle()
    writer = ProgressWriter(Caches(job()), throttle, clock=FakeClock(), announce=no_events)
    writer.accept(job(), Stage.TRAIN, Report.model_validate(PUSH))
    last = [{"name": "loss", "value": "0.1", "step": 50}]
    body = with_status(metrics=last)
    writer.accept(body, Stage.EVALUATE, Report.model_validate({"finetune": {"step": 3}}))
    assert throttle.submitted[-1]["metrics"] == last


async def test_a_late_push_does_not_hide_the_progress_of_the_next_stage():
    body = with_status(stages=stages(prepare="x", train="2026-11-24T12:00:00Z"))
    status = push_to(body, Stage.TRAIN)
    assert status["progress"] == {"step": 20, "totalSteps": 50}
    assert status["metrics"]


async def test_the_plan_stays_from_the_first_push_to_the_end():
    plan = {"totalSteps": 50, "strategy": "DDP", "learningRate": "0.001"}
    wire = {**PUSH, "finetune": {**PUSH["finetune"], "plan": plan}}
    told = push_to(job(), Stage.TRAIN, wire)["plan"]
    assert {key: told[key] for key in plan} == plan
    assert push_to(with_status(plan=told), Stage.TRAIN)["plan"] == told
    assert push_to(with_status(plan=told), Stage.EVALUATE, {"finetune": {}})["plan"] == told


async def test_the_validation_curve_stays_until_there_is_a_newer_one():
    curve = {"bestStep": 20, "bestLoss": "0.4", "curve": [{"step": 20, "loss": "0.4"}]}
    wire = {**PUSH, "finetune": {**PUSH["finetune"], "validation": curve}}
    assert push_to(job(), Stage.TRAIN, wire)["validation"] == curve
    assert push_to(with_status(validation=curve), Stage.TRAIN)["validation"] == curve
    after = push_to(with_status(validation=curve), Stage.EVALUATE, {"finetune": {}})
    assert after["validation"] == curve
    too_long = {"curve": [{"step": step, "loss": "1"} for step in range(25)]}
    wire["finetune"] = {**PUSH["finetune"], "validation": too_long}
    assert "validation" not in push_to(job(), Stage.TRAIN, wire)


@pytest.mark.parametrize("stage", Stage)
def test_a_pushed_result_of_an_older_image_is_ignored(stage):
    result = result_of(stage).to_wire()
    told = push_to(job(), stage, {"finetune": {"result": result}})
    assert set(told) == {"progress"}


async def test_the_end_of_the_validation_curve_is_told_after_the_stage_is_over(monkeypatch):
    monkeypatch.setattr(writing, "CURVE_DELAY_SECONDS", 0.0)
    selection = {"step": 50, "lastStep": 50, "plannedSteps": 50, "validationLoss": "0.3"}
    curve = {"bestStep": 50, "bestLoss": "0.3", "curve": [{"step": 50, "loss": "0.3"}]}
    old = {"bestStep": 40, "bestLoss": "0.4", "curve": [{"step": 40, "loss": "0.4"}]}
    end = {"step": 50, "totalSteps": 50, "validation": curve}
    over = with_status(
        stages=stages(train="2026-11-24T12:00:00Z"),
        validation=old,
        selection=selection,
        artifact={"uri": "s3://x/a", "sha256": "a" * 64, "bytes": 1},
    )
    throttle, caches = Throttle(), Caches(with_status(validation=old))
    writer = ProgressWriter(caches, throttle, clock=FakeClock(), announce=no_events)
    last = {"trainerStatus": {"progressPercentage": 100}, "finetune": end}
    assert writer.accept(caches.body, Stage.TRAIN, Report.model_validate(last))
    late = throttle.submitted.pop()
    caches.body = over  # the leader has found the end before that was written
    assert not is_wanted(caches, over, late)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert [status["validation"] for status in throttle.submitted] == [curve]
    assert is_wanted(caches, over, throttle.submitted[-1])


LIVE = {"metadata": job()["metadata"], "status": {"phase": "Training"}}
ENDS = ("Complete", "Failed", "Pruned")


def real_writer():
    """Return a writer with its real throttle and cache, and what keeps the memory of a job."""
    client, rng = FakeClient(), random.Random(1)
    client.cluster.store(("finetunejobs", "team-a", "headlines"), LIVE)
    store = Store()
    throttle = StatusThrottle(client, FINETUNEJOBS, field_manager="progress", rng=rng)
    writer = ProgressWriter(
        SimpleNamespace(finetunejobs=store), throttle, clock=FakeClock(), announce=no_events
    )
    store.add_handler(writer.follow)
    kept = (writer._latest, writer._ending, throttle._last_write)
    return store, throttle, writer, lambda: sum(map(len, kept))


def version(number, **change):
    return {**LIVE, **change, "metadata": {**LIVE["metadata"], "resourceVersion": str(number)}}


def ended(number, kind="Complete"):
    return version(number, status={"conditions": [{"type": kind, "status": "True"}]})


@pytest.mark.looptime
@pytest.mark.parametrize("kind", ENDS)
async def test_nothing_is_kept_of_a_job_that_has_ended(kind):
    store, throttle, writer, num_kept = real_writer()
    writing_task = asyncio.create_task(throttle.run())
    store.absorb(version(1))
    writer.accept(LIVE, Stage.TRAIN, Report.model_validate(PUSH))
    await asyncio.sleep(1)
    assert num_kept() == 2
    store.absorb(version(2, spec={"suspend": True}))
    await asyncio.sleep(100)
    assert num_kept() == 2, "it goes on"
    store.absorb(ended(3, kind))
    store.absorb(ended(4, kind))
    await asyncio.sleep(9)
    assert writer._latest, "a last result may still be compared with it"
    await asyncio.sleep(2)
    assert num_kept() == 0
    writing_task.cancel()


@pytest.mark.looptime
async def test_progress_that_waits_for_its_interval_is_written_although_the_job_has_ended():
    store, throttle, writer, _ = real_writer()
    writing_task = asyncio.create_task(throttle.run())
    store.absorb(version(1))
    for step in (20, 30):
        wire = {**PUSH, "finetune": {**PUSH["finetune"], "step": step}}
        writer.accept(LIVE, Stage.TRAIN, Report.model_validate(wire))
        await asyncio.sleep(1)
    store.absorb(ended(2))
    await asyncio.sleep(11)
    assert writer._latest == {}
    assert throttle.has_pending(("team-a", "headlines"))
    await asyncio.sleep(10)
    assert not throttle.has_pending(("team-a", "headlines"))
    written = [body["status"]["progress"]["step"] for _, body in throttle._client.writes]
    assert written == [20, 30]
    writing_task.cancel()


@pytest.mark.looptime
async def test_a_job_that_ended_before_leaves_its_namesake_alone():
    store, throttle, writer, num_kept = real_writer()
    store.absorb(version(1))
    writer.accept(LIVE, Stage.TRAIN, Report.model_validate(PUSH))
    store.absorb(ended(2))
    again = version(3)
    again["metadata"] = {**again["metadata"], "uid": "uid-of-the-namesake"}
    store.absorb(again)
    writer.accept(again, Stage.TRAIN, Report.model_validate(PUSH))
    await asyncio.sleep(11)
    assert list(writer._latest) == ["uid-of-the-namesake"]
    assert throttle.has_pending(("team-a", "headlines"))


def test_counts_are_told_whole():
    metrics = [{"name": "num_tokens", "value": 12345678.0}, {"name": "loss", "value": "0.12345678"}]
    told = metrics_section(Report.model_validate({"trainerStatus": {"metrics": metrics}}))
    assert [metric["value"] for metric in told] == ["12345678", "0.123457"]


async def test_a_plan_in_other_words_does_not_lose_the_progress():
    foreign = {"finetune": {"step": 1, "totalSteps": 2, "plan": {"flavour": "strange"}}}
    status = push_to(job(), Stage.TRAIN, foreign)
    assert status["progress"]["step"] == 1
    assert "plan" not in status


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.EVALUATE, Stage.PUBLISH])
def test_plan_and_validation_are_trainings_own(stage):
    own = {**PUSH["finetune"], "plan": {"rows": 7}, "validation": {"bestStep": 3}}
    wire = {**PUSH, "finetune": own}
    assert {"plan", "validation", "metrics"}.isdisjoint(push_to(job(), stage, wire))
    assert push_to(job(), Stage.TRAIN, wire)["plan"]["rows"] == 7
    before = with_status(plan={"rows": 1}, validation={"bestStep": 1})
    written = push_to(before, stage, wire)
    assert (written["plan"], written["validation"]) == ({"rows": 1}, {"bestStep": 1})


def test_what_a_report_cannot_put_into_the_status_is_told_once():
    """An older operator has stored more than this one's schema holds."""
    body, told, throttle = with_status(plan={"strategy": "s" * 17}), [], Throttle()
    writer = ProgressWriter(
        Caches(body),
        throttle,
        clock=FakeClock(),
        announce=lambda job, events: told.extend(events),
    )
    for _ in range(2):
        assert writer.accept(body, Stage.TRAIN, Report.model_validate(PUSH))
    assert "plan" not in throttle.submitted[-1]
    assert [(event.reason, event.kind) for event in told] == [("StatusCut", "Warning")]
    assert "status.plan.strategy" in told[0].message


@pytest.mark.parametrize("value", ["1e308", "-5", 10**40, "nan", "inf"])
def test_steps_of_a_foreign_trainer_stay_within_what_a_status_holds(value):
    metrics = [{"name": "total_steps", "value": value}]
    section = push_to(job(), Stage.TRAIN, {"trainerStatus": {"metrics": metrics}})["progress"]
    assert 0 <= section.get("totalSteps", 0) <= MAX_COUNT
    assert status_problems({"progress": section}) == []


async def test_a_push_that_the_server_refuses_is_told_of():
    client, told = FakeClient(), []
    throttle = StatusThrottle(
        client,
        FINETUNEJOBS,
        field_manager="m",
        on_refused=lambda obj, error: told.append((obj["metadata"]["name"], error)),
    )
    client.cluster.store(("finetunejobs", "team-a", "headlines"), job())
    refusal = Invalid("apply", status=422, reason="Invalid", message="status.progress.step: no")
    client.faults.append(refusal)
    running = asyncio.create_task(throttle.run())
    throttle.submit(job(), {"progress": {"step": 1}}, urgent=True)
    await eventually_async(lambda: told == [("headlines", refusal)])
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
