"""What an administrator allows and presets, for the cluster and by namespace."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import ConfigError, OperatorConfig
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.render.pod import render_pod_template
from kit.builders.jobs import NOW, condition, job, observe
from unit.operator.controllers.test_reconcile import KEY, world_of

POLICIES = """
trainerImage: registry.corp/trainer:1.2
allowedNodeSelectors: [pool=shared]
policies:
  - namespaces: ["team-*"]
    allowedImages: ["registry.corp/*"]
    allowedServiceAccounts: []
    allowedJudgeEndpoints: ["https://judge.corp/*", "http://judge.models.svc:8000/v1"]
    defaultNodeSelector: {pool: shared}
  - namespaces: [team-a]
    trainerImage: registry.corp/team-a/trainer:9
    allowedServiceAccounts: [trainer-*]
    allowedNodeSelectors: [pool=team-a, "nvidia.com/gpu.product=*"]
    defaultNodeSelector: {pool: team-a}
    defaultServiceAccount: bucket-reader
    allowCustomMetrics: false
    allowedLicences: [Apache-2.0, "llama3*"]
    defaultTolerations: [{key: team-a, operator: Exists, tolerationSeconds: 60}]
    defaultMemory: 200Gi
    prepareMemory: 8Gi
"""

WANTED_NODES = {
    "preferredDuringSchedulingIgnoredDuringExecution": [
        {
            "weight": 1,
            "preference": {"matchExpressions": [{"key": "gpu", "operator": "Exists"}]},
        }
    ]
}
APART = {
    "requiredDuringSchedulingIgnoredDuringExecution": [
        {
            "labelSelector": {"matchLabels": {"team": "a"}},
            "topologyKey": "kubernetes.io/hostname",
        }
    ]
}


def read(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return OperatorConfig.load(path, environment={})


def spec_of(**spec):
    return FineTuneJob.from_wire(job(**spec)).spec


def test_the_later_policy_wins_and_says_nothing_of_what_it_does_not_state(tmp_path):
    config = read(POLICIES, tmp_path)
    one, other, outside = (config.for_namespace(name) for name in ("team-a", "team-b", "lab"))
    assert one.allowed_images == other.allowed_images == ["registry.corp/*"]
    assert outside.allowed_images == ["*"]
    assert one.allowed_service_accounts == ["trainer-*"]
    assert other.allowed_service_accounts == []
    assert [each.default_memory for each in (one, other)] == ["200Gi", "16Gi"]
    assert one.trainer_image == "registry.corp/team-a/trainer:9"
    assert other.trainer_image == outside.trainer_image == "registry.corp/trainer:1.2"
    assert one.allowed_node_selectors != other.allowed_node_selectors == ["pool=shared"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("policies: [{namespaces: [a], numWorkers: 3}]", "policies.0.numWorkers"),
        ("policies: [{defaultCpu: 3}]", "policies.0.namespaces"),
        ("policies: [{namespaces: []}]", "policies.0.namespaces"),
        ("policies: [{namespaces: [a], defaultMemory: much}]", "policies.0.defaultMemory"),
        ("policies: [{namespaces: [a], defaultTolerations: [{operator: Maybe}]}]",
         "policies.0.defaultTolerations.0.operator"),
    ],
    ids=["not a tenant's setting", "for nobody", "for no name", "bad value", "bad toleration"],
)  # fmt: skip
def test_a_policy_that_cannot_be_meant_is_refused_by_its_place(text, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        read(text, tmp_path)


def judged_by(endpoint):
    return {"evaluation": {"judge": {"endpoint": endpoint, "model": "m"}}}


OWN_METRIC = {"customMetric": {"path": "/data/tone.py"}}
TRAINER = {"image": "registry.corp/mine:1"}
REFUSALS = [
    ("another image", {"trainer": {"image": "docker.io/evil:1"}}, "ImageNotAllowed",
     ("spec.trainer.image", "'docker.io/evil:1'", "registry.corp/*", "allowedImages")),
    ("a look-alike", {"trainer": {"image": "evil.io/registry.corp/x"}}, "ImageNotAllowed", ()),
    ("an allowed image", {"trainer": TRAINER}, None, ()),
    ("the preset image", {"trainer": {"image": "registry.corp/team-a/trainer:9"}}, None, ()),
    ("another account", {"podTemplate": {"serviceAccountName": "root"}},
     "ServiceAccountNotAllowed",
     ("spec.podTemplate.serviceAccountName", "'root'", "trainer-*", "bucket-reader")),
    ("an allowed account", {"podTemplate": {"serviceAccountName": "trainer-s3"}}, None, ()),
    ("the preset account", {"podTemplate": {"serviceAccountName": "bucket-reader"}}, None, ()),
    ("another pool", {"podTemplate": {"nodeSelector": {"pool": "team-b"}}},
     "NodeSelectorNotAllowed",
     ("spec.podTemplate.nodeSelector", "'pool=team-b'", "allowedNodeSelectors")),
    ("another label", {"podTemplate": {"nodeSelector": {"zone": "a"}}}, "NodeSelectorNotAllowed",
     ()),
    ("allowed labels",
     {"podTemplate": {"nodeSelector": {"pool": "team-a", "nvidia.com/gpu.product": "H100"}}},
     None, ()),
    ("affinity past them",
     {"podTemplate": {"affinity": {"nodeAffinity": WANTED_NODES}}}, "NodeSelectorNotAllowed",
     ("spec.podTemplate.affinity.nodeAffinity",)),
    ("affinity that says nothing", {"podTemplate": {"affinity": {"nodeAffinity": {}}}}, None, ()),
    ("affinity among pods", {"podTemplate": {"affinity": {"podAntiAffinity": APART}}}, None, ()),
    ("another judge", judged_by("https://api.example.com/v1"), "JudgeNotAllowed",
     ("spec.evaluation.judge.endpoint", "'https://api.example.com/v1'", "https://judge.corp/*",
      "allowedJudgeEndpoints")),
    ("a look-alike of a judge", judged_by("https://judge.corp.evil.com/v1"), "JudgeNotAllowed", ()),
    ("a judge that goes on", judged_by("http://judge.models.svc:8000/v12"), "JudgeNotAllowed", ()),
    ("an allowed judge", judged_by("https://judge.corp/v1"), None, ()),
    ("the same without a path", judged_by("https://judge.corp"), None, ()),
    ("an exact judge", judged_by("http://judge.models.svc:8000/v1/"), None, ()),
    ("a metric of its own", {"evaluation": OWN_METRIC}, "CustomMetricNotAllowed",
     ("spec.evaluation.customMetric", "'/data/tone.py'", "allowCustomMetrics")),
    ("another licence", {"model": {"uri": "hf://a/b", "licence": "gemma"}}, "LicenceNotAllowed",
     ("spec.model.licence", "'gemma'", "Apache-2.0, llama3*", "allowedLicences")),
    ("one licence of two", {"model": {"uri": "hf://a/b", "licence": "apache-2.0, gemma"}},
     "LicenceNotAllowed", ()),
    ("an allowed licence", {"model": {"uri": "hf://a/b", "licence": "Llama3.1"}}, None, ()),
    ("nothing", {}, None, ()),
]  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "reason", "words"),
    [case[1:] for case in REFUSALS],
    ids=[case[0] for case in REFUSALS],
)
def test_what_a_policy_does_not_allow_is_refused_with_value_field_and_remedy(
    spec, reason, words, tmp_path
):
    config = read(POLICIES, tmp_path).for_namespace("team-a")
    found = find_violations(spec_of(**spec), config)
    assert [violation.reason for violation in found] == ([reason] if reason else [])
    assert all(word in str(violation) for violation in found for word in words)


@pytest.mark.parametrize(
    ("uri", "is_allowed"),
    [
        ("s3://teams/team-a/rows.jsonl", True),
        ("s3://teams/team-a", True),
        ("s3://shared/base", True),
        ("hf://org/model", True),
        ("pvc://rows/a.jsonl", True),
        ("s3://teams/team-b/rows.jsonl", False),
        ("s3://teams/team-ab/rows.jsonl", False),
        ("s3://teams/*/rows.jsonl", False),
        ("s3://teams", False),
        ("s3://sharedx/base", False),
        ("s3://teams/team-a/../team-b/rows.jsonl", False),
        ("s3://teams/team-a/%2e%2e/team-b/rows.jsonl", False),
    ],
)
def test_a_namespace_reads_and_writes_in_the_buckets_and_folders_that_are_its_own(uri, is_allowed):
    config = OperatorConfig(
        allowed_buckets=["s3://models/*"],
        policies=[
            {
                "namespaces": ["team-*"],
                "allowedBuckets": ["s3://shared/*", "s3://teams/{namespace}/*"],
            }
        ],
    )
    spec = spec_of(output={"uri": "s3://teams/team-a/out"})
    source = spec.dataset.sources[0].model_copy(update={"uri": uri})
    dataset = spec.dataset.model_copy(update={"sources": [source]})
    model = spec.model.model_copy(update={"uri": "s3://shared/base"})
    spec = spec.model_copy(update={"dataset": dataset, "model": model})
    found = find_violations(spec, config.for_namespace("team-a"))
    assert [each.reason for each in found] == ([] if is_allowed else ["URINotAllowed"])
    theirs = find_violations(spec, config.for_namespace("other"))
    assert {each.reason for each in theirs} == {"URINotAllowed"}


@pytest.mark.parametrize("pattern", ["teams/*", "s3:///x", "s3://a/../b", "s3://a b/*", "gs://a"])
def test_a_pattern_of_buckets_that_matches_nothing_is_refused(pattern):
    with pytest.raises(ValidationError, match="is not a pattern of buckets"):
        OperatorConfig(allowed_buckets=[pattern])


RESERVED = {"name": "finetune-serving-token"}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"output": {"uri": "s3://b/o", "credentialsRef": RESERVED}}, "output.credentialsRef.name"),
        (
            {"model": {"uri": "s3://b/m", "credentialsRef": RESERVED}},
            "model.credentialsRef.name",
        ),
        (
            {"dataset": {"sources": [{"uri": "s3://b/d", "credentialsRef": RESERVED}]}},
            "dataset.sources[0].credentialsRef.name",
        ),
        (
            {"podTemplate": {"serviceAccountName": "finetune-serving"}},
            "podTemplate.serviceAccountName",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_no_job_names_what_the_operator_makes_for_serving_pods(change, field):
    with pytest.raises(ValidationError, match="must not begin with finetune-serving"):
        FineTuneJob.from_wire(job(**change))
    stored = FineTuneJob.from_stored(job(**change)).spec
    (violation,) = find_violations(stored, OperatorConfig(model_downloads="Anywhere"))
    assert (violation.reason, violation.field) == ("InvalidSpec", f"spec.{field}")


ONE, TWO, NONE = ({"nodes": n, "gpusPerNode": g} for n, g in ((1, 8), (2, 8), (2, 0)))


@pytest.mark.parametrize("uri", ["hf://org/base", "s3://models/base"])
@pytest.mark.parametrize(
    ("config", "refused", "allowed"),
    [
        ({"model_downloads": "BeforeGPUs"}, [ONE, TWO], [NONE]),
        ({"model_downloads": "OneNode"}, [TWO], [ONE, NONE]),
        ({}, [TWO], [ONE, NONE]),
        ({"model_downloads": "Anywhere"}, [], [ONE, TWO, NONE]),
        ({"model_downloads": "BeforeGPUs", "cache_claim": "base-models"}, [], [ONE, TWO, NONE]),
    ],
)
def test_a_job_whose_pods_would_download_the_base_while_gpus_wait_is_refused(
    uri, config, refused, allowed
):
    config = OperatorConfig(**config)
    for resources in allowed:
        assert find_violations(spec_of(model={"uri": uri}, resources=resources), config) == []
    for resources in refused:
        spec = spec_of(model={"uri": uri}, resources=resources)
        (violation,) = find_violations(spec, config)
        assert violation.reason == "ModelDownloadNotAllowed"
        assert violation.field == "spec.model.uri"
        assert all(word in violation.message for word in (uri, "cacheClaim", "pvc://"))
        in_place = spec_of(model={"uri": "pvc://models/base"}, resources=resources)
        assert find_violations(in_place, config) == []


def test_without_policies_everything_is_allowed_as_before():
    spec = spec_of(
        trainer={"image": "any/image:1"},
        evaluation=OWN_METRIC,
        podTemplate={
            "serviceAccountName": "any",
            "nodeSelector": {"any": "label"},
            "affinity": {"nodeAffinity": WANTED_NODES},
        },
    )
    assert find_violations(spec, OperatorConfig()) == []


def pod_of(config, stage=Stage.TRAIN, **spec):
    made = render_pod_template(
        spec_of(**spec), stage, Owner(namespace="team-a", name="headlines", uid="u"), config
    )
    return made["spec"]


def test_pods_get_what_is_preset_for_their_namespace(tmp_path):
    config = read(POLICIES, tmp_path).for_namespace("team-a")
    pod = pod_of(config)
    assert pod["nodeSelector"] == {"pool": "team-a"}
    assert pod["serviceAccountName"] == "bucket-reader"
    assert [each["key"] for each in pod["tolerations"]] == ["team-a"]
    assert pod["containers"][0]["image"] == "registry.corp/team-a/trainer:9"


def test_a_job_adds_to_the_presets_or_takes_their_place(tmp_path):
    config = read(POLICIES, tmp_path).for_namespace("team-a")
    mine = {"key": "gpu", "operator": "Exists"}
    template = {
        "nodeSelector": {"pool": "other", "zone": "a"},
        "serviceAccountName": "trainer-s3",
        "tolerations": [mine],
    }
    pod = pod_of(config, podTemplate=template)
    assert pod["nodeSelector"] == {"pool": "other", "zone": "a"}
    assert pod["serviceAccountName"] == "trainer-s3"
    assert [each["key"] for each in pod["tolerations"]] == ["gpu", "team-a"]


def test_the_cpu_stage_is_not_drawn_to_gpu_nodes(tmp_path):
    pod = pod_of(read(POLICIES, tmp_path).for_namespace("team-a"), Stage.PREPARE)
    assert "nodeSelector" not in pod
    assert "tolerations" not in pod
    assert pod["containers"][0]["resources"]["limits"]["memory"] == "8Gi"
    assert pod["serviceAccountName"] == "bucket-reader"


def test_a_policy_does_not_reach_back_to_accepted_jobs(tmp_path):
    config = read(POLICIES, tmp_path).for_namespace("team-a")
    body = job(trainer={"image": "docker.io/evil:1"})
    accepted = {"type": "Accepted", "status": "True", "reason": "Valid"}
    accepted["lastTransitionTime"] = "2026-11-24T12:00:00Z"
    made = plan(observe({**body, "status": {"conditions": [accepted]}}), NOW, config)
    assert made.first


async def test_a_job_is_judged_by_the_policy_of_its_namespace(tmp_path):
    world = world_of(job(trainer={"image": "docker.io/evil:1"}), config=read(POLICIES, tmp_path))
    await world.reconciler.reconcile(KEY)
    told = world.client.cluster.objects["finetunejobs", *KEY]
    assert condition(told, "Accepted")["reason"] == "ImageNotAllowed"
    assert [sent["kind"] for verb, sent in world.client.writes if verb == "create"] == []


def test_the_list_of_licences_goes_to_the_stage_that_reads_the_model(tmp_path):
    config = read(POLICIES, tmp_path)

    def told(namespace, stage):
        variables = pod_of(config.for_namespace(namespace), stage)["containers"][0]["env"]
        return {v["name"]: v.get("value") for v in variables}.get("FINETUNE_ALLOWED_LICENCES")

    assert told("team-a", Stage.PREPARE) == '["Apache-2.0", "llama3*"]'
    assert told("team-a", Stage.TRAIN) is None
    assert told("team-b", Stage.PREPARE) is None
