"""Decisions, one sentence each."""

from __future__ import annotations

import pytest

from finetune_api.trainer import ExitCode, FailureClass, Stage
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.actions import (
    ActivateWorkload,
    ConfirmMissing,
    CreateStage,
    DeleteSelf,
    LookUpWarnings,
    PauseJob,
    ResumeJob,
)
from finetune_operator.finetunejob.observed import Refusal, newest_runs
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.retry import Ledger, active_seconds, past_active_seconds
from finetune_operator.integrations.kueue.state import FIELD_MANAGER, QueueState
from finetune_operator.status.conditions import is_terminal, timestamp
from unit.operator.builders import (
    CONFIG,
    NOW,
    after,
    at,
    child,
    complete,
    condition,
    ended,
    failed,
    job,
    live,
    merged,
    observe,
    pod,
    running,
    stages_done,
    succeeded,
    success_text,
    waiting,
    words,
)

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


def reasons(made):
    return [event.reason for event in made.events]


def accepted(body=None):
    """Return a job whose prepare Job is there."""
    body = body or job()
    made = plan(observe(body, jobs={PREPARE: child(PREPARE)}), NOW, CONFIG)
    return after(body, made)


def trained(body=None, **known):
    """Return a job in training."""
    body = accepted(body)
    made, body = live([stages_done(PREPARE)], body, at(60))
    made, body = live(
        [merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})],
        body,
        at(70),
    )
    return body


# ---- creation ----------------------------------------------------------------------------------


def test_a_new_job_gets_its_config_map_and_its_prepare_job():
    made = plan(observe(job()), NOW, CONFIG)
    (action,) = made.first
    assert isinstance(action, CreateStage)
    assert action.stage is PREPARE
    assert [need["kind"] for need in action.needs] == ["ConfigMap"]
    assert action.job["metadata"]["name"] == "headlines-prepare"


def test_the_status_after_creation_says_preparing():
    made = plan(observe(job(), jobs={PREPARE: child(PREPARE)}), NOW, CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Preparing"
    assert condition(made, "Accepted")["status"] == "True"
    assert condition(made, "DatasetReady")["reason"] == "Preparing"
    assert made.status["observedGeneration"] == 1
    assert reasons(made) == ["Accepted"]


def test_a_pod_that_starts_to_prepare_is_not_worth_a_write():
    body = accepted()
    made = plan(
        observe(
            body, jobs={PREPARE: child(PREPARE, status=running())}, pods={PREPARE: (pod(PREPARE),)}
        ),
        at(5),
        CONFIG,
    )
    assert made.status is None
    assert made.events == ()


def test_prepared_data_is_reported_and_training_created_in_one_go():
    body = accepted()
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    assert [action.stage for action in made.first] == [TRAIN]
    made = plan(
        observe(body, **merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN)}})),
        at(60),
        CONFIG,
    )
    assert made.status["dataset"]["rows"] == {"train": 450, "validation": 30, "test": 120}
    assert made.status["phase"] == "Training"
    assert condition(made, "DatasetReady")["status"] == "True"
    assert condition(made, "Training")["reason"] == "WaitingForPods"
    assert reasons(made) == ["DatasetReady"]


def test_several_nodes_need_a_headless_service():
    body = accepted(job(resources={"nodes": 2, "gpusPerNode": 0}))
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    (action,) = made.first
    assert [need["kind"] for need in action.needs] == ["Service"]
    assert action.job["spec"]["completions"] == 2


def test_training_says_so_when_a_pod_runs():
    body = trained()
    assert condition(body, "Training")["status"] == "True"
    assert body["status"]["phase"] == "Training"


def test_the_last_stage_publishes_and_completes():
    body = trained()
    made = plan(observe(body, **stages_done(PREPARE, TRAIN, EVALUATE)), at(200), CONFIG)
    assert made.status["phase"] == "Succeeded"
    assert condition(made, "Complete")["status"] == "True"
    assert condition(made, "Published")["status"] == "True"
    assert condition(made, "GoalMet")["status"] == "True"
    assert made.status["artifact"]["version"] == 1
    assert made.status["evaluation"]["scores"] == [
        {"name": "exactMatch", "base": "0.41", "tuned": "0.93"}
    ]
    assert made.status["progress"] == {
        "stage": "evaluate",
        "percent": 100,
        "step": 171,
        "totalSteps": 171,
    }
    assert condition(made, "Failed") is None
    assert made.then == ()


@pytest.mark.parametrize("goal", [{"metric": "exactMatch", "atLeast": "0.8"}, None])
def test_a_missed_goal_fails_the_job_and_publishes_nothing(goal):
    body = trained()
    body["spec"]["goal"] = goal
    if goal is None:  # too few held-out prompts are not enough without a goal either
        del body["spec"]["goal"]
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=False),)
    made = plan(observe(body, **known), at(200), CONFIG)
    assert condition(made, "Failed")["reason"] == "GoalNotMet"
    assert condition(made, "Published")["status"] == "False"
    assert condition(made, "GoalMet")["status"] == "False"
    assert condition(made, "Stalled")["status"] == "True"
    assert condition(made, "Complete") is None
    assert condition(made, "Evaluated")["status"] == "True"
    assert "version" not in made.status["artifact"]
    assert made.status["lastFailure"]["class"] == "GoalNotMet"
    assert "GoalNotMet" in reasons(made)


# ---- terminal, deletion, ttl -------------------------------------------------------------------


def ended_body():
    made, body = live([stages_done(PREPARE, TRAIN, EVALUATE)], trained(), at(200))
    return body


@pytest.mark.parametrize(
    "known",
    [
        {},
        {"jobs": {PREPARE: child(PREPARE, status=failed())}},
        {"jobs": {TRAIN: child(TRAIN)}},
        stages_done(PREPARE),
    ],
    ids=["everything is gone", "a Job failed later", "a Job reappears", "only the first is there"],
)
def test_terminal_is_terminal(known):
    made = plan(observe(ended_body(), **known), at(10_000), CONFIG)
    assert made.status is None
    assert made.first == ()
    assert made.events == ()


def test_a_failed_job_stops_what_still_runs_even_after_a_crash():
    body = ended_body()
    made = plan(observe(body, jobs={TRAIN: child(TRAIN, status=running())}), at(300), CONFIG)
    assert [type(action) for action in made.then] == [PauseJob]


def test_an_object_that_is_being_deleted_is_left_alone():
    body = job()
    body["metadata"]["deletionTimestamp"] = timestamp(NOW)
    made = plan(observe(body), NOW, CONFIG)
    assert (made.first, made.then, made.status) == ((), (), None)


def test_ttl_deletes_the_finished_job_in_time_and_not_before():
    body = ended_body()
    body = {**body, "spec": {**body["spec"], "ttlSecondsAfterFinished": 100}}
    early = plan(observe(body), at(250), CONFIG)
    assert early.then == ()
    assert early.requeue_after == pytest.approx(50)
    late = plan(observe(body), at(301), CONFIG)
    assert late.then == (DeleteSelf(),)


@pytest.mark.parametrize("ttl", [0, 100])
@pytest.mark.parametrize("goal_met", [True, False], ids=["complete", "failed"])
def test_the_plan_that_ends_a_job_looks_again_when_its_time_is_over(ttl, goal_met):
    """Nothing else wakes the operator then."""
    body = trained(job(ttlSecondsAfterFinished=ttl))
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = (succeeded(EVALUATE, goal_met=goal_met),)
    made = plan(observe(body, **known), at(200), CONFIG)
    assert is_terminal(made.status)
    assert made.requeue_after == ttl
    late = plan(observe(after(body, made), **known), at(200 + ttl), CONFIG)
    assert late.then == (DeleteSelf(),)


def test_a_job_that_was_refused_is_deleted_by_ttl_too():
    body = job(model={"uri": "file:///etc/passwd"}, ttlSecondsAfterFinished=7)
    made = plan(observe(body), NOW, CONFIG)
    assert made.requeue_after == 7


def test_a_job_without_ttl_is_not_looked_at_again():
    made = plan(observe(trained(), **stages_done(PREPARE, TRAIN, EVALUATE)), at(200), CONFIG)
    assert made.requeue_after is None


def test_a_running_job_is_not_deleted_by_ttl():
    body = trained(job(ttlSecondsAfterFinished=0))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    made = plan(observe(body, **known), at(10_000), CONFIG)
    assert DeleteSelf() not in made.then


# ---- admission ---------------------------------------------------------------------------------

MODEL = {"uri": "hf://a/b"}
ADMISSION = [
    ("file outside", {"model": {"uri": "file:///etc/passwd"}}, {}, "URINotAllowed"),
    ("file by dots", {"model": {"uri": "file:///data/../etc"}}, {"allowed_file_paths": ["/data"]},
     "URINotAllowed"),
    ("file by encoded dots", {"model": {"uri": "file:///data/%2e%2e/etc"}},
     {"allowed_file_paths": ["/data"]}, "URINotAllowed"),
    ("file by prefix of a name", {"model": {"uri": "file:///database"}},
     {"allowed_file_paths": ["/data"]}, "URINotAllowed"),
    ("file with a host", {"model": {"uri": "file://host/data/x"}},
     {"allowed_file_paths": ["/data"]}, "InvalidSpec"),
    ("file on this host", {"model": {"uri": "file://localhost/data/x"}},
     {"allowed_file_paths": ["/data"]}, "URINotAllowed"),
    (
        "start from a path in the pod",
        {"initFrom": {"uri": "file:///etc/adapter"}},
        {},
        "URINotAllowed",
    ),
    ("claim by dots", {"output": {"uri": "pvc://claim/../x"}}, {}, "URINotAllowed"),
    ("claim of another namespace", {"output": {"uri": "pvc://other/ns:claim"}}, {}, None),
    ("template without end",
     {"dataset": {"sources": [{"uri": "s3://a/b.csv", "template": "{{ a"}]}}, {},
     "InvalidTemplate"),
    ("chat template without end", {"model": {**MODEL, "chatTemplate": {"text": "{{ a"}}}, {},
     "InvalidTemplate"),
    ("endpoint", {"s3": {"endpoint": "http://evil:80"}}, {}, "EndpointNotAllowed"),
    ("remote code", {"model": {**MODEL, "trustRemoteCode": True}},
     {"allow_trust_remote_code": False}, "RemoteCodeNotAllowed"),
    ("reserved label", {"podTemplate": {"labels": {"finetune.dev/job": "x"}}}, {}, "InvalidSpec"),
    ("kueue label", {"podTemplate": {"labels": {"kueue.x-k8s.io/queue-name": "x"}}}, {},
     "InvalidSpec"),
    ("job controller's label", {"podTemplate": {"labels": {"batch.kubernetes.io/x": "x"}}}, {},
     "ReservedName"),
    ("redirecting variable", {"podTemplate": {"env": [{"name": "AWS_ENDPOINT_URL_S3"}]}}, {},
     "InvalidSpec"),
    ("reserved variable", {"podTemplate": {"env": [{"name": "FINETUNE_WORK_DIR"}]}}, {},
     "ReservedName"),
    ("thread count", {"podTemplate": {"env": [{"name": "OMP_NUM_THREADS", "value": "8"}]}}, {},
     "ReservedName"),
    ("home folder", {"podTemplate": {"env": [{"name": "HOME", "value": "/x"}]}}, {},
     "ReservedName"),
    ("hash seed", {"podTemplate": {"env": [{"name": "PYTHONHASHSEED", "value": "1"}]}}, {},
     "ReservedName"),
    ("variable of a like name", {"podTemplate": {"env": [{"name": "HOMEPAGE"}]}}, {}, None),
    ("reserved volume", {"podTemplate": {"volumes": [{"name": "token", "emptyDir": {}}]}}, {},
     "ReservedName"),
    ("mount over the work folder",
     {"podTemplate": {"volumes": [{"name": "x", "emptyDir": {}}],
                      "volumeMounts": [{"name": "x", "mountPath": "/work/sub"}]}}, {},
     "ReservedName"),
    ("nothing readable", {"resources": {"nodes": "two"}}, {}, "InvalidSpec"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "settings", "reason"),
    [case[1:] for case in ADMISSION],
    ids=[case[0] for case in ADMISSION],
)
def test_what_a_tenant_may_not_ask_for_is_refused_before_anything_is_created(
    spec, settings, reason
):
    made = plan(observe(job(**spec)), NOW, OperatorConfig(**settings))
    if reason is None:
        assert made.first
        return
    assert made.first == ()
    assert condition(made, "Accepted")["reason"] == reason
    assert condition(made, "Failed")["status"] == "True"
    assert made.status["phase"] == "Failed"
    assert made.status["lastFailure"]["class"] == "UserError"


def test_a_fixed_variable_is_refused_with_what_to_do_instead():
    env = [{"name": "OMP_NUM_THREADS", "value": "8"}]
    made = plan(observe(job(podTemplate={"env": env})), NOW, CONFIG)
    message = condition(made, "Accepted")["message"]
    assert message.startswith("spec.podTemplate.env: 'OMP_NUM_THREADS' is set by the operator")
    assert "spec.resources.cpu" in message


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ({"model": {"uri": "file:///data/model"}}, {"allowed_file_paths": ["/data"]}),
        ({"model": {"uri": "file:///data"}}, {"allowed_file_paths": ["/data/"]}),
        ({"s3": {"endpoint": "http://s3:8333/"}}, {"allowed_endpoints": ["http://s3:8333"]}),
        ({"s3": {"endpoint": "http://any:1"}}, {"allowed_endpoints": ["*"]}),
        ({"output": {"uri": "pvc://claim/adapters"}}, {}),
    ],
)
def test_what_is_allowed_is_accepted(spec, settings):
    assert plan(observe(job(**spec)), NOW, OperatorConfig(**settings)).first


def test_a_job_that_was_accepted_and_cannot_be_read_any_more_is_left_alone():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    adapter = body["spec"].get("method") or {}
    odd = {**body, "spec": {**body["spec"], "method": {**adapter, "objective": "Newer"}}}
    made = plan(observe(odd, **known), at(80), CONFIG)
    assert (made.first, made.then) == ((), ())
    assert condition(made, "Accepted")["status"] == "Unknown"
    assert "objective" in condition(made, "Accepted")["message"]
    assert condition(made, "Failed") is None
    assert (made.status["phase"], made.status["reason"]) == ("Training", "InvalidSpec")
    assert reasons(made) == ["InvalidSpec"]
    odd = after(odd, made)
    assert plan(observe(odd, **known), at(90), CONFIG).status is None
    made = plan(observe({**odd, "spec": body["spec"]}, **known), at(100), CONFIG)
    assert condition(made, "Accepted")["status"] == "True"
    assert (made.status["phase"], made.status["reason"]) == ("Training", "Running")


def test_a_setting_that_changes_later_does_not_reach_back():
    allowed = OperatorConfig(allowed_endpoints=["*"])
    body = job(s3={"endpoint": "http://s3:8333"})
    body = after(body, plan(observe(body, jobs={PREPARE: child(PREPARE)}), NOW, allowed))
    made = plan(observe(body, **stages_done(PREPARE)), at(60), OperatorConfig())
    assert [action.stage for action in made.first] == [TRAIN]


# ---- results -----------------------------------------------------------------------------------


def test_a_result_is_waited_for_while_the_pod_cache_may_be_behind():
    body = accepted()
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(62), CONFIG)
    assert made.first == ()
    assert made.requeue_after == 1.0


def test_a_lost_result_is_unknown_and_does_not_fail_the_job():
    body = accepted()
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(90), CONFIG)
    assert [action.stage for action in made.first] == [TRAIN]
    assert condition(made, "DatasetReady")["status"] == "Unknown"
    assert condition(made, "DatasetReady")["reason"] == "ResultNotReported"


def test_a_pushed_result_in_the_status_replaces_lost_last_words():
    body = accepted()
    made = plan(observe(body, **stages_done(PREPARE)), at(60), CONFIG)
    body["status"]["dataset"] = made.status["dataset"]
    known = {"jobs": {PREPARE: child(PREPARE, status=complete(end=60))}}
    made = plan(observe(body, **known), at(61), CONFIG)
    assert condition(made, "DatasetReady")["status"] == "True"


def run_again(known, run, **more):
    """Return the snapshot with another run of the evaluation."""
    later = {"jobs": {EVALUATE: child(EVALUATE, run=run, **more)}, "pods": {EVALUATE: ()}}
    return merged(known, later)


WITHOUT_VERDICT = {
    "nothing": (),
    "no last words": (ended(EVALUATE, 0, ""),),
    "no word of the goal": (
        ended(EVALUATE, 0, success_text(EVALUATE).replace('"goalMet":true,', "")),
    ),
    "no version": (ended(EVALUATE, 0, success_text(EVALUATE).replace('"version":1,', "")),),
}


@pytest.mark.parametrize("pods", WITHOUT_VERDICT.values(), ids=WITHOUT_VERDICT)
def test_an_evaluation_whose_result_was_lost_runs_again_and_nothing_is_called_published(pods):
    body = trained()
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = pods
    made = plan(observe(body, **known), at(500), CONFIG)
    (action,) = made.first
    assert isinstance(action, CreateStage)
    assert action.job["metadata"]["name"] == "headlines-evaluate-2"
    assert not is_terminal(made.status)
    assert condition(made, "Published") is None
    made = plan(observe(body, **run_again(known, 2)), at(501), CONFIG)
    assert reasons(made)[-1] == "ResultNotReported"
    body = after(body, made)
    assert body["status"]["phase"] == "Evaluating"
    assert body["status"]["stages"][2]["job"] == "headlines-evaluate-2"
    found = run_again(known, 2, status=complete())
    found["pods"][EVALUATE] = (succeeded(EVALUATE),)
    made = plan(observe(body, **found), at(600), CONFIG)
    assert condition(made, "Complete")["status"] == "True"
    assert condition(made, "GoalMet")["status"] == "True"


def test_a_result_that_is_lost_every_time_ends_the_job_with_the_reason():
    known = run_again(stages_done(PREPARE, TRAIN), 3, status=complete())
    made = plan(observe(trained(), **known), at(500), CONFIG)
    assert condition(made, "Failed")["status"] == "True"
    assert condition(made, "Complete") is None
    assert made.status["reason"] == "ResultNotReported"
    assert "succeeded 3 times" in condition(made, "Failed")["message"]


def test_a_second_run_that_was_deleted_is_not_mistaken_for_the_first():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    _, body = live([run_again(known, 2)], trained(), at(500))
    made = plan(observe(body, **known), at(510), CONFIG)
    assert made.first == (ConfirmMissing(stage=EVALUATE, name="headlines-evaluate-2"),)
    made = plan(observe(body, **known, missing=frozenset({EVALUATE})), at(510), CONFIG)
    assert made.status["lastFailure"]["reason"] == "JobDeleted"


def test_of_several_runs_the_newest_counts():
    runs = [child(EVALUATE, run=run) for run in (2, 1, 10)]
    (newest,) = newest_runs(runs).values()
    assert newest["metadata"]["name"] == "headlines-evaluate-10"


def test_a_job_that_an_older_operator_left_without_a_verdict_is_not_called_published():
    known = stages_done(PREPARE, TRAIN, EVALUATE)
    known["pods"][EVALUATE] = ()
    body = trained()
    over = {"name": "evaluate", "job": "headlines-evaluate", "completionTime": timestamp(NOW)}
    body["status"]["stages"].append(over)
    made = plan(observe(body, **known), at(500), CONFIG)
    assert condition(made, "Complete") is None
    assert condition(made, "Failed")["reason"] == "ResultNotReported"
    assert condition(made, "Published")["status"] == "Unknown"
    assert condition(made, "GoalMet")["status"] == "Unknown"


# ---- failures ----------------------------------------------------------------------------------


def test_bad_data_fails_at_once_with_the_trainers_own_words():
    body = accepted()
    text = words(
        PREPARE, ExitCode.DATA_ERROR, FailureClass.DATA_ERROR, "InvalidRows",
        "headlines.jsonl:17: not JSON; set dataset.maxInvalidRows to leave rows out",
    )  # fmt: skip
    known = {
        "jobs": {PREPARE: child(PREPARE, status=failed("PodFailurePolicy", count=1))},
        "pods": {PREPARE: (ended(PREPARE, 65, text),)},
    }
    made = plan(observe(body, **known), at(61), CONFIG)
    failure = made.status["lastFailure"]
    assert failure["class"] == "DataError"
    assert failure["reason"] == "InvalidRows"
    assert failure["exitCode"] == 65
    assert failure["node"] == "node-1"
    assert "headlines.jsonl:17" in condition(made, "Failed")["message"]
    assert condition(made, "Failed")["reason"] == "DataError"
    assert condition(made, "DatasetReady")["reason"] == "DataError"
    assert made.first == ()
    assert reasons(made) == ["Failed"]


FAILURES = [
    ("host out of memory", ended(TRAIN, 137, reason="OOMKilled"), "OutOfMemory", "OOMKilled",
     "resources.memory"),
    ("gpu out of memory without words", ended(TRAIN, 77), "OutOfMemory", "OutOfMemory",
     "microBatchSize"),
    ("killed", ended(TRAIN, 137), "Retryable", "KilledSIGKILL", "terminationGracePeriodSeconds"),
    ("crash", ended(TRAIN, 1, "Traceback"), "Internal", "ExitCode1", "Traceback"),
    ("no command", ended(TRAIN, 128, "exec: no such file", reason="StartError"), "ImageError",
     "StartError", "image"),
    ("storage", ended(TRAIN, 73, words(TRAIN, ExitCode.STORAGE, FailureClass.STORAGE_ERROR,
     "Unreachable", "s3 did not answer")), "StorageError", "Unreachable", "did not answer"),
    ("host out of memory in one process", ended(TRAIN, 77, reason="OOMKilled"), "OutOfMemory",
     "OOMKilled", "resources.memory"),
    ("disk limit", pod(TRAIN, phase="Failed", reason="Evicted",
     message="Pod ephemeral local storage usage exceeds the total limit of containers 1Gi. "),
     "Evicted", "Evicted", "containers 1Gi. Have its disk space raised"),
    ("shared memory limit", pod(TRAIN, phase="Failed", reason="Evicted",
     message='Usage of EmptyDir volume "shm" exceeds the limit "64Mi". '), "Evicted", "Evicted",
     "sharedMemory. This counts"),
    ("preemption", pod(TRAIN, phase="Failed", conditions=[{"type": "DisruptionTarget",
     "status": "True", "reason": "PreemptionByScheduler", "message": "by another"}]), "Evicted",
     "PreemptionByScheduler", "resumes"),
    ("turned away", pod(TRAIN, phase="Failed", reason="OutOfnvidia.com/gpu", message="no gpu"),
     "Unschedulable", "OutOfnvidia.com/gpu", "no gpu"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dead", "failure_class", "reason", "hint"),
    [case[1:] for case in FAILURES],
    ids=[case[0] for case in FAILURES],
)
def test_a_failure_that_is_retried_is_told_with_class_cause_and_remedy(
    dead, failure_class, reason, hint
):
    body = trained()
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW), "failed": 1})}},
        {"pods": {TRAIN: (dead,)}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    failure = made.status["lastFailure"]
    assert failure["class"] == failure_class
    assert failure["reason"] == reason
    assert hint in failure["message"]
    assert failure["pod"]
    assert not is_terminal(made.status)
    assert condition(made, "Training")["reason"] == "Retrying"
    assert reasons(made) == ["Retrying"]
    assert made.status["attempts"]["counted"] == (0 if reason == "PreemptionByScheduler" else 1)
    assert [item["reason"] for item in made.status["attempts"]["history"]] == [reason]
    again = plan(observe(after(body, made), **known), at(101), CONFIG)
    assert again.status is None
    assert again.events == ()


@pytest.mark.parametrize(
    ("limit", "codes", "will_go_on"),
    [(0, (1,), False), (1, (1,), True), (1, (1, 1), False), (3, (64,), False), (0, (79,), True)],
)
def test_a_retry_is_only_told_where_one_follows(limit, codes, will_go_on):
    body = trained(job(backoffLimit=limit))
    dead = tuple(ended(TRAIN, code, name=f"p{index}") for index, code in enumerate(codes))
    dead[-1]["status"]["phase"] = "Running"  # its container has ended, it has not yet
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW)})}},
        {"pods": {TRAIN: dead}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.status["lastFailure"]["exitCode"] == codes[0]
    assert reasons(made) == (["Retrying"] if will_go_on else ["Failed"])


def test_memory_of_prepare_is_the_administrators():
    dead = ended(PREPARE, 137, reason="OOMKilled")
    known = {"jobs": {PREPARE: child(PREPARE, status=failed())}, "pods": {PREPARE: (dead,)}}
    made = plan(observe(accepted(), **known), at(100), CONFIG)
    assert "operator's prepareMemory" in made.status["lastFailure"]["message"]


def test_used_up_retries_end_the_job():
    body = trained()
    dead = tuple(ended(TRAIN, 1, "boom", name=f"p{index}", end=60 + index) for index in range(4))
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status=failed(count=4))}, "pods": {TRAIN: dead}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    assert condition(made, "Failed")["reason"] == "Internal"
    assert "backoffLimit" in condition(made, "Failed")["message"]
    assert made.status["lastFailure"]["pod"] == "p3"
    assert made.status["attempts"]["counted"] == 4
    assert made.status["attempts"]["preemptions"] == 0


def test_a_peer_that_only_noticed_does_not_hide_the_cause():
    body = trained()
    first = ended(TRAIN, 77, "", name="rank1", end=60)
    peer = ended(
        TRAIN, 75, words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeerLost", "gone"),
        name="rank0", end=65,
    )  # fmt: skip
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status=failed())}, "pods": {TRAIN: (peer, first)}},
    )
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.status["lastFailure"]["pod"] == "rank1"


PEER_LOST = words(TRAIN, ExitCode.RETRYABLE, FailureClass.RETRYABLE, "PeerLost", "rank 1 is gone")


def lost(count, *, ranks=1, every=600.0, lasting=500.0):
    """Return pods of several rounds, each of which ended because a peer was lost."""
    return [
        ended(
            TRAIN, 75, PEER_LOST, name=f"rank{rank}-{n}", index=rank,
            created=100 + n * every, end=100 + n * every + lasting,
        )
        for n in range(count)
        for rank in range(ranks)
    ]  # fmt: skip


def running_peer(created, started):
    state = {"running": {"startedAt": timestamp(at(started))}}
    return pod(TRAIN, name="peer", index=1, created=created, state=state)


DRAIN = [{"type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI"}]
STEPS = {"stage": "train", "step": 7, "lastHeartbeatTime": timestamp(at(2000))}


@pytest.mark.parametrize(
    ("pods", "progress", "gives_up"),
    [
        (lost(5), None, True),
        (lost(4), None, False),
        (lost(4, ranks=8), None, False),
        (lost(5, ranks=8), None, True),
        ([*lost(5), pod(TRAIN, name="evicted", phase="Failed", conditions=DRAIN)], None, False),
        ([*lost(5), ended(TRAIN, 70, "boom", name="own", index=1)], None, False),
        ([*lost(6), ended(TRAIN, 70, "boom", name="own", index=1)], None, True),
        (lost(5), STEPS, False),
        (lost(9), STEPS, True),
        (lost(9, every=90000, lasting=80000), None, False),
        ([*lost(5), pod(TRAIN, name="next", state={"running": {}})], None, False),
        ([*lost(9), waiting(TRAIN, "", name="peer", index=1, created=150, node="")], None, False),
        ([*lost(9), running_peer(150, 5100)], None, False),
        ([*lost(8), running_peer(150, 160)], None, True),
    ],
    ids=[
        "five rounds", "four rounds", "four rounds of eight ranks", "five rounds of eight ranks",
        "one of them a drained node", "one of them a crash", "one more than the crash explains",
        "steps in between", "five rounds after the last step", "each after a day",
        "another one runs", "a peer has no node", "a peer had no node for long",
        "a peer that ran on for longer than half an hour",
    ],
)  # fmt: skip
def test_ends_that_are_not_counted_end_the_job_when_it_gets_nowhere(pods, progress, gives_up):
    body = trained()
    if progress:
        body = {**body, "status": {**body["status"], "progress": progress}}
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW), "active": 1})}},
        {"pods": {TRAIN: tuple(pods)}},
    )
    made = plan(observe(body, **known), at(6000), CONFIG)
    assert is_terminal(after(body, made)["status"]) is gives_up
    if gives_up:
        failure = made.status["lastFailure"]
        assert (failure["class"], failure["reason"]) == ("Retryable", "PeerLost")
        assert "5 times in a row" in failure["message"]
        assert "NetworkPolicy" in failure["message"]
        assert "rank 1 is gone" in failure["message"]
        assert made.then[0] == PauseJob(
            stage=TRAIN, name="headlines-train", active_seconds=6000, started=timestamp(NOW)
        )


def test_steps_that_are_made_again_are_no_progress():
    ledger = Ledger().reached(STEPS)
    again = {**STEPS, "step": 5, "lastHeartbeatTime": timestamp(at(5000))}
    assert ledger.reached(again) is ledger
    assert ledger.reached({**again, "step": 8}).stepped_at == at(5000)
    assert Ledger().reached({"stage": "train", "percent": 0}) == Ledger()


def test_a_failed_job_whose_pods_are_gone_still_says_what_is_known():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=failed(end=60))}})
    early = plan(observe(body, **known), at(62), CONFIG)
    assert not is_terminal(early.status)
    made = plan(observe(body, **known), at(90), CONFIG)
    assert made.status["lastFailure"]["reason"] == "BackoffLimitExceeded"
    assert "pods are gone" in made.status["lastFailure"]["message"]


# ---- pods that do not start --------------------------------------------------------------------


def with_train_pod(body, each):
    return merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, status={"startTime": timestamp(NOW), "active": 1})}},
        {"pods": {TRAIN: (each,)}},
    )


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
    assert made.first == (LookUpWarnings(pods=("headlines-train-0-abcde",), since=at(-150)),)
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


# ---- suspension --------------------------------------------------------------------------------


def suspended(body):
    return {**body, "spec": {**body["spec"], "suspend": True}}


def test_a_job_created_suspended_creates_nothing():
    made = plan(observe(job(suspend=True)), NOW, CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Suspended"
    assert condition(made, "Suspended")["reason"] == "SuspendedByUser"


def test_suspending_a_running_job_pauses_it_and_notes_its_running_time():
    body = suspended(trained())
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(60))}})
    made = plan(observe(body, **known), at(160), CONFIG)
    started = timestamp(at(60))
    pause = PauseJob(stage=TRAIN, name="headlines-train", active_seconds=100, started=started)
    assert made.then == (pause,)
    assert made.status["phase"] == "Suspended"
    assert reasons(made) == ["Suspended"]


def test_a_stage_that_ends_while_suspended_is_recorded_and_the_next_one_waits():
    body = suspended(trained())
    made = plan(observe(body, **stages_done(PREPARE, TRAIN)), at(200), CONFIG)
    assert made.first == ()
    assert made.status["artifact"]["sha256"] == "a" * 64
    assert made.status["phase"] == "Suspended"


def test_resuming_wakes_the_jobs_first_and_says_so_when_they_go_on():
    paused = child(
        TRAIN, suspend=True,
        annotations={"finetune.dev/paused": "true", "finetune.dev/active-seconds": "100"},
    )  # fmt: skip
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: paused}})
    made, body = live([known], suspended(trained()), at(170))
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made = plan(observe(body, **known), at(200), CONFIG)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)
    known["jobs"][TRAIN] = child(TRAIN)
    made = plan(observe(body, **known), at(201), CONFIG)
    assert condition(made, "Suspended")["status"] == "False"
    assert "Resumed" in reasons(made)


@pytest.mark.parametrize("stage", [PREPARE, TRAIN])
def test_only_training_goes_on_at_a_checkpoint(stage):
    past = {"finetune.dev/active-seconds": "100"}
    body = trained() if stage is TRAIN else accepted()
    done = stages_done(PREPARE) if stage is TRAIN else {}
    paused = child(stage, suspend=True, annotations={"finetune.dev/paused": "true", **past})
    _, body = live([merged(done, {"jobs": {stage: paused}})], suspended(body), at(170))
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    known = merged(done, {"jobs": {stage: child(stage, annotations=past)}})
    made = plan(observe(body, **known), at(201), CONFIG)
    (event,) = [event for event in made.events if event.reason == "Resumed"]
    assert ("checkpoint" in event.message) is (stage is TRAIN)

    drained = pod(stage, phase="Failed", conditions=DRAIN)
    known = merged(known, {"pods": {stage: (drained,)}})
    made = plan(observe(after(body, made), **known), at(210), CONFIG)
    assert ("checkpoint" in made.status["lastFailure"]["message"]) is (stage is TRAIN)


def test_a_job_that_somebody_else_suspended_is_not_woken():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, suspend=True)}})
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.then == ()
    assert condition(made, "Training")["reason"] == "JobSuspended"


# ---- deadline ----------------------------------------------------------------------------------


def test_the_deadline_counts_running_time_over_stages_and_attempts():
    body = trained(job(activeDeadlineSeconds=300))
    train = child(TRAIN, status=running(1000), annotations={"finetune.dev/active-seconds": "100"})
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})
    early = plan(observe(body, **known), at(1100), CONFIG)
    assert not is_terminal(early.status or body["status"])
    assert early.requeue_after == pytest.approx(40)  # 60 prepare + 100 before + 100 now
    late = plan(observe(body, **known), at(1141), CONFIG)
    assert condition(late, "Failed")["reason"] == "DeadlineExceeded"
    assert [type(action) for action in late.then] == [PauseJob]


def test_time_in_suspension_does_not_count():
    body = trained(job(activeDeadlineSeconds=300))
    train = child(TRAIN, suspend=True, annotations={"finetune.dev/active-seconds": "100"})
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})
    made = plan(observe(body, **known), at(100_000), CONFIG)
    assert not is_terminal(made.status or body["status"])


JOB_SUSPENDED = {
    "type": "Suspended", "status": "True", "reason": "JobSuspended",
    "lastTransitionTime": timestamp(at(700)),
}  # fmt: skip


@pytest.mark.parametrize(
    ("suspend", "status", "used"),
    [
        (True, running(100), 600),
        (True, {"startTime": timestamp(at(100)), "conditions": [JOB_SUSPENDED]}, 600),
        (False, {"startTime": timestamp(at(100)), "conditions": [JOB_SUSPENDED]}, 600),
        (False, running(8000), 660),
    ],
    ids=["just paused", "pods are gone", "just resumed", "runs again"],
)
def test_a_pause_costs_no_running_time_whatever_the_job_controller_has_seen_of_it(
    suspend, status, used
):
    """It keeps ``startTime`` while a Job is suspended, and resets it some time after the resume."""
    body = trained(job(activeDeadlineSeconds=3600))
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running(100))}})
    made = plan(observe(suspended(body), **known), at(700), CONFIG)
    (pause,) = made.then
    assert pause == PauseJob(
        stage=TRAIN, name="headlines-train", active_seconds=600, started=timestamp(at(100))
    )
    noted = {
        "finetune.dev/active-seconds": str(pause.active_seconds),
        "finetune.dev/active-start": pause.started,
    }
    train = child(TRAIN, suspend=suspend, status=status, annotations=noted)
    assert active_seconds(train, at(8060), past=past_active_seconds(train)) == used
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: train}})
    made = plan(observe(body, **known), at(8060), CONFIG)
    assert not is_terminal(made.status or body["status"])


def test_a_pause_by_somebody_else_ends_the_run_too():
    status = {"startTime": timestamp(at(100)), "conditions": [JOB_SUSPENDED]}
    assert active_seconds(child(TRAIN, suspend=True, status=status), at(9000), past=0) == 600


# ---- children that are gone or in the way ------------------------------------------------------


def test_a_job_missing_from_the_cache_is_confirmed_before_it_is_believed():
    body = trained()
    made = plan(observe(body, **stages_done(PREPARE)), at(100), CONFIG)
    assert made.first == (ConfirmMissing(stage=TRAIN, name="headlines-train"),)
    made = plan(observe(body, **stages_done(PREPARE), missing=frozenset({TRAIN})), at(100), CONFIG)
    assert condition(made, "Failed")["status"] == "True"
    assert made.status["lastFailure"]["reason"] == "JobDeleted"
    assert made.first == ()


def test_a_deleted_job_of_a_stage_that_is_over_does_not_matter():
    made, body = live([stages_done(PREPARE)], accepted(), at(60))
    known = {"jobs": {TRAIN: child(TRAIN, status=running())}}
    made = plan(observe(body, **known), at(100), CONFIG)
    assert made.first == ()
    assert not is_terminal(made.status)


@pytest.mark.parametrize("is_final", [False, True])
def test_a_refused_creation_is_told(is_final):
    refusal = Refusal(reason="Forbidden", message="exceeded quota: gpus", is_final=is_final)
    made = plan(observe(job(), refusals={PREPARE: refusal}), NOW, CONFIG)
    assert made.first == ()
    assert is_terminal(made.status) is is_final
    assert "exceeded quota" in condition(made, "DatasetReady")["message"]
    assert (made.requeue_after is None) is is_final


# ---- queue -------------------------------------------------------------------------------------


def queue(**state):
    values = {
        "workload": "job-headlines-train-1234", "is_active": True, "is_admitted": False,
        "reason": "Pending", "message": "couldn't assign flavors: insufficient quota",
    }  # fmt: skip
    return QueueState(**{**values, **state})


def admitted_queue(**state):
    return queue(is_admitted=True, has_quota=True, **{"reason": "QuotaReserved", **state})


def queued_body():
    return accepted(job(queueName="team-a"))


def test_a_queued_stage_is_created_suspended_with_the_queue_label():
    made = plan(observe(queued_body(), **stages_done(PREPARE), has_kueue=True), at(60), CONFIG)
    (action,) = made.first
    assert action.job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    assert action.job["spec"]["suspend"] is True


def test_without_kueue_a_queued_stage_waits_and_says_why():
    made = plan(observe(queued_body(), **stages_done(PREPARE)), at(60), CONFIG)
    assert made.first == ()
    assert made.status["phase"] == "Queued"
    assert condition(made, "QuotaReserved")["reason"] == "KueueNotInstalled"


def test_kueues_reason_is_mirrored():
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "queue": {TRAIN: queue()}},
    )
    made = plan(observe(queued_body(), **known, has_kueue=True), at(61), CONFIG)
    assert made.status["phase"] == "Queued"
    assert condition(made, "QuotaReserved")["reason"] == "Pending"
    assert "insufficient quota" in condition(made, "QuotaReserved")["message"]
    assert made.then == ()


def test_a_queued_job_without_a_workload_is_told_after_a_minute():
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, suspend=True)}})
    made = plan(observe(queued_body(), **known, has_kueue=True), at(61), CONFIG)
    assert condition(made, "QuotaReserved")["reason"] == "NotManagedByKueue"
    assert "NotManagedByKueue" in reasons(made)


@pytest.mark.parametrize(
    ("suspend", "reason", "told", "of_stage"),
    [
        (False, "Preempted", ["Preempted"], "Preempted"),
        (True, "Deactivated", ["Suspended"], "SuspendedByUser"),
    ],
)
def test_only_others_preempt_a_job(suspend, reason, told, of_stage):
    admitted = {
        "jobs": {TRAIN: child(TRAIN, status=running())},
        "queue": {TRAIN: admitted_queue()},
    }
    made, body = live(
        [{**merged(stages_done(PREPARE), admitted), "has_kueue": True}],
        trained(job(queueName="team-a")),
        at(80),
    )
    assert condition(body, "QuotaReserved")["status"] == "True"
    evicted = {
        "jobs": {TRAIN: child(TRAIN, suspend=True)},
        "queue": {
            TRAIN: queue(
                is_evicted=True, is_active=not suspend, reason=reason, deactivated_by=FIELD_MANAGER
            )
        },
    }
    body = suspended(body) if suspend else body
    known = {**merged(stages_done(PREPARE), evicted), "has_kueue": True}
    made = plan(observe(body, **known), at(90), CONFIG)
    assert reasons(made) == told
    assert condition(made, "Training")["reason"] == of_stage
    # Active again, Kueue shows why it was evicted until it is admitted.
    body = after(body, made)
    history = (body["status"].get("attempts") or {}).get("history") or []
    recorded = [(item["class"], item["reason"], item["counted"]) for item in history]
    assert recorded == ([] if suspend else [("Preemption", "Preempted", False)])
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    known["queue"] = {TRAIN: queue(is_evicted=True, reason=reason)}
    made = plan(observe(body, **known), at(100), CONFIG)
    assert "Preempted" not in reasons(made)
    shown = condition(after(body, made), "Training")["reason"]
    assert shown == ("Queued" if suspend else "Preempted")


def test_pausing_a_queued_job_goes_through_the_workload():
    known = merged(
        stages_done(PREPARE),
        {
            "jobs": {TRAIN: child(TRAIN, status=running())},
            "queue": {TRAIN: admitted_queue()},
        },
    )
    body = suspended(trained(job(queueName="team-a")))
    made = plan(observe(body, **known, has_kueue=True), at(100), CONFIG)
    assert made.then == (
        ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=False),
    )


def test_a_job_that_is_resumed_before_kueue_has_suspended_it_is_reactivated():
    known = merged(
        stages_done(PREPARE),
        {
            "jobs": {TRAIN: child(TRAIN, status=running())},
            "queue": {TRAIN: admitted_queue(is_active=False, deactivated_by=FIELD_MANAGER)},
        },
    )
    made, body = live(
        [{**known, "has_kueue": True}], suspended(trained(job(queueName="team-a"))), at(100)
    )
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made = plan(observe(body, **known, has_kueue=True), at(101), CONFIG)
    assert made.then == (
        ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=True),
    )


def test_a_paused_queued_job_is_reactivated_and_one_that_others_deactivated_is_not():
    off = queue(is_active=False, reason="Deactivated", deactivated_by=FIELD_MANAGER)
    known = merged(
        stages_done(PREPARE),
        {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "queue": {TRAIN: off}},
    )
    made, body = live(
        [{**known, "has_kueue": True}], suspended(trained(job(queueName="team-a"))), at(100)
    )
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    made = plan(observe(body, **known, has_kueue=True), at(110), CONFIG)
    assert made.then == (
        ActivateWorkload(stage=TRAIN, name="job-headlines-train-1234", active=True),
    )
    made = plan(observe(trained(job(queueName="team-a")), **known, has_kueue=True), at(110), CONFIG)
    assert made.then == ()


# ---- attempts ----------------------------------------------------------------------------------


def test_evicted_pods_are_counted_over_an_operators_restart():
    disrupted = [{"type": "DisruptionTarget", "status": "True"}]
    first = pod(TRAIN, name="one", phase="Failed", conditions=disrupted)
    ledger = Ledger().seen([first])
    ledger = ledger.seen([pod(TRAIN, name="two")])
    assert (ledger.num_started, ledger.num_evicted) == (2, 1)
    # The evicted pod is gone by the time the next operator starts.
    again = Ledger.resume({"total": 2, "preemptions": 1}, [pod(TRAIN, name="two")])
    again = again.seen([pod(TRAIN, name="three", phase="Failed", conditions=disrupted)])
    assert (again.num_started, again.num_evicted) == (3, 2)


def test_a_pod_over_its_own_limits_is_no_preemption():
    ledger = Ledger().seen([pod(TRAIN, phase="Failed", reason="Evicted", message="disk")])
    assert (ledger.num_started, ledger.num_evicted) == (1, 0)


# ---- silence -----------------------------------------------------------------------------------


def test_a_training_that_pushes_nothing_is_told_to_be_silent_once():
    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    early = plan(observe(body, **known), at(100), CONFIG)
    assert early.requeue_after == pytest.approx(20)
    made = plan(observe(body, **known), at(130), CONFIG)
    assert "No progress was received" in condition(made, "Training")["message"]
    assert condition(made, "Training")["status"] == "True"
    again = plan(observe(after(body, made), **known), at(140), CONFIG)
    assert again.status is None
    assert again.requeue_after is None


# ---- columns -----------------------------------------------------------------------------------


def with_progress(body, **progress):
    return {**body, "status": {**body["status"], "progress": progress}}


def test_a_new_stage_starts_at_0_percent_and_stays_there_until_its_first_push():
    heartbeat = timestamp(at(50))
    body = with_progress(accepted(), stage="prepare", percent=100, lastHeartbeatTime=heartbeat)
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN)}})
    made = plan(observe(body, **known), at(60), CONFIG)
    assert made.status["progress"] == {"stage": "train", "percent": 0}
    # Until then every write has to repeat it, but it is no reason for a write.
    body = after(body, made)
    body = with_progress(body, **made.status["progress"], lastHeartbeatTime=heartbeat)
    assert plan(observe(body, **known), at(61), CONFIG).status is None
    known["jobs"][TRAIN] = child(TRAIN, status=running(62))
    made = plan(observe(body, **known), at(62), CONFIG)
    assert made.status["progress"] == {"stage": "train", "percent": 0}
    body = with_progress(after(body, made), stage="train", percent=3, step=5)
    known["pods"][TRAIN] = (ended(TRAIN, 1, "boom"),)
    made = plan(observe(body, **known), at(90), CONFIG)
    assert made.status["lastFailure"]
    assert "progress" not in made.status


def test_progress_that_nobody_pushed_is_not_made_up():
    made = plan(observe(accepted(), **stages_done(PREPARE)), at(60), CONFIG)
    assert "progress" not in (made.status or {})


def unscheduled():
    lacking = {
        "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
        "message": "0/3 nodes are available", "lastTransitionTime": timestamp(at(60)),
    }  # fmt: skip
    return pod(TRAIN, phase="Pending", node="", conditions=[lacking])


def in_queue(**state):
    return {"jobs": {TRAIN: child(TRAIN, suspend=True)}, "queue": {TRAIN: queue(**state)}}


COLUMNS = [
    ("prepares", {}, {"jobs": {PREPARE: child(PREPARE)}}, "Preparing", "Preparing"),
    ("waits for pods", {}, {"jobs": {TRAIN: child(TRAIN)}}, "Training", "WaitingForPods"),
    ("trains", {}, {"jobs": {TRAIN: child(TRAIN, status=running())}}, "Training", "Running"),
    ("finds no node", {}, {"jobs": {TRAIN: child(TRAIN)}, "pods": {TRAIN: (unscheduled(),)}},
     "Training", "Unschedulable"),
    ("evaluates", {}, merged(stages_done(TRAIN), {"jobs": {EVALUATE: child(EVALUATE)}}),
     "Evaluating", "Evaluating"),
    ("held by its user", {"suspend": True}, {"jobs": {TRAIN: child(TRAIN)}},
     "Suspended", "SuspendedByUser"),
    ("no Kueue", {"queueName": "q"}, {}, "Queued", "KueueNotInstalled"),
    ("in the queue", {"queueName": "q"}, in_queue(), "Queued", "Queued"),
    ("preempted", {"queueName": "q"}, in_queue(is_evicted=True, reason="Preempted"),
     "Queued", "Preempted"),
    ("published", {}, stages_done(TRAIN, EVALUATE), "Succeeded", "Published"),
    ("failed", {}, {"jobs": {TRAIN: child(TRAIN, status=failed())},
     "pods": {TRAIN: (ended(TRAIN, 137, reason="OOMKilled"),)}}, "Failed", "OOMKilled"),
    ("refused", {"model": {"uri": "file:///etc/passwd"}}, {}, "Failed", "URINotAllowed"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "known", "phase", "reason"),
    [case[1:] for case in COLUMNS],
    ids=[case[0] for case in COLUMNS],
)
def test_the_columns_say_where_the_job_is_and_why(spec, known, phase, reason):
    if "jobs" not in known or PREPARE not in known["jobs"]:
        known = merged(stages_done(PREPARE), known)
    made = plan(observe(job(**spec), **known, has_kueue="queue" in known), at(100), CONFIG)
    assert (made.status["phase"], made.status["reason"]) == (phase, reason)
