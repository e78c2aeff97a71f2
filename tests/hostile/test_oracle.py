"""The oracle finds what breaks out: what reviewers found, and every kind of attack."""

from __future__ import annotations

import pytest

from finetune_operator.tenants import TenantSettings
from hostile import trial
from hostile.corpus import (
    HARMLESS_VARIABLES,
    LOADS_CODE,
    OPERATORS_OWN,
    REDIRECTS,
    TAKES_DEVICES,
    WRITES_FILES,
    is_dangerous,
)
from hostile.generator import BASES, KINDS
from hostile.places import OPENED, SHIPPED, matches

CODE = {"volumes": [{"name": "mine", "configMap": {"name": "mine"}}]}


def mounted(path):
    return {"podTemplate": {**CODE, "volumeMounts": [{"name": "mine", "mountPath": path}]}}


def annotated(key):
    return {"podTemplate": {"annotations": {key: "x"}}}


def labelled(key):
    return {"podTemplate": {"labels": {key: "x"}}}


def judged(url):
    return {"evaluation": {"judge": {"endpoint": url, "model": "m"}}}


def asking(name, quantity):
    return {"podTemplate": {"extraResources": [{"name": name, "quantity": quantity}]}}


REVIEWED = [
    ("N1: job.json by two slashes", SHIPPED, mounted("//etc/finetune/job"), "mounts"),
    ("N2: code of the image", SHIPPED, mounted("/opt/finetune/lib"), "mounts"),
    ("N2: a path inside of the work folder", SHIPPED, mounted("/work/checkpoints"), "mounts"),
    (
        "N2: a variable that loads code",
        SHIPPED,
        {"podTemplate": {"env": [{"name": "TRITON_PTXAS_PATH", "value": "/data/x"}]}},
        "env",
    ),
    ("N11: another host", OPENED, judged("https://evil.example/.judges.corp.example/x"), "judge"),
    ("N12: AppArmor", SHIPPED, annotated(
        "container.apparmor.security.beta.kubernetes.io/trainer"), "annotations"),
    ("N12: another role", SHIPPED, annotated("iam.amazonaws.com/role"), "annotations"),
    ("a container of its own choice without an identity", SHIPPED, annotated(
        "eks.amazonaws.com/skip-containers"), "annotations"),
    (
        "a metric of its own",
        OPENED,
        {"evaluation": {"customMetric": {"path": "/data/score.py"}}},
        "job.json",
    ),
    ("an identity by a label", SHIPPED, labelled("azure.workload.identity/use"), "labels"),
    ("a label that another cluster allows", SHIPPED, labelled("example.org/a"), "labels"),
    ("a value that is not allowed", OPENED, labelled("tier"), "labels"),
    (
        "N12: any taint",
        SHIPPED,
        {"podTemplate": {"tolerations": [{"operator": "Exists"}]}},
        "tolerations",
    ),
    ("a capability", SHIPPED, {"podTemplate": {"capabilities": ["IPC_LOCK"]}},
     "security context of trainer"),
    ("huge pages of everybody", SHIPPED, asking("hugepages-2Mi", "64Gi"), "resources"),
    ("all devices of a node", OPENED, asking("vpc.amazonaws.com/efa", "32"), "resources"),
    ("somebody's template of claims", OPENED,
     {"podTemplate": {"resourceClaims": [{"name": "x", "resourceClaimTemplateName": "gpus"}]}},
     "resourceClaims"),
    ("N14: memory as GPU", SHIPPED, {"resources": {"gpuResource": "memory"}}, "resources"),
    (
        "N12: a priority class of the system",
        SHIPPED,
        {"podTemplate": {"priorityClassName": "system-cluster-critical"}},
        "priorityClassName",
    ),
]  # fmt: skip


def written(change):
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "reviewed"},
        "spec": {**BASES[0], **change},
    }


@pytest.mark.parametrize(
    ("place", "change", "where"), [case[1:] for case in REVIEWED], ids=[c[0] for c in REVIEWED]
)
def test_what_reviewers_found_is_refused_and_would_break_out(place, change, where):
    body = written(change)
    assert trial.judge(body, place, place.config()).is_refused
    found = trial.judge(body, place, place.config(), admits=True).break_outs
    assert where in {why.partition(":")[0] for why in found}


def test_attacks_of_every_kind_break_out_where_nothing_is_refused():
    table = trial.run(30 * len(KINDS), seed=2, admits=True)
    found = {attack.kind for attack, _, _ in table.broken}
    # Templates and names harm nobody else, and other fields of a pod cannot be written at all.
    assert found >= KINDS.keys() - {"templates", "names and owners", "fields of a pod"}


def test_nothing_dangerous_is_allowed_by_default():
    patterns = TenantSettings().allowed_environment
    known = (*LOADS_CODE, *REDIRECTS, *WRITES_FILES, *TAKES_DEVICES, *OPERATORS_OWN)
    assert [name for name in known if matches(name, tuple(patterns))] == []
    assert [each for each in patterns if is_dangerous(each.replace("*", "X"))] == []


@pytest.mark.parametrize("name", HARMLESS_VARIABLES)
def test_what_people_tune_is_not_called_dangerous(name):
    assert not is_dangerous(name)
