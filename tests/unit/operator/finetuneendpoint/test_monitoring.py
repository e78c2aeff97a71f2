"""Looks at captured answers: when one is due, what the status says, what a forged one can do."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from itertools import pairwise
from typing import Any

import pytest

from finetune_api.meta import LocalObjectReference
from finetune_api.names import MONITOR_LABEL, look_name
from finetune_api.protocol.monitoring import SETTLING, TASK, LookTask
from finetune_api.v1alpha1.evaluation.judging import Judge
from finetune_api.v1alpha1.status.endpoint import FineTuneEndpointStatus
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.monitoring.looks import Look, read_look
from finetune_operator.finetuneendpoint.observed import owner_of
from finetune_operator.finetuneendpoint.render.look import render_look
from finetune_operator.finetunejob.state.trimming import trim_job, trim_pod
from finetune_operator.status.conditions import timestamp
from kit.builders.endpoints import NAME, NAMESPACE, OUTPUT, EndpointWorld, published_job

HOUR = timedelta(hours=1)
PAGE = f"{OUTPUT}/traffic/{NAMESPACE}/{NAME}/monitor/report.html"
CONFIG = OperatorConfig(trainer_image="trainer:1")


class World(EndpointWorld):
    """An endpoint that is monitored, whose looks a test makes and ends."""

    def __init__(self, **monitor: Any) -> None:
        super().__init__(published_job(1), capture={}, monitor={"every": "1h", **monitor})
        self.run()
        self.jobs: dict[str, tuple[Any, Any]] = {}

    def look(self, seconds: float = 1.0) -> Any:
        made = super().look(seconds)
        if made.look is not None:
            self.begin(render_look(made.look, owner_of(self.endpoint), CONFIG))
        return made

    def begin(self, job: Any) -> None:
        name = job["metadata"]["name"]
        assert name not in self.jobs
        metadata = {"uid": f"uid-{name}", "creationTimestamp": timestamp(self.now)}
        self.jobs[name] = ({**job, "metadata": {**job["metadata"], **metadata}, "status": {}}, None)
        self._see()

    def end(self, words: Any, *, kind: str = "Complete", **state: Any) -> None:
        """End the newest look; ``words`` are its termination message."""
        name, (job, _) = list(self.jobs.items())[-1]
        text = words if isinstance(words, str) else json.dumps(words)
        owner = {"kind": "Job", "name": name, "uid": f"uid-{name}", "controller": True}
        ended = {"exitCode": int(kind == "Failed"), "message": text, **state}
        pod = {
            "metadata": {"name": f"{name}-x", "namespace": NAMESPACE, "uid": "p",
                         "labels": {MONITOR_LABEL: NAME}, "ownerReferences": [owner]},
            "status": {"phase": "Succeeded", "containerStatuses": [
                {"name": "trainer", "state": {"terminated": ended}}]},
        }  # fmt: skip
        end = {"type": kind, "status": "True", "lastTransitionTime": timestamp(self.now)}
        job["status"] = {"conditions": [end]}
        self.jobs[name] = (job, pod)
        self._see()
        super().look(0)

    def _see(self) -> None:
        pods = [trim_pod(pod) for _, pod in self.jobs.values() if pod is not None]
        looks = [read_look(NAME, trim_job(job), pods) for job, _ in self.jobs.values()]
        self.facts = {"looks": tuple(each for each in looks if each is not None)}

    def pass_time(self, hours: float) -> None:
        """Look every ten minutes."""
        for _ in range(round(hours * 6)):
            self.look(600)

    def until_look(self) -> None:
        """Let time pass until there is one look more."""
        before = len(self.jobs)
        while len(self.jobs) == before:
            self.look(300)

    def ends(self) -> list[datetime]:
        """Return until when the looks look."""
        tasks = [job["spec"]["template"]["spec"]["containers"][0]["env"] for job, _ in
                 self.jobs.values()]  # fmt: skip
        found = ({each["name"]: each["value"] for each in env} for env in tasks)
        return [
            datetime.fromisoformat(json.loads(each["FINETUNE_MONITOR_TASK"])["until"])
            for each in found
        ]


def report(num_looks: int = 1, version: int = 1, **since: str) -> dict[str, Any]:
    signals = [{"name": name, "logE": "0.5"} for name in ("Vocabulary", "Errors")]
    signals = [{**each, **({"since": since[each["name"]]} if each["name"] in since else {})}
               for each in signals]  # fmt: skip
    numbers = {"numLooks": num_looks, "numAnswers": 400, "numUsers": 200}
    return {"version": version, "signals": signals, **numbers}


def message(world: EndpointWorld) -> str:
    (found,) = (each for each in world.status["conditions"] if each["type"] == "Drifted")
    return str(found["message"])


# ---- when ----------------------------------------------------------------------------------------


def test_there_is_one_look_for_each_hour_and_none_before_the_first_is_over() -> None:
    world = World()
    begin = world.now
    world.pass_time(1)
    assert world.jobs == {}
    for _ in range(30):
        world.pass_time(1 / 6)
        if world.jobs and world.facts["looks"][-1].ended is None:
            world.end(report())
    ends = world.ends()
    assert len(ends) in (4, 5)
    assert all(later - before == HOUR for before, later in pairwise(ends))
    assert ends[0] - begin >= HOUR - timedelta(seconds=5)
    assert {(each.minute, each.second) for each in ends} == {(0, 0)}
    assert [*world.jobs] == [look_name(NAME, each.timestamp()) for each in ends]


def test_the_plan_wakes_itself_when_the_next_look_is_due() -> None:
    world = World()
    made = world.look(10)
    world.look((made.requeue_after or 0) - 1)
    assert world.jobs == {}
    world.look(1)
    assert len(world.jobs) == 1
    assert world.ends()[0] + SETTLING <= world.now


def test_a_slow_look_is_waited_for_and_the_next_makes_up_for_what_was_missed() -> None:
    world = World(every="10m")
    world.pass_time(1)
    assert len(world.jobs) == 1
    world.end(report())
    world.look()
    assert len(world.jobs) == 2


@pytest.mark.parametrize(("least", "looks"), [("1m", 59), ("10m", 5), ("30m", 1)])
def test_looks_are_made_no_more_often_than_the_administrator_allows(least: str, looks: int) -> None:
    world = World(every="1m")
    for _ in range(60):
        world.facts["min_look_interval"] = least
        world.look(60)
        if any(look.ended is None for look in world.facts.get("looks", ())):
            world.end(report())
    assert looks * 0.8 - 1 <= len(world.jobs) <= looks + 1
    (drifted,) = (each for each in world.status["conditions"] if each["type"] == "Drifted")
    is_bound = least != "1m"
    assert (drifted["reason"] == "LooksTooFrequent") is is_bound
    assert (f"config.minLookInterval is {least}" in drifted["message"]) is is_bound


def test_an_operator_that_was_away_for_three_looks_makes_one() -> None:
    world = World()
    world.until_look()
    world.end(report())
    world.look(3 * 3600 + 600)
    world.look()
    assert len(world.jobs) == 2
    assert world.now - world.ends()[-1] < HOUR + SETTLING


def test_a_clock_that_goes_back_makes_no_look_twice() -> None:
    world = World()
    world.until_look()
    world.end(report())
    world.now -= timedelta(minutes=50)
    world.pass_time(0.5)
    assert len(world.jobs) == 1
    world.until_look()
    assert len(set(world.ends())) == 2


def test_two_operators_name_the_look_alike() -> None:
    world = World()
    world.until_look()
    (name,) = world.jobs
    world.facts, world.jobs = {}, {}
    world.look(90)
    assert [*world.jobs] == [name]


@pytest.mark.parametrize("left_out", [{"monitor": None}, {"monitor": None, "capture": None}])
def test_nobody_looks_where_nothing_is_to_be_monitored(left_out: dict[str, None]) -> None:
    world = World()
    world.until_look()
    world.end(report(Vocabulary="2026-01-01T00:00:00Z"))
    assert world.condition("Drifted")[0] == "True"
    world.edit(**left_out)
    world.pass_time(3)
    assert len(world.jobs) == 1
    assert world.condition("Drifted") == ("Unknown", "NotMonitored")
    assert "monitor" not in world.status


def test_nobody_looks_before_a_version_answers() -> None:
    world = EndpointWorld(published_job(None), capture={}, monitor={"every": "1h"})
    for _ in range(20):
        assert world.look(600).look is None
    assert all(each["type"] != "Drifted" for each in world.status["conditions"])


# ---- what is told --------------------------------------------------------------------------------


def test_too_few_users_and_the_first_comparison_are_told_and_then_that_nothing_changed() -> None:
    world = World()
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")
    world.until_look()
    world.end(report(0) | {"numUsers": 7})
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")
    assert message(world).startswith("7 of 100 users")
    world.until_look()
    world.end(report(0) | {"comparesFrom": "2026-03-01T00:00:00Z"})
    assert world.condition("Drifted") == ("Unknown", "NoComparison")
    assert "2026-03-01T00:00:00Z" in message(world)
    world.until_look()
    world.end(report(1))
    assert world.condition("Drifted") == ("False", "NoDrift")
    assert world.status["monitor"] == {
        "version": 1, "lastRunTime": timestamp(world.now),
        "numLooks": 1, "numAnswers": 400, "numUsers": 200,
        "signals": [{"name": "Vocabulary", "logE": "0.5"}, {"name": "Errors", "logE": "0.5"}],
        "reportUri": PAGE,
    }  # fmt: skip
    assert world.condition("Stalled") == ("False", "AsWanted")


def test_no_change_is_unknown_where_none_of_interest_would_be_found() -> None:
    world = World()
    world.until_look()
    told = report()
    told["signals"] = [
        {"name": "Vocabulary", "logE": "0.5", "smallest": "0.31"},
        {"name": "Errors", "logE": "0.5", "smallest": "0.2"},
    ]
    world.end(told)
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")
    assert "Vocabulary by 0.31" in message(world)
    assert "Errors" not in message(world)
    told["signals"][0]["smallest"] = "0.2"
    world.until_look()
    world.end(told)
    assert world.condition("Drifted") == ("False", "NoDrift")
    told["signals"][0] |= {"smallest": "0.9", "since": "2026-01-01T00:00:00Z"}
    world.until_look()
    world.end(told)
    assert world.condition("Drifted") == ("True", "Vocabulary")


def test_a_look_that_has_compared_nothing_is_no_sign_of_constancy() -> None:
    world = World()
    for num_looks in (0, 3):
        world.until_look()
        told = report(num_looks) | {"comparesFrom": "2025-01-01T00:00:00Z", "signals": []}
        world.end(told | {"note": "Left out: Refusals."})
        assert world.condition("Drifted") == ("Unknown", "NoComparison")
        assert "Left out: Refusals." in message(world)
        assert "2025-01-01" not in message(world)
    assert world.status["monitor"]["note"] == "Left out: Refusals."
    FineTuneEndpointStatus.model_validate(world.status)


def test_a_change_is_unknown_when_its_users_stay_away() -> None:
    world = World()
    world.until_look()
    since = "2026-01-01T00:00:00Z"
    world.end(report(Vocabulary=since))
    assert world.condition("Drifted") == ("True", "Vocabulary")
    world.until_look()
    world.end(report(Vocabulary=since) | {"numUsers": 99})
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")


def test_answers_that_are_deleted_within_the_window_are_told_instead_of_a_time() -> None:
    world = World()
    world.edit(capture={"retentionDays": 7})
    world.until_look()
    world.end(report(0) | {"signals": []})
    assert world.condition("Drifted") == ("Unknown", "NoComparison")
    assert "capture.retentionDays" in message(world)
    assert "The first one is made" not in message(world)


def test_users_who_stay_away_make_no_change_unknown() -> None:
    world = World()
    world.until_look()
    world.end(report() | {"numUsers": 99})
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")


def test_drift_is_told_once_with_signal_begin_and_page() -> None:
    world = World()
    world.until_look()
    since = "2026-01-01T00:00:00Z"
    for _ in range(3):
        world.end(report(Vocabulary=since))
        world.until_look()
    assert world.condition("Drifted") == ("True", "Vocabulary")
    assert since in message(world)
    assert PAGE in message(world)
    assert [reason for reason, _ in world.events if reason == "Drifted"] == ["Drifted"]
    world.end(report())
    assert world.condition("Drifted") == ("False", "NoDrift")


def test_drift_of_a_version_is_over_when_another_one_answers() -> None:
    world = World()
    world.until_look()
    world.end(report(Vocabulary="2026-01-01T00:00:00Z"))
    world.job = published_job(2)
    world.run()
    assert world.versions()[0] == 2
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")
    world.until_look()
    world.end(report(version=1, Vocabulary="2026-01-01T00:00:00Z"))
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")


def test_a_failed_look_is_told_once_and_tried_at_the_next_hour() -> None:
    world = World()
    world.until_look()
    words = {"reason": "StorageUnavailable", "message": "s3://b does not answer"}
    world.end(words, kind="Failed")
    assert world.condition("Drifted") == ("Unknown", "LookFailed")
    world.pass_time(1)
    assert len(world.jobs) == 2
    world.end(words, kind="Failed")
    told = [(reason, text) for reason, text in world.events if reason == "LookFailed"]
    assert told == [("LookFailed", "StorageUnavailable: s3://b does not answer")]
    world.until_look()
    world.end(report())
    assert world.condition("Drifted") == ("False", "NoDrift")
    assert "failure" not in world.status["monitor"]


def test_a_look_that_failed_takes_no_drift_back() -> None:
    world = World()
    world.until_look()
    world.end(report(Vocabulary="2026-01-01T00:00:00Z"))
    world.until_look()
    world.end("", kind="Failed", reason="OOMKilled")
    assert world.condition("Drifted") == ("True", "Vocabulary")
    assert "memory" in message(world)
    assert [reason for reason, _ in world.events if reason == "LookFailed"] == ["LookFailed"]


def test_a_look_whose_pod_is_gone_leaves_what_is_known() -> None:
    world = World()
    world.until_look()
    world.end(report(Vocabulary="2026-01-01T00:00:00Z"))
    world.until_look()
    world.end("")
    assert world.condition("Drifted") == ("True", "Vocabulary")


# ---- what somebody who may create pods can forge -------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        "x" * 4096,
        "[]",
        report() | {"version": "one"},
        report() | {"signals": [{"name": "Moon", "logE": "1"}]},
        report() | {"signals": [{"name": "Errors", "logE": "much"}]},
        report() | {"signals": [{"name": "Errors", "logE": "1", "smallest": "x"}]},
        report() | {"signals": [{"name": "Errors", "logE": "1"}] * 11},
        report() | {"numAnswers": -1},
        report() | {"numAnswers": 1e300},
    ],
)
def test_a_report_that_is_none_changes_nothing(forged: Any) -> None:
    world = World()
    world.until_look()
    world.end(forged)
    assert world.condition("Drifted") == ("Unknown", "TooFewUsers")
    assert set(world.status["monitor"]) == {"version", "lastRunTime"}


def test_a_forged_report_stays_within_the_schema_and_names_no_place() -> None:
    world = World()
    world.until_look()
    forged = report(Vocabulary="tomorrow", Errors="2999-01-01T00:00:00Z")
    forged["signals"] = forged["signals"] * 3
    times = {"lastRunTime": "never", "comparesFrom": "never"}
    world.end({**forged, **times, "reportUri": "http://elsewhere/"})
    told = world.status["monitor"]
    assert "comparesFrom" not in told
    assert told["reportUri"] == PAGE
    assert told["signals"] == [
        {"name": "Vocabulary", "logE": "0.5"}, {"name": "Errors", "logE": "0.5"}
    ]  # fmt: skip
    assert world.condition("Drifted") == ("False", "NoDrift")
    FineTuneEndpointStatus.model_validate(world.status)


def test_a_pod_of_another_job_says_nothing_of_a_look() -> None:
    world = World()
    world.until_look()
    (job, _) = next(iter(world.jobs.values()))
    foreign = {"metadata": {"name": "p", "namespace": NAMESPACE, "uid": "p",
                            "labels": {MONITOR_LABEL: NAME}},
               "status": {"containerStatuses": [{"name": "trainer", "state": {
                   "terminated": {"exitCode": 0, "message": json.dumps(report())}}}]}}  # fmt: skip
    job["status"] = {"conditions": [{"type": "Complete", "status": "True",
                                     "lastTransitionTime": timestamp(world.now)}]}  # fmt: skip
    assert isinstance(found := read_look(NAME, trim_job(job), [trim_pod(foreign)]), Look)
    assert (found.report, found.failure) == (None, "")


@pytest.mark.parametrize(
    "name", [f"{NAME}-m", f"{NAME}-m1x", f"{NAME}-m007", f"{NAME}-m{10**12}", "m29", f"x{NAME}-m29"]
)
def test_a_job_without_the_name_of_a_look_is_none(name: str) -> None:
    job = {"metadata": {"name": name, "namespace": NAMESPACE, "uid": "j", "labels": {}}}
    assert read_look(NAME, trim_job(job), []) is None


# ---- its pod -------------------------------------------------------------------------------------


def test_the_pod_of_a_look_has_no_rights_and_only_its_own_storage() -> None:
    world = World()
    world.edit(capture={"uri": "s3://answers/kept", "secretRef": {"name": "kept"}})
    world.until_look()
    ((name, (job, _)),) = world.jobs.items()
    pod = job["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    mounts = {each["mountPath"] for each in container["volumeMounts"]}
    assert mounts == {
        "/work", "/tmp",
        "/var/run/secrets/finetune.dev/credentials/kept",
        "/var/run/secrets/finetune.dev/credentials/store",
    }  # fmt: skip
    assert "serviceAccountToken" not in json.dumps(pod["volumes"])
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["uid"], owner["controller"]) == (
        "FineTuneEndpoint", f"uid-of-{NAME}", True
    )  # fmt: skip
    assert job["spec"]["activeDeadlineSeconds"] == 1800
    assert job["spec"]["ttlSecondsAfterFinished"] == 3 * 3600
    assert len(name) <= len(NAME) + 11
    environment = {each["name"]: each["value"] for each in container["env"]}
    task = LookTask.model_validate_json(environment.pop(TASK))
    assert (task.namespace, task.endpoint, task.active.version) == (NAMESPACE, NAME, 1)
    assert (task.active.storage.uri, task.active.storage.credentials_secret) == (OUTPUT, "store")
    assert (task.traffic.uri, task.traffic.credentials_secret) == ("s3://answers/kept", "kept")
    assert environment == {
        "HOME": "/tmp",
        "PYTHONHASHSEED": "0",
        "FINETUNE_CREDENTIALS_DIR": "/var/run/secrets/finetune.dev/credentials",
        "FINETUNE_WORK_DIR": "/work",
    }
    assert container["command"] == ["python", "-m", "finetune_trainer.monitor"]


@pytest.mark.parametrize("allowed", [True, False])
def test_a_judge_that_is_no_longer_allowed_is_not_handed_to_a_look(allowed: bool) -> None:
    world = World()
    world.until_look()
    ((_, (job, _)),) = world.jobs.items()
    url = "https://judge.example/v1"
    judge = Judge(endpoint=url, model="judge-1", credentials_ref=LocalObjectReference(name="key"))
    task = task_of(job).model_copy(update={"judge": judge})
    allowed_urls = (url,) if allowed else ()
    config = OperatorConfig(trainer_image="trainer:1", allowed_judge_endpoints=allowed_urls)
    rendered = render_look(task, owner_of(world.endpoint), config)
    assert task_of(rendered).judge == (judge if allowed else None)
    volumes = json.dumps(rendered["spec"]["template"]["spec"]["volumes"])
    assert ('"key"' in volumes) is allowed


def task_of(job: Any) -> LookTask:
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (task,) = (each["value"] for each in container["env"] if each["name"] == TASK)
    return LookTask.model_validate_json(task)


# ---- live quality --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("high", "goal", "expected"),
    [
        ("0.85", "0.9", ("True", "QualityBelowGoal")),
        ("0.93", "0.9", ("False", "AsWanted")),
        ("0.85", None, ("False", "AsWanted")),
    ],
)
def test_an_interval_below_the_goal_degrades_the_endpoint(
    high: str, goal: str | None, expected: tuple[str, str]
) -> None:
    world = World(quality={})
    world.until_look()
    quality = {"low": "0.6", "estimate": "0.7", "high": high, "numPeople": 60}
    world.end({**report(), "quality": {**quality, **({"goal": goal} if goal else {})}})
    assert world.status["monitor"]["quality"]["numPeople"] == 60
    (found,) = (each for each in world.status["conditions"] if each["type"] == "Degraded")
    assert (found["status"], found["reason"]) == expected
