"""The chart's admission policy on a real API server: it refuses what the operator would refuse."""

from __future__ import annotations

import json
import re
import subprocess

import pytest

from finetune_api.schema.sizes import varying_length
from finetune_api.schema.structural import schema_of
from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.rules.sizes import MAX_PART_LENGTHS
from finetune_api.v1alpha1.spec.podtemplate import PodTemplate
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.admission import find_fault
from finetune_operator.finetunejob.pods.admission import find_violations
from kit.cases.endpoint_cases import minimal_endpoint
from kit.cluster.chart import chart_objects, install_crd
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually, patient

SETTINGS = {
    "allowedImages": ["registry.corp/*", "*.corp:*/team-*/a", "plain:*"],
    "allowedServingImages": ["serving.corp/*", "*.corp:*/team-*/a"],
    "vllmImage": "vllm/vllm-openai:v0.32.0",
    "allowCustomMetrics": False,
    "allowedNodeSelectors": ["pool=shared", "zone", "nvidia.com/*=H*"],
    "allowedServiceAccounts": ["trainer-*"],
    "allowedLabels": ["team", "example.org/*", "tier=batch-*", "job-name", "batch.kubernetes.io/*"],
    "allowedAnnotations": ["*"],
    "allowedEnvironment": ["NCCL_IB_*", "APP_*", "TZ"],
    "allowedTolerations": ["nvidia.com/gpu", "a=b:NoSchedule", "team-*", "*:PreferNoSchedule"],
    "allowedPriorityClasses": ["batch-*"],
    "allowedExtraResources": ["rdma/*", "hugepages-2Mi"],
    "allowedResourceClaimTemplates": ["imex-*"],
    "defaultTolerations": [{"key": "pool", "operator": "Exists", "effect": "NoExecute"}],
    "defaultServiceAccount": "bucket-reader",
    "defaultNodeSelector": {"own": "label"},
}


def mount(path):
    return {
        "volumes": [{"name": "mine", "configMap": {"name": "mine"}}],
        "volumeMounts": [{"name": "mine", "mountPath": path}],
    }


N1 = {"podTemplate": mount("//etc/finetune/job")}
TERMS = {"nodeSelectorTerms": [{"matchExpressions": [{"key": "pool", "operator": "Exists"}]}]}
PODS = [
    *(mount(path) for path in ("/data", "/data/x", "/database", "/opt/venv", "/mnt", "/work")),
    *(
        {"env": [{"name": name}]}
        for name in ("NCCL_IB_HCA", "NCCL_DEBUG_FILE", "APP_X", "TRITON_CACHE_DIR", "TZ", "TZX")
    ),
    *(
        {"labels": {key: value}}
        for key, value in (
            ("team", "a"),
            ("team", ""),
            ("teams", "a"),
            ("example.org/a", "x"),
            ("example.com/a", "x"),
            ("tier", "batch-1"),
            ("tier", "web"),
            ("aadpodidbinding", "admin"),
            ("job-name", "another-train"),
            ("controller-uid", "x"),
            ("batch.kubernetes.io/job-name", "another-train"),
        )
    ),
    *(
        {"annotations": {key: value}}
        for key, value in (
            ("any/key", "x"),
            ("plain", "two\nlines"),
            ("container.apparmor.security.beta.kubernetes.io/trainer", "unconfined"),
            ("seccomp.security.alpha.kubernetes.io/pod", "unconfined"),
        )
    ),
    *(
        {"tolerations": [each]}
        for each in (
            {"operator": "Exists"},
            {"operator": "Exists", "effect": "PreferNoSchedule"},
            {"key": "any", "operator": "Exists", "effect": "PreferNoSchedule"},
            {"key": "nvidia.com/gpu", "operator": "Exists"},
            {"key": "nvidia.com/gpu", "value": "x", "effect": "NoSchedule"},
            {"key": "a", "value": "b", "effect": "NoSchedule"},
            {"key": "a", "value": "b"},
            {"key": "a", "operator": "Exists", "effect": "NoSchedule"},
            {"key": "team-x", "value": "y:NoSchedule"},
            {"key": "pool", "operator": "Exists", "effect": "NoExecute"},
            {"key": "other", "operator": "Exists"},
        )
    ),
    *(
        {"affinity": affinity}
        for affinity in (
            {"nodeAffinity": {}},
            {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
            {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": TERMS}},
            {
                "nodeAffinity": {
                    "preferredDuringSchedulingIgnoredDuringExecution": [
                        {"weight": 1, "preference": TERMS["nodeSelectorTerms"][0]}
                    ]
                }
            },
            {
                "podAntiAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": [
                        {"topologyKey": "kubernetes.io/hostname"}
                    ]
                }
            },
        )
    ),
    *({"priorityClassName": name} for name in ("batch-low", "system-cluster-critical")),
    *({"runtimeClassName": name} for name in ("nvidia",)),
    *({"schedulerName": name} for name in ("default-scheduler", "mine")),
    *(
        {"extraResources": [{"name": name, "quantity": quantity}]}
        for name, quantity in (
            ("rdma/hca", "1"),
            ("rdmax/hca", "1"),
            ("hugepages-2Mi", "2Gi"),
            ("hugepages-1Gi", "2Gi"),
        )
    ),
    *(
        {"resourceClaims": [{"name": "a", "resourceClaimTemplateName": name}]}
        for name in ("imex-channel", "gpus")
    ),
    {"capabilities": ["IPC_LOCK"]},
    *({"serviceAccountName": name} for name in ("trainer-a", "bucket-reader", "root")),
    *(
        {"nodeSelector": {key: value}}
        for key, value in (
            ("pool", "shared"),
            ("pool", "other"),
            ("zone", "a"),
            ("nvidia.com/gpu.product", "H100"),
            ("nvidia.com/gpu.product", "A100"),
            ("own", "label"),
        )
    ),
]
OF_OTHERS = "others/trainer:1"
"""The trainer image of other namespaces."""
IMAGES = [
    *("registry.corp/a:1", "registry.corp/a/b@sha256:ab", "registry.corp.evil.io/a:1"),
    *("evil.io/registry.corp/a:1", "x.corp:5000/team-a/a", "x.corp:5000/team-a/b/a", "plain:1"),
    *("plain/x:1", "registry.corp:5000/a", OF_OTHERS),
]
OWN_METRIC = {"evaluation": {"customMetric": {"path": "/data/score.py"}}}
NETWORKS = [
    {"interface": "eth0"},
    {"rdmaDevices": ["mlx5_0"]},
    *({"debug": word} for word in ("Off", "Info")),
    {"rdmaDevices": []},
]
SPECS = [
    OWN_METRIC,
    *({"resources": {"gpusPerNode": 1, "network": network}} for network in NETWORKS),
    {"evaluation": {"metrics": ["exactMatch"]}},
    *({"podTemplate": pod} for pod in PODS),
    *({"trainer": {"image": i}} for i in IMAGES),
]
SERVING = [
    {},
    *({"image": image} for image in (*IMAGES, "serving.corp/vllm:1", "serving.corp.evil.io/a")),
    *({"image": image} for image in (SETTINGS["vllmImage"], "finetune-trainer:0.1.0")),
    *({key: pod[key]} for pod in PODS for key in ("tolerations", "nodeSelector") if key in pod),
    *(
        {"resources": {"gpuResource": name}}
        for name in ("amd.com/gpu", "example.kubernetes.io/gpu")
    ),
]


def endpoint(name: str, namespace: str, serve: dict) -> dict:
    body = minimal_endpoint(name)
    body["metadata"]["namespace"] = namespace
    body["spec"]["serve"] = serve
    return body


def sweep(name: str, namespace: str, spec: dict) -> dict:
    job = finetunejob(name, namespace, **spec)
    parameters = [{"path": "hyperparameters.learningRate", "values": ["1e-4", "2e-4"]}]
    return {
        **job,
        "kind": "FineTuneSweep",
        "spec": {"parameters": parameters, "template": job["spec"]},
    }


def schedule(name: str, namespace: str, spec: dict, **own) -> dict:
    job = finetunejob(name, namespace, **spec)
    triggers = {"cron": "0 3 1 */3 *"}
    template = {"spec": job["spec"]}
    return {
        **job,
        "kind": "FineTuneSchedule",
        "spec": {"jobTemplate": template, "triggers": triggers, **own},
    }


class Server:
    """The API server with the chart's policy for one namespace."""

    def __init__(self, cluster, namespace: str) -> None:
        from kit.cluster.devcluster import program

        self.namespace = namespace
        self._kubectl = [str(program("kubectl")), "--kubeconfig", str(cluster.kubeconfig)]

    def try_out(
        self, bodies: list[dict], verb: str = "create", dry_run: str = "server"
    ) -> dict[str, str]:
        """Return what is said of each object that is refused, by its name."""
        done = subprocess.run(
            [*self._kubectl, verb, f"--dry-run={dry_run}", "-f", "-"],
            input="\n---\n".join(json.dumps(body) for body in bodies),
            capture_output=True,
            text=True,
            check=False,
            timeout=patient(120),
        )
        found = {}
        for line in re.split(r"\n(?=Error from server|The FineTune)", done.stderr.strip()):
            named = re.search(r'finetune\w+(?:\.finetune\.dev)? "([\w-]+)"', line, re.IGNORECASE)
            if named:
                found[named[1]] = line
        assert bool(found) == bool(done.returncode), done.stderr
        return found


OLD = {"podTemplate": PODS[3], **OWN_METRIC}
"""What was allowed before the policy came."""


@pytest.fixture
def older(control_plane, namespace):
    """A schedule from before the policy."""
    install_crd(control_plane)
    made = schedule("old", namespace, OLD)
    assert Server(control_plane, namespace).try_out([made], dry_run="none") == {}
    return made


def is_of_tenants(obj: dict) -> bool:
    return obj["metadata"]["name"].endswith("-tenants")


@pytest.fixture
def server(control_plane, namespace):
    install_crd(control_plane)
    policy = {"namespaces": [f"{namespace[:-1]}*"], **SETTINGS}
    before = {"namespaces": [namespace], "allowedImages": ["*"]}
    values = {
        "watch": {"namespaces": [namespace]},
        "config": {"policies": [before, policy, {"namespaces": ["x"], "trainerImage": OF_OTHERS}]},
    }
    with chart_objects(control_plane, namespace, is_of_tenants, values):
        made = Server(control_plane, namespace)
        probe = finetunejob("probe", namespace, podTemplate={"schedulerName": "no"})
        eventually(
            lambda: "allowedSchedulers" in made.try_out([probe]).get("probe", ""), timeout=30
        )
        yield made


def test_the_api_server_and_the_operator_refuse_the_same(server):
    config = OperatorConfig.model_validate({**SETTINGS, "trainerImage": "finetune-trainer:0.1.0"})
    jobs = [finetunejob(f"job-{n}", server.namespace, **spec) for n, spec in enumerate(SPECS)]
    refused = server.try_out(jobs)
    expected = {}
    for body in jobs:
        found = find_violations(FineTuneJob.from_stored(body).spec, config)
        if found:
            expected[body["metadata"]["name"]] = found[0]
    assert {name: SPECS[int(name[4:])] for name in refused.keys() ^ expected.keys()} == {}
    for name, violation in expected.items():
        assert violation.field.removeprefix("spec.") in refused[name]


def test_the_api_server_and_the_operator_refuse_the_same_of_endpoints(server):
    config = OperatorConfig.model_validate({**SETTINGS, "trainerImage": "finetune-trainer:0.1.0"})
    bodies = [endpoint(f"fte-{n}", server.namespace, serve) for n, serve in enumerate(SERVING)]
    refused = server.try_out(bodies)
    expected = {}
    for body in bodies:
        fault = find_fault(FineTuneEndpoint.from_stored(body).spec, config)
        if fault is not None:
            expected[body["metadata"]["name"]] = fault.message
    assert {name: SERVING[int(name[4:])] for name in refused.keys() ^ expected.keys()} == {}
    for name, message in expected.items():
        assert message.partition(": ")[0] in refused[name]


def test_an_edit_of_what_serves_an_endpoint_is_judged_and_a_rollback_is_not(server):
    names = {"evil": {"image": "evil.io/vllm:1"}, "other": {"nodeSelector": {"pool": "other"}}}
    bodies = [endpoint(name, server.namespace, {}) for name in (*names, "fine")]
    assert server.try_out(bodies, dry_run="none") == {}
    edited = [endpoint(name, server.namespace, serve) for name, serve in names.items()]
    fine = endpoint("fine", server.namespace, {"nodeSelector": {"pool": "shared"}})
    refused = server.try_out([*edited, fine], verb="apply")
    assert sorted(refused) == ["evil", "other"]
    assert "spec.serve.image: 'evil.io/vllm:1'" in refused["evil"]
    assert "spec.serve.nodeSelector: 'pool=other'" in refused["other"]


def test_the_same_holds_for_the_jobs_of_a_sweep(server):
    specs = [{"podTemplate": PODS[3]}, {"podTemplate": PODS[0]}, {"trainer": {"image": IMAGES[2]}}]
    specs += [OWN_METRIC]
    bodies = [sweep(f"sweep-{n}", server.namespace, spec) for n, spec in enumerate(specs)]
    refused = server.try_out(bodies)
    assert sorted(refused) == ["sweep-0", "sweep-2", "sweep-3"]
    assert "spec.template.podTemplate.volumeMounts: '/opt/venv'" in refused["sweep-0"]
    assert "spec.template.trainer.image" in refused["sweep-2"]
    assert "spec.template.evaluation.customMetric" in refused["sweep-3"]


def test_the_same_holds_for_the_jobs_of_a_schedule(server):
    specs = [{"podTemplate": PODS[3]}, {"podTemplate": PODS[0]}, {"trainer": {"image": IMAGES[2]}}]
    specs += [OWN_METRIC]
    bodies = [schedule(f"fts-{n}", server.namespace, spec) for n, spec in enumerate(specs)]
    refused = server.try_out(bodies)
    assert sorted(refused) == ["fts-0", "fts-2", "fts-3"]
    assert "spec.jobTemplate.spec.podTemplate.volumeMounts: '/opt/venv'" in refused["fts-0"]
    assert "spec.jobTemplate.spec.trainer.image" in refused["fts-2"]
    assert "spec.jobTemplate.spec.evaluation.customMetric" in refused["fts-3"]


def test_an_edit_of_what_a_schedule_trains_is_judged_and_a_suspension_is_not(older, server):
    again = {**older, "metadata": {**older["metadata"], "name": "again"}}
    assert sorted(server.try_out([again])) == ["again"]

    def applied(spec, **own):
        return server.try_out([schedule("old", server.namespace, spec, **own)], verb="apply")

    assert applied(OLD, suspend=True) == {}
    said = applied({**OLD, "trainer": {"image": IMAGES[2]}})["old"]
    assert "spec.jobTemplate.spec" in said


def test_a_mount_over_the_job_file_is_refused_at_apply_by_its_field(server):
    bodies = [finetunejob("one", server.namespace, **N1), sweep("many", server.namespace, N1)]
    refused = server.try_out(bodies)
    assert "spec.podTemplate.volumeMounts[0].mountPath" in refused["one"]
    assert "spec.template.podTemplate.volumeMounts[0].mountPath" in refused["many"]
    assert all('"//etc/finetune/job"' in said for said in refused.values())


def test_an_object_at_every_limit_stays_within_the_budget_of_the_policy(server):
    # As many entries as there may be, together nearly as long as a podTemplate may be.
    template = {
        "labels": {f"example.org/{'k' * 24}{n}": "v" * 24 for n in range(32)},
        "annotations": {f"a.example/{'k' * 24}{n}": "v" * 34 for n in range(32)},
        "nodeSelector": {f"z.example/{'k' * 24}{n}": "v" * 24 for n in range(32)},
        "tolerations": [{"key": f"team-{'k' * 24}{n}", "value": "v" * 24} for n in range(16)],
        "env": [{"name": f"APP_{'X' * 24}_{n}", "value": "v" * 24} for n in range(64)],
    }
    length = varying_length(schema_of(PodTemplate), template)
    assert 0.8 * MAX_PART_LENGTHS["podTemplate"] < length <= MAX_PART_LENGTHS["podTemplate"]
    body = finetunejob("big", server.namespace, podTemplate=template)
    said = server.try_out([body])["big"]
    assert "allowedNodeSelectors" in said
    assert "cost" not in said
