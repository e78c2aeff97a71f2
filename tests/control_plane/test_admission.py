"""Admission in the way of a child: policies and webhooks of the real API server."""

from __future__ import annotations

import json

import pytest

from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from kit.cluster.chart import install_crd
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    child_jobs,
    condition,
    connection_of,
    get_job,
    open_client,
    running_manager,
    test_config,
)

GROUP = "admissionregistration.k8s.io/v1"
JOBS = {"apiGroups": ["batch"], "apiVersions": ["v1"], "operations": ["CREATE"]}


def denying_policy(namespace):
    here = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    rules = {"resourceRules": [{**JOBS, "resources": ["jobs"]}], "namespaceSelector": here}
    policy = {
        "apiVersion": GROUP,
        "kind": "ValidatingAdmissionPolicy",
        "metadata": {"name": namespace},
        "spec": {
            "matchConstraints": rules,
            "validations": [{"expression": "false", "message": "no Jobs on Wednesdays"}],
        },
    }
    binding = {
        "apiVersion": GROUP,
        "kind": "ValidatingAdmissionPolicyBinding",
        "metadata": {"name": namespace},
        "spec": {"policyName": namespace, "validationActions": ["Deny"]},
    }
    return [policy, binding]


def webhook_that_is_down(namespace):
    webhook = {
        "name": "jobs.example.com",
        "clientConfig": {"url": "https://127.0.0.1:9/mutate"},
        "rules": [{**JOBS, "resources": ["jobs"]}],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
        "timeoutSeconds": 1,
    }
    metadata = {"name": namespace}
    kind = "MutatingWebhookConfiguration"
    return [{"apiVersion": GROUP, "kind": kind, "metadata": metadata, "webhooks": [webhook]}]


def stray_job(namespace):
    container = {"name": "x", "image": "x"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": "probe", "namespace": namespace}
    spec = {"template": template}
    return {"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}


@pytest.mark.parametrize(
    ("build", "reason", "words"),
    [
        (denying_policy, "AdmissionDenied", "no Jobs on Wednesdays"),
        (webhook_that_is_down, "WebhookUnavailable", "jobs.example.com"),
    ],
    ids=["policy", "webhook"],
)
async def test_what_admission_says_is_told_and_the_job_goes_on_once_it_relents(
    control_plane, namespace, build, reason, words
):
    install_crd(control_plane)
    obstacle = json.dumps({"apiVersion": "v1", "kind": "List", "items": build(namespace)})
    control_plane.kubectl("apply", "-f", "-", stdin=obstacle)
    try:
        probe = json.dumps(stray_job(namespace))

        def in_force():
            # Policies and webhooks take a moment to reach the admission chain.
            try:
                control_plane.kubectl("create", "--dry-run=server", "-f", "-", stdin=probe)
            except Exception as error:
                return words in str(error)
            return False

        async with open_client(connection_of(control_plane)) as client:
            await eventually_async(in_force, timeout=30, interval=0.2)
            async with running_manager(client, test_config(namespace)):
                await client.create(FINETUNEJOBS, finetunejob("one", namespace))

                async def told():
                    found = condition(await get_job(client, namespace, "one"), "DatasetReady")
                    return found if found and found["reason"] == reason else None

                found = await eventually_async(told)
                assert found["status"] == "False"
                assert words in found["message"]
                control_plane.kubectl("delete", "-f", "-", stdin=obstacle)

                async def goes_on():
                    return len(await child_jobs(client, namespace)) == 1

                await eventually_async(goes_on, timeout=60, interval=0.2)
    finally:
        control_plane.kubectl("delete", "--ignore-not-found", "-f", "-", stdin=obstacle)
