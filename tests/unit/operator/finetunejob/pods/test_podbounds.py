"""What a pod template may ask for, with the settings that a chart is installed with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from finetune_api.names import Owner
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.config import ConfigError, OperatorConfig
from finetune_operator.finetunejob.pods.admission import find_violations
from finetune_operator.finetunejob.pods.podbounds import SETTINGS
from finetune_operator.finetunejob.render.pod import render_pod_template
from finetune_operator.tenants import RESERVED_MOUNTS
from kit.builders.jobs import job

ROOT = Path(__file__).parents[5]
CHART = yaml.safe_load((ROOT / "charts" / "finetune-operator" / "values.yaml").read_text())


def mount(path):
    return {
        "volumes": [{"name": "mine", "emptyDir": {}}],
        "volumeMounts": [{"name": "mine", "mountPath": path}],
    }


def env(name):
    return {"env": [{"name": name, "value": "x"}]}


def tolerate(**toleration):
    return {"tolerations": [toleration]}


def ask(name, quantity="1"):
    return {"extraResources": [{"name": name, "quantity": quantity}]}


def claim(template):
    return {"resourceClaims": [{"name": "channel", "resourceClaimTemplateName": template}]}


def found(template, **settings):
    spec = FineTuneJob.from_stored(job(podTemplate=template)).spec
    return find_violations(spec, OperatorConfig(**settings))


APPARMOR = "container.apparmor.security.beta.kubernetes.io/trainer"
CLOSED = [
    *(
        ("MountNotAllowed", "volumeMounts", mount(path), path)
        for path in ("/opt/finetune/lib", "/opt/venv", "/usr", "/models", "/database", "/home/x")
    ),
    *(
        ("EnvironmentNotAllowed", "env", env(name), name)
        for name in (
            *("TRITON_PTXAS_PATH", "TRITON_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR"),
            *("TORCH_EXTENSIONS_DIR", "FI_PROVIDER_PATH", "UCX_MODULE_DIR", "CUDA_HOME"),
            *("NUMBA_CACHE_DIR", "NVIDIA_VISIBLE_DEVICES", "NCCL_TOPO_FILE", "NCCL_DEBUG_FILE"),
            *("VLLM_PLUGINS", "TORCH_NCCL_DEBUG_INFO_PIPE_FILE", "MY_OWN", "app_x"),
        )
    ),
    *(
        ("LabelNotAllowed", "labels", {"labels": {key: "x"}}, key)
        for key in (
            *("aadpodidbinding", "azure.workload.identity/use", "sidecar.istio.io/inject"),
            *("admission.datadoghq.com/enabled", "linkerd.io/inject", "jobset.sigs.k8s.io/x"),
            *("app.kubernetes.io/managed-by", "Team", "teams", "example.org/team", "x/app"),
        )
    ),
    *(
        ("AnnotationNotAllowed", "annotations", {"annotations": {key: value}}, key)
        for key, value in (
            (APPARMOR, "unconfined"),
            ("seccomp.security.alpha.kubernetes.io/pod", "unconfined"),
            ("iam.amazonaws.com/role", "admin"),
            ("sidecar.istio.io/userVolume", "[]"),
            ("sidecar.istio.io/inject", "true"),
            ("note", "x"),
        )
    ),
    *(
        ("TolerationNotAllowed", "tolerations", {"tolerations": [each]}, each.get("key", "every"))
        for each in (
            {"operator": "Exists"},
            {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
            {"key": "nvidia.com/gpux", "operator": "Exists"},
        )
    ),
    ("PriorityClassNotAllowed", "priorityClassName",
     {"priorityClassName": "system-cluster-critical"}, "system-cluster-critical"),
    ("RuntimeClassNotAllowed", "runtimeClassName", {"runtimeClassName": "kata"}, "kata"),
    ("SchedulerNotAllowed", "schedulerName", {"schedulerName": "mine"}, "mine"),
    ("ExtraResourceNotAllowed", "extraResources", ask("rdma/hca"), "rdma/hca"),
    ("ExtraResourceNotAllowed", "extraResources", ask("hugepages-2Mi", "2Gi"), "hugepages-2Mi"),
    ("ResourceClaimNotAllowed", "resourceClaims", claim("imex"), "imex"),
    ("CapabilityNotAllowed", "capabilities", {"capabilities": ["IPC_LOCK"]}, "IPC_LOCK"),
]  # fmt: skip


@pytest.mark.parametrize(("reason", "field", "template", "value"), CLOSED)
def test_what_no_list_names_is_refused_with_value_field_and_setting(reason, field, template, value):
    (violation,) = found(template)
    assert (violation.reason, violation.field) == (reason, f"spec.podTemplate.{field}")
    assert value in violation.message
    if not value.startswith((APPARMOR, "seccomp.security.alpha.kubernetes.io/", "/opt", "/usr")):
        assert SETTINGS[violation.reason] in violation.message


OPEN = [
    *({**mount(path)} for path in ("/data", "/data/models", "/mnt")),
    *(env(name) for name in ("NCCL_DEBUG", "NCCL_IB_HCA", "APP_STAGE", "AWS_REGION", "TZ")),
    {"labels": {"project": "tuning", "app.kubernetes.io/part-of": "search", "team": "a"}},
    {"labels": {"project": "x", "owner": "ann", "environment": "dev", "cost-centre": "4711"}},
    {"annotations": {"kueue.x-k8s.io/podset-required-topology": "rack"}},
    {"annotations": {"sidecar.istio.io/inject": "false"}},
    tolerate(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule"),
    tolerate(key="nvidia.com/gpu", value="present"),
    {"schedulerName": "default-scheduler"},
]


@pytest.mark.parametrize("template", OPEN)
def test_what_people_tune_is_open_by_default(template):
    assert found(template) == []


GUIDE = Path(__file__).parents[5] / "docs" / "how-to" / "troubleshooting.md"


@pytest.mark.parametrize("field", ["labels", "annotations"])
def test_what_the_guide_says_of_sidecars_is_open_by_default(field):
    text = GUIDE.read_text().partition("## A stage has ended and its pod has not")[2]
    told = re.findall(r"`([a-z.]+/[A-Za-z-]+): \"?(\w+)\"?`", text.partition("\n## ")[0])
    assert len(told) >= 6
    if field == "labels":
        told = [each for each in told if each[0] == "sidecar.istio.io/inject"]
    for key, value in told:
        assert found({field: {key: value}}) == []
        (refused,) = found({field: {key: "other"}})
        assert refused.field == f"spec.podTemplate.{field}"


@pytest.mark.parametrize("key", [APPARMOR, "seccomp.security.alpha.kubernetes.io/pod"])
def test_no_list_opens_what_confines_a_container(key):
    template = {"annotations": {key: "unconfined"}}
    (violation,) = found(template, allowed_annotations=["*", key])
    assert violation.reason == "AnnotationNotAllowed"


@pytest.mark.parametrize(
    ("template", "settings"),
    [
        (mount("/models/base"), {"allowed_mount_roots": ["/models"]}),
        (env("MY_OWN"), {"allowed_environment": ["MY_*"]}),
        ({"labels": {"example.org/a": "x"}}, {"allowed_labels": ["example.org/*"]}),
        ({"labels": {"tier": "batch-1"}}, {"allowed_labels": ["tier=batch-*"]}),
        ({"labels": {"sidecar.istio.io/inject": "true"}}, {"allowed_labels": ["*"]}),
        ({"annotations": {"note": "x"}}, {"allowed_annotations": ["note"]}),
        (tolerate(operator="Exists"), {"allowed_tolerations": ["*"]}),
        (tolerate(operator="Exists"), {"default_tolerations": [{"operator": "Exists"}]}),
        (tolerate(key="a", operator="Exists"), {"allowed_tolerations": ["a"]}),
        (tolerate(key="a", value="b"), {"allowed_tolerations": ["a=b"]}),
        (tolerate(key="a", effect="NoSchedule"), {"allowed_tolerations": ["a:NoSchedule"]}),
        (tolerate(key="a", effect="NoSchedule"), {"allowed_tolerations": ["*:NoSchedule"]}),
        ({"priorityClassName": "high"}, {"allowed_priority_classes": ["high"]}),
        ({"runtimeClassName": "nvidia"}, {"allowed_runtime_classes": ["nvidia"]}),
        ({"schedulerName": "volcano"}, {"allowed_schedulers": ["volc*"]}),
        (ask("rdma/hca_a"), {"allowed_extra_resources": ["rdma/*"]}),
        (ask("hugepages-2Mi", "2Gi"), {"allowed_extra_resources": ["hugepages-*"]}),
        (claim("imex-channel"), {"allowed_resource_claim_templates": ["imex-*"]}),
        ({"capabilities": ["IPC_LOCK"]}, {"allowed_capabilities": ["IPC_LOCK"]}),
    ],
)
def test_an_administrator_opens_what_a_team_needs(template, settings):
    assert found(template, **settings) == []


NETWORK = {"interface": "eth0", "rdmaDevices": ["mlx5_0"], "debug": "Info"}


@pytest.mark.parametrize(
    ("settings", "refused", "word"),
    [
        ({}, (), ""),
        ({"allowed_environment": ["*"]}, (), ""),
        ({"allowed_environment": ["NCCL_DEBUG"]}, ("interface", "rdmaDevices"), "to allowedEnv"),
        ({"allowed_environment": ["NCCL_SOCKET_*", "NCCL_IB_*"]}, ("debug",), "'NCCL_DEBUG'"),
        ({"allowed_environment": []}, ("interface", "rdmaDevices", "debug"), "(none)"),
        ({"trainer_environment": {"NCCL_IB_HCA": "=mlx5_7"}}, ("rdmaDevices",), "'=mlx5_7'"),
    ],
)
def test_a_field_of_the_network_is_held_to_the_list_of_its_variable(settings, refused, word):
    spec = FineTuneJob.from_wire(job(resources={"gpusPerNode": 1, "network": NETWORK})).spec
    violations = find_violations(spec, OperatorConfig(**settings))
    assert [each.field for each in violations] == [f"spec.resources.network.{f}" for f in refused]
    assert {each.reason for each in violations} <= {"EnvironmentNotAllowed"}
    assert all(word in each.message for each in violations)


def test_fields_that_set_nothing_are_held_to_no_list():
    network = {"rdmaDevices": [], "debug": "Off"}
    spec = FineTuneJob.from_wire(job(resources={"gpusPerNode": 0, "network": network})).spec
    assert find_violations(spec, OperatorConfig(allowed_environment=[])) == []


def test_no_list_opens_gpus_past_their_count():
    (violation,) = found(ask("nvidia.com/gpu", "8"), allowed_extra_resources=["*"])
    assert (violation.reason, violation.field) == (
        "InvalidSpec",
        "spec.podTemplate.extraResources",
    )
    assert "resources.gpusPerNode" in violation.message


@pytest.mark.parametrize("stage", list(Stage))
def test_devices_beside_gpus_are_for_training_pods_only(stage):
    template = {
        "extraResources": [
            {"name": "rdma/hca", "quantity": "1"},
            {"name": "hugepages-2Mi", "quantity": "2Gi"},
        ],
        "capabilities": ["IPC_LOCK"],
        **claim("imex-channel"),
    }
    spec = FineTuneJob.from_wire(job(podTemplate=template, resources={"gpusPerNode": 1})).spec
    owner = Owner(namespace="n", name="j", uid="u")
    pod = render_pod_template(spec, stage, owner, OperatorConfig())["spec"]
    (container,) = pod["containers"]
    resources = container["resources"]
    is_training = stage is Stage.TRAIN
    for part in (resources["requests"], resources["limits"]):
        assert ("nvidia.com/gpu" in part) is (stage in (Stage.TRAIN, Stage.EVALUATE))
        asked = (part.get("rdma/hca"), part.get("hugepages-2Mi"))
        assert asked == (("1", "2Gi") if is_training else (None, None))
    added = {"add": ["IPC_LOCK"]} if is_training else {}
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"], **added}
    assert resources.get("claims") == ([{"name": "channel"}] if is_training else None)
    claims = [{"name": "channel", "resourceClaimTemplateName": "imex-channel"}]
    assert pod.get("resourceClaims") == (claims if is_training else None)


@pytest.mark.parametrize(
    ("toleration", "allowed"),
    [
        ({"key": "a", "operator": "Exists"}, "a=b"),
        ({"key": "a", "value": "c"}, "a=b"),
        ({"key": "a", "operator": "Exists"}, "a:NoSchedule"),
        ({"key": "a", "operator": "Exists", "effect": "NoExecute"}, "a:NoSchedule"),
        ({"operator": "Exists", "effect": "NoSchedule"}, "*:NoSchedule"),
        ({"operator": "Exists"}, "a*"),
    ],
)
def test_a_toleration_is_not_wider_than_its_pattern(toleration, allowed):
    (violation,) = found(tolerate(**toleration), allowed_tolerations=[allowed])
    assert violation.reason == "TolerationNotAllowed"


@pytest.mark.parametrize(
    "root",
    [
        "/",
        "/etc",
        "/etc/finetune",
        "//opt",
        "/usr/local",
        "/work/x",
        "/cache",
        "/var",
        "/a/../etc",
        "data",
    ],
)
def test_a_folder_that_cannot_be_opened_is_refused_in_the_configuration(root, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(f"policies: [{{namespaces: [a], allowedMountRoots: ['{root}']}}]")
    with pytest.raises(ConfigError, match=rf"allowedMountRoots.*{re.escape(root)}"):
        OperatorConfig.load(path, environment={})


@pytest.mark.parametrize(
    "text",
    [
        "allowedImages: ['registry.corp/[ab]']",
        "allowedTolerations: ['']",
        "allowedJudgeEndpoints: [judge.corp]",
        "allowedJudgeEndpoints: ['https://a@judge.corp/*']",
        "allowedFilePaths: [/data/../etc]",
        "defaultNetworkInterface: eth0;id",
    ],
)
def test_a_pattern_that_cannot_be_meant_is_refused(text, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=text.split(":")[0]):
        OperatorConfig.load(path, environment={})


@pytest.mark.parametrize("stage", list(Stage))
def test_all_that_the_operator_mounts_is_out_of_reach(stage):
    spec = FineTuneJob.from_wire(
        job(
            evaluation={"engine": "VLLM", "redTeam": {"probes": ["dan"]}},
            model={"uri": "pvc://models/base", "credentialsRef": {"name": "key"}},
        )
    ).spec
    config = OperatorConfig(
        vllm_image="v", garak_image="g", progress_url="http://p", progress_ca_config_map="ca"
    )
    owner = Owner(namespace="n", name="j", uid="u")
    pod = render_pod_template(spec, stage, owner, config)["spec"]
    mounted = [m["mountPath"] for c in pod["containers"] for m in c["volumeMounts"]]
    assert [
        p for p in mounted if not f"{p}/".startswith(tuple(f"{r}/" for r in RESERVED_MOUNTS))
    ] == []


def test_the_chart_and_the_operator_have_the_same_lists():
    own = OperatorConfig().model_dump(by_alias=True)
    lists = {name: value for name, value in CHART["config"].items() if name.startswith("allow")}
    assert lists == {name: own[name] for name in lists}
    assert set(SETTINGS.values()) <= set(lists)


def documents():
    for path in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for n, block in enumerate(
            re.findall(r"^```ya?ml\n(.*?)^```", path.read_text(), re.M | re.S)
        ):
            yield from ((f"{path.name}-{n}", each) for each in yaml.safe_load_all(block))
    for path in sorted((ROOT / "examples").rglob("*.yaml")):
        yield from ((path.parent.name, each) for each in yaml.safe_load_all(path.read_text()))


def templates():
    for name, each in documents():
        if isinstance(each, dict) and isinstance(spec := each.get("spec"), dict):
            template = spec.get("podTemplate") or (spec.get("template") or {}).get("podTemplate")
            if template and each.get("kind", "FineTuneJob").startswith("FineTune"):
                yield pytest.param(template, id=name)
        elif isinstance(each, dict) and isinstance(each.get("podTemplate"), dict):
            yield pytest.param(each["podTemplate"], id=name)


@pytest.mark.parametrize("template", list(templates()))
def test_every_pod_template_of_examples_and_guides_is_allowed_by_default(template):
    assert found(template, **CHART["config"]) == []


@pytest.mark.parametrize("key", ["job-name", "controller-uid", "batch.kubernetes.io/job-name"])
def test_no_list_opens_the_labels_by_which_controllers_find_pods(key):
    for allowed in (["*"], [key], []):
        (violation,) = found({"labels": {key: "x"}}, allowed_labels=allowed)
        assert (violation.reason, violation.field) == ("ReservedName", "spec.podTemplate.labels")
        assert repr(key) in violation.message


@pytest.mark.parametrize(
    ("labels", "allowed"),
    [
        ({"tier": "web"}, "tier=batch-*"),
        ({"tier": ""}, "tier=a*"),
        ({"example.org/a": "x"}, "*.org"),
        ({"example.org/a": "x"}, "example.org"),
    ],
)
def test_a_label_is_not_wider_than_its_pattern(labels, allowed):
    (violation,) = found({"labels": labels}, allowed_labels=[allowed])
    assert violation.reason == "LabelNotAllowed"
