"""What a tenant may ask for."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.messages.messages import path_of
from finetune_api.names import Owner
from finetune_api.protocol.trainer import ResolvedJob, Stage
from finetune_api.uris import EACH, URI_FIELDS
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import OperatorConfig
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.render.config import render_config_map
from finetune_operator.finetunejob.render.pod import render_pod_template
from finetune_operator.finetunejob.state.actions import PauseJob
from kit.builders.jobs import (
    CONFIG,
    NOW,
    after,
    at,
    child,
    condition,
    job,
    merged,
    observe,
    plans,
    reasons,
    running,
    stages_done,
    trained,
)
from kit.cases.spec_cases import job_with_uri

PREPARE, TRAIN, EVALUATE = Stage.PREPARE, Stage.TRAIN, Stage.EVALUATE


MODEL = {"uri": "hf://a/b"}
WANDB = {"credentialsRef": {"name": "keys"}}
ADMISSION = [
    ("file outside", {"model": {"uri": "file:///etc/passwd"}}, {}, "URINotAllowed"),
    ("file by dots", {"model": {"uri": "file:///data/../etc"}}, {"allowed_file_paths": ["/data"]},
     "URINotAllowed"),
    ("file by encoded dots", {"model": {"uri": "file:///data/%2e%2e/etc"}},
     {"allowed_file_paths": ["/data"]}, "URINotAllowed"),
    ("file by prefix of a name", {"model": {"uri": "file:///database"}},
     {"allowed_file_paths": ["/data"]}, "URINotAllowed"),
    ("file by a tab among dots", {"model": {"uri": "file:///data/.\t./etc"}},
     {"allowed_file_paths": ["/data"]}, "InvalidSpec"),
    ("file behind a query", {"model": {"uri": "file:///data/x?/../../etc"}},
     {"allowed_file_paths": ["/data"]}, "URINotAllowed"),
    ("claim by a tab among dots", {"output": {"uri": "pvc://claim/.\t./x"}}, {}, "InvalidSpec"),
    ("claim by an encoded tab", {"output": {"uri": "pvc://claim/.%09./x"}}, {}, "URINotAllowed"),
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
    ("claim by encoded dots", {"output": {"uri": "pvc://claim/%2e%2E/x"}}, {}, "URINotAllowed"),
    ("claim by an encoded slash", {"output": {"uri": "pvc://claim/..%2fx"}}, {}, "URINotAllowed"),
    ("claim of another namespace", {"output": {"uri": "pvc://other/ns:claim"}}, {}, None),
    ("template without end",
     {"dataset": {"sources": [{"uri": "s3://a/b.csv", "template": "{{ a"}]}}, {},
     "InvalidTemplate"),
    ("chat template without end", {"model": {**MODEL, "chatTemplate": {"text": "{{ a"}}}, {},
     "InvalidTemplate"),
    ("endpoint", {"s3": {"endpoint": "http://evil:80"}}, {}, "EndpointNotAllowed"),
    ("tracker", {"tracking": {"mlflow": {"uri": "http://evil:80"}}}, {}, "TrackerNotAllowed"),
    ("tracker below an allowed one", {"tracking": {"mlflow": {"uri": "http://a/b"}}},
     {"allowed_trackers": ["http://a"]}, "TrackerNotAllowed"),
    ("the service of W&B", {"tracking": {"mlflow": {"uri": "http://a"}, "wandb": WANDB}},
     {"allowed_trackers": ["http://a"]}, "TrackerNotAllowed"),
    ("judge", {"evaluation": {"judge": {"endpoint": "https://api.example.com/v1", "model": "m"}}},
     {}, "JudgeNotAllowed"),
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
    ("variable of a like name", {"podTemplate": {"env": [{"name": "HOMEPAGE"}]}},
     {"allowed_environment": ["*"]}, None),
    ("reserved volume", {"podTemplate": {"volumes": [{"name": "token", "emptyDir": {}}]}}, {},
     "ReservedName"),
    ("mount over the work folder",
     {"podTemplate": {"volumes": [{"name": "x", "emptyDir": {}}],
                      "volumeMounts": [{"name": "x", "mountPath": "/work/sub"}]}}, {},
     "ReservedName"),
    *((f"GPUs of {name}", {"resources": {"gpuResource": name}}, {}, "InvalidSpec")
      for name in ("memory", "cpu", "ephemeral-storage", "hugepages-2Mi", "kubernetes.io/gpu",
                   "beta.kubernetes.io/gpu", "requests.nvidia.com/gpu", "a/b/c", "/gpu")),
    *((f"GPUs of {name}", {"resources": {"gpuResource": name}}, {}, None)
      for name in ("amd.com/gpu", "nvidia.com/mig-1g.5gb", "gpu.intel.com/i915")),
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


def mounted_at(*paths, **mount):
    return {
        "volumes": [{"name": "mine", "configMap": {"name": "mine"}}],
        "volumeMounts": [{"name": "mine", "mountPath": path, **mount} for path in paths],
    }


def stored(**spec):
    """Return the spec of an object that the API server holds, maybe from before some rules."""
    return FineTuneJob.from_stored(job(**spec)).spec


HIDING = [
    *("//etc/finetune/job", "/etc//finetune/job", "/etc/./finetune/job/", "/data/../etc/finetune"),
    *(
        "///work",
        "/",
        "//",
        "/.",
        "/etc/finetune/job\t",
        "/var",
        "/var/lib/finetune",
        "/data\\..\\etc",
    ),
]


@pytest.mark.parametrize("path", HIDING)
def test_no_spelling_of_a_path_mounts_over_what_the_operator_mounts(path):
    (violation,) = find_violations(stored(podTemplate=mounted_at(path)), CONFIG)
    assert violation.reason == "ReservedName"
    assert violation.field == "spec.podTemplate.volumeMounts"
    assert repr(path) in violation.message


@pytest.mark.parametrize("path", ["..", "a/../..", "/etc", "a\\..", "a\x00"])
def test_a_path_inside_a_volume_stays_inside(path):
    (violation,) = find_violations(stored(podTemplate=mounted_at("/data", subPath=path)), CONFIG)
    assert violation.field == "spec.podTemplate.volumeMounts"
    assert repr(path)[1:-1] in violation.message


@pytest.mark.parametrize("paths", [("/data", "/data/x"), ("/data/x", "/data"), ("/data", "/data/")])
def test_no_mount_lies_in_another_whose_links_would_lead_it_elsewhere(paths):
    (violation,) = find_violations(stored(podTemplate=mounted_at(*paths)), CONFIG)
    assert violation.field == "spec.podTemplate.volumeMounts"


def test_mounts_side_by_side_are_accepted():
    template = mounted_at("/data/a", "/data/ab", "/mnt", subPath="sets/2026")
    assert find_violations(FineTuneJob.from_wire(job(podTemplate=template)).spec, CONFIG) == []


@pytest.mark.parametrize("field", URI_FIELDS, ids=".".join)
@pytest.mark.parametrize(
    "uri", ["file:///proc/self/adapter", "pvc://claim/../adapter", "pvc://claim/%2e%2e/adapter"]
)
def test_no_place_for_a_uri_reaches_past_the_administrators_folders_or_a_claim(field, uri):
    (violation,) = find_violations(
        FineTuneJob.from_wire(job_with_uri(field, uri)).spec, OperatorConfig()
    )
    assert violation.reason == "URINotAllowed"
    place = tuple(0 if part == EACH else part for part in field)
    assert violation.field == path_of(("spec", *place))
    assert uri in violation.message


def test_a_fixed_variable_is_refused_with_what_to_do_instead():
    env = [{"name": "OMP_NUM_THREADS", "value": "8"}]
    made = plan(observe(job(podTemplate={"env": env})), NOW, CONFIG)
    message = condition(made, "Accepted")["message"]
    assert message.startswith("spec.podTemplate.env: 'OMP_NUM_THREADS' ")
    assert "spec.resources.cpu" in message


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ({"model": {"uri": "file:///data/model"}}, {"allowed_file_paths": ["/data"]}),
        ({"model": {"uri": "file:///data"}}, {"allowed_file_paths": ["/data/"]}),
        ({"s3": {"endpoint": "http://s3:8333/"}}, {"allowed_endpoints": ["http://s3:8333"]}),
        ({"s3": {"endpoint": "http://any:1"}}, {"allowed_endpoints": ["*"]}),
        ({"output": {"uri": "pvc://claim/adapters"}}, {}),
        (
            {"tracking": {"mlflow": {"uri": "http://mlflow:5000/"}}},
            {"allowed_trackers": ["http://MLflow:5000"]},
        ),
        ({"tracking": {"mlflow": {"uri": "http://any:1"}}}, {"allowed_trackers": ["*"]}),
        ({"tracking": {"wandb": WANDB}}, {"allowed_trackers": ["https://api.wandb.ai/"]}),
    ],
)
def test_what_is_allowed_is_accepted(spec, settings):
    assert plan(observe(job(**spec)), NOW, OperatorConfig(**settings)).first


def test_where_rows_will_be_sent_is_told_when_a_job_is_accepted():
    judge = {"endpoint": "https://judge.corp/v1", "model": "m", "credentialsRef": {"name": "key"}}
    config = OperatorConfig(allowed_judge_endpoints=["https://judge.corp/*"])
    body = job(evaluation={"judge": judge})
    made = plan(observe(body, jobs={PREPARE: child(PREPARE)}), NOW, config)
    (event,) = [event for event in made.events if event.reason == "Accepted"]
    assert "https://judge.corp/v1" in event.message
    for stage in (PREPARE, EVALUATE):  # the key is looked for before a GPU is asked for
        pod = render_pod_template(
            FineTuneJob.from_wire(body).spec, stage, Owner(namespace="n", name="j", uid="u"), config
        )
        secrets = [v["secret"]["secretName"] for v in pod["spec"]["volumes"] if "secret" in v]
        assert "key" in secrets


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


EXAM = {"uri": "s3://d/b.jsonl", "side": "Test"}
SINCE = {
    "goal.overBase": {"goal": {"metric": "exactMatch", "overBase": "1"}},
    "checkpoint.earlyStopping": {
        "checkpoint": {"earlyStopping": {"patience": 3}},
        "dataset": {"sources": [{"uri": "s3://d/a.jsonl", "side": "Train"}, EXAM]},
    },
}
"""Specs that were accepted before there was the rule that they break, by its field."""


@pytest.mark.parametrize("field", list(SINCE))
def test_a_rule_that_came_since_a_job_was_accepted_holds_only_others(field):
    body = {**job(**SINCE[field]), "status": trained()["status"]}
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    _, body = plans(body, known, 80)
    assert condition(body, "Accepted")["status"] == "True"
    config_map = render_config_map(observe(body).parsed, observe(body).owner)
    ResolvedJob.from_json(config_map["data"]["job.json"])
    paused = {**body, "spec": {**body["spec"], "suspend": True}}
    made = plan(observe(paused, **known), at(90), CONFIG)
    assert [type(action) for action in made.then] == [PauseJob]
    made = plan(observe(job(**SINCE[field])), NOW, CONFIG)
    assert made.first == ()
    refused = condition(made, "Accepted")
    assert (refused["status"], refused["reason"]) == ("False", "InvalidSpec")
    assert refused["message"].startswith(f"spec.{field}: {field} ")


EMPTY_LISTS = {"nodeAffinity": {"x": [[]] * 460_000}}
"""1.38 MB on the wire; parsed, it took 31 to 38 MiB of every process that kept it."""
FREE_FORM = {
    "nodeAffinity": {
        "requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [[]] * 460_000}
    }
}


def test_a_map_of_very_many_wrong_entries_is_told_of_once():
    labels = {f"label-{number}": number for number in range(100_000)}
    near = [{"topologyKey": "zone", "labelSelector": {"matchLabels": labels}}]
    body = job(
        podTemplate={
            "affinity": {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": near}}
        }
    )
    with pytest.raises(ValidationError) as raised:
        FineTuneJob.from_stored(body)
    assert raised.value.error_count() == 1
    assert "matchLabels has 100000 entries" in str(raised.value)


def test_an_affinity_from_before_its_bounds_is_refused_in_words_and_the_status_stays():
    refused = plan(observe(job(podTemplate={"affinity": FREE_FORM})), NOW, CONFIG)
    accepted = condition(refused, "Accepted")
    assert (refused.first, accepted["status"], accepted["reason"]) == ((), "False", "InvalidSpec")
    assert "podTemplate.affinity" in accepted["message"]
    assert len(accepted["message"]) <= 1024

    body = trained()
    known = merged(stages_done(PREPARE), {"jobs": {TRAIN: child(TRAIN, status=running())}})
    body = {**body, "spec": {**body["spec"], "podTemplate": {"affinity": FREE_FORM}}}
    made = plan(observe(body, **known), at(80), CONFIG)
    assert (made.first, made.then) == ((), ())
    assert condition(made, "Accepted")["status"] == "Unknown"
    assert made.status["dataset"] == body["status"]["dataset"]


def test_what_is_unknown_in_an_affinity_is_neither_kept_nor_rendered():
    body = job(podTemplate={"affinity": {**EMPTY_LISTS, "podAffinity": {}}})
    affinity = FineTuneJob.from_stored(body).spec.pod_template.affinity
    assert (
        affinity.to_wire()
        == FineTuneJob.from_stored(
            job(podTemplate={"affinity": {"nodeAffinity": {}, "podAffinity": {}}})
        ).spec.pod_template.affinity.to_wire()
    )


def test_a_setting_that_changes_later_does_not_reach_back():
    allowed = OperatorConfig(allowed_endpoints=["*"])
    body = job(s3={"endpoint": "http://s3:8333"})
    body = after(body, plan(observe(body, jobs={PREPARE: child(PREPARE)}), NOW, allowed))
    made = plan(observe(body, **stages_done(PREPARE)), at(60), OperatorConfig())
    assert [action.stage for action in made.first] == [TRAIN]
