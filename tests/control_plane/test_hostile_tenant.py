"""A hostile tenant on a real API server, with the rights that the chart and `edit` give.

What is generated is sent as such a tenant sends it. What schema and admission policies let pass is
refused in status, or does no harm once rendered.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import subprocess
from collections import Counter
from dataclasses import replace

import pytest

from control_plane.test_approvals import User, approval, bind
from control_plane.test_lifecycle import phase_is
from finetune_api.protocol.trainer import JOB_DIGEST_ARGUMENT
from finetune_operator.kube.api.resource import CONFIG_MAPS
from hostile import trial
from hostile.generator import attacks
from hostile.places import SHIPPED
from hostile.test_oracle import mounted, written
from kit.cluster.chart import chart_objects, install_crd, is_of_people
from kit.cluster.kubelet import Fate, Kubelet
from kit.cluster.simulation import finetunejob
from kit.processes.eventually import eventually, eventually_async, patient
from kit.processes.operators import (
    child_jobs,
    condition,
    connection_of,
    get_job,
    open_client,
    running_manager,
    test_config,
)

MALLORY = "mallory@example.org"
NUM_ATTACKS = 300


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture
def mallory(control_plane, namespace):
    """A user with `edit` in one namespace, on a cluster with the chart's roles and policies."""
    values = {"watch": {"namespaces": [namespace]}}
    with chart_objects(control_plane, namespace, is_of_people, values):
        bind(control_plane, namespace, MALLORY, "edit")
        tenant = User(control_plane, namespace, MALLORY)

        def is_in_force() -> bool:
            done, said = dry_run(tenant, written(mounted("/etc/finetune")))
            return not done and "allowedMountRoots" in said

        eventually(is_in_force, timeout=30, interval=0.3)
        yield tenant


def dry_run(tenant: User, body: dict) -> tuple[bool, str]:
    return tenant.kubectl("create", "--dry-run=server", "-f", "-", body=body)


def store_all(tenant: User, namespace: str, bodies: list[dict]) -> list[dict]:
    """Return what the API server would store of some objects, without kubectl's own checks."""
    from kit.cluster.devcluster import program

    listed = {"apiVersion": "v1", "kind": "List", "items": bodies}
    command = [str(program("kubectl")), "--kubeconfig", str(tenant.kubeconfig), "-n", namespace]
    command += ["create", "--dry-run=server", "--validate=false", "-o", "json", "-f", "-"]
    text = json.dumps(listed)
    done = subprocess.run(
        command, input=text, capture_output=True, text=True, check=False, timeout=patient(240)
    )
    decoder, stored, said = json.JSONDecoder(), [], done.stdout.strip()
    while said:
        found, end = decoder.raw_decode(said)
        stored += found["items"] if found["kind"] == "List" else [found]
        said = said[end:].strip()
    assert len(stored) + done.stderr.count("Error from server") == len(bodies), done.stderr[-2000:]
    return stored


def test_the_reviewed_mount_over_the_job_file_is_refused_at_apply_with_field_and_value(mallory):
    for path in ("//etc/finetune/job", "/etc/finetune/job", "/etc//finetune/./job", "/opt/venv"):
        done, said = dry_run(mallory, written(mounted(path)))
        assert not done, path
        assert "podTemplate.volumeMounts" in said, said
        assert path in said
    done, said = dry_run(mallory, written(mounted("/data")))
    assert done, said


async def test_what_the_api_server_stores_of_attacks_is_refused_in_status_or_does_no_harm(
    control_plane, namespace, mallory
):
    sent = {}
    for number, attack in enumerate(itertools.islice(attacks(seed=4), NUM_ATTACKS)):
        # A name is judged by itself.
        if attack.kind != "names and owners":
            name = f"attack-{number}"
            sent[name] = replace(attack, body={**attack.body, "metadata": {"name": name}})
    found = store_all(mallory, namespace, [attack.body for attack in sent.values()])
    stored = {each["metadata"]["name"]: each for each in found}
    config = SHIPPED.config()
    outcomes = {name: trial.judge(body, SHIPPED, config) for name, body in stored.items()}
    kinds = Counter(attack.kind for attack in sent.values())
    kept = Counter(sent[name].kind for name in stored)
    for kind, count in kinds.items():
        print(f"{kind:22} {count:4} sent, {count - kept[kind]:4} refused at apply")
    by_status = sum(1 for each in outcomes.values() if each.is_refused)
    print(f"{len(sent)} sent, {len(sent) - len(stored)} refused at apply, {by_status} in status")
    assert {name: each.break_outs for name, each in outcomes.items() if each.break_outs} == {}
    told = sorted(name for name, each in outcomes.items() if each.is_refused)[:12]
    assert told
    async with open_client(connection_of(control_plane)) as client:
        settings = test_config(namespace, **SHIPPED.config().model_dump(exclude_unset=True))
        async with running_manager(client, settings):
            for name in told:
                done, said = mallory.kubectl(
                    *("create", "--validate=false", "-f", "-"), body=sent[name].body
                )
                assert done, said
            for name in told:
                job = await phase_is(client, namespace, name, "Failed")
                assert condition(job, "Accepted")["status"] == "False"
            assert await child_jobs(client, namespace) == []


def test_a_tenant_stays_in_its_namespace_and_writes_no_status(control_plane, namespace, mallory):
    job = finetunejob("one", namespace, suspend=True)
    assert mallory.create(job)[0]
    elsewhere = {**job, "metadata": {"name": "one", "namespace": "default"}}
    status = '{"status":{"phase":"Succeeded","artifact":{"version":1}}}'
    for arguments, body in (
        (("create", "-n", "default", "-f", "-"), elsewhere),
        (
            ("patch", "finetunejob", "one", "--subresource=status", "--type=merge", "-p", status),
            None,
        ),
        (("get", "finetunejobs", "-A"), None),
        (("create", "-f", "-"), approval("mine", by=MALLORY)),
        (("get", "secrets", "--as", "rita@example.org"), None),
        (("get", "secrets", "--as", "admin", "--as-group", "system:masters"), None),
        (("create", "rolebinding", "x", "--clusterrole=cluster-admin", "--user", MALLORY), None),
        (("get", "leases", "-n", "kube-system"), None),
        (("patch", "crd", "finetunejobs.finetune.dev", "--type=merge", "-p", "{}"), None),
        (("delete", "validatingadmissionpolicies", "--all"), None),
    ):
        done, said = mallory.kubectl(*arguments, body=body)
        assert not done, (arguments, said)
        assert "forbidden" in said.lower(), (arguments, said)
    stored = json.loads(control_plane.kubectl("-n", namespace, "get", "ftj", "one", "-o", "json"))
    assert "status" not in stored


@pytest.mark.parametrize(
    "patch",
    [
        {"podTemplate": mounted("//etc/finetune/job")["podTemplate"]},
        {"podTemplate": {"env": [{"name": "LD_PRELOAD", "value": "/data/x.so"}]}},
        {"model": {"uri": "hf://evil/model"}},
        {"output": {"uri": "s3://elsewhere"}},
        {"trainer": {"image": "evil.example/x"}},
        {"s3": {"endpoint": "https://evil.example"}},
        {"evaluation": {"judge": {"endpoint": "https://evil.example", "model": "m"}}},
    ],
    ids=lambda patch: next(iter(patch)),
)
def test_what_runs_is_not_edited_afterwards(namespace, mallory, patch):
    mallory.create(finetunejob("one", namespace, suspend=True))
    text = json.dumps({"spec": patch})
    done, said = mallory.kubectl("patch", "finetunejob", "one", "--type=merge", "-p", text)
    assert not done, said


async def test_another_config_map_in_the_job_files_place_is_not_what_stages_are_told_to_read(
    control_plane, namespace, mallory
):
    async with open_client(connection_of(control_plane)) as client:
        kubelet = Kubelet(client, namespaces=(namespace,), script=lambda *_: Fate())
        async with kubelet.running(), running_manager(client, test_config(namespace)):
            assert mallory.create(finetunejob("one", namespace))[0]

            async def has_begun():
                job = await get_job(client, namespace, "one")
                return (job.get("status") or {}).get("jobDigest") and job

            job = await eventually_async(has_begun, timeout=30, interval=0.2)
            stored = await client.get(CONFIG_MAPS, namespace, "one-job")
            digest = hashlib.sha256(stored["data"]["job.json"].encode()).hexdigest()
            assert job["status"]["jobDigest"] == digest
            # `edit` may neither change it nor the Job, but delete the one and create another
            for arguments in (
                ("patch", "cm", "one-job", "--type=merge", "-p", '{"data":{"job.json":"{}"}}'),
                ("patch", "cm", "one-job", "--type=merge", "-p", '{"immutable":false}'),
                ("patch", "job", "one-prepare", "--type=json", "-p", json.dumps([{
                    "op": "replace", "path": "/spec/template/spec/containers/0/args/4",
                    "value": "0" * 64}])),
                ("patch", "job", "one-prepare", "--type=json", "-p", json.dumps([{
                    "op": "remove", "path": "/spec/template/spec/containers/0/args/4"}])),
            ):  # fmt: skip
                done, said = mallory.kubectl(*arguments)
                assert not done, (arguments, said)
                assert "immutable" in said, said
            assert mallory.kubectl("delete", "configmap", "one-job")[0]
            forged = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {
                    "name": "one-job",
                    "ownerReferences": stored["metadata"]["ownerReferences"],
                },
                "data": {"job.json": stored["data"]["job.json"].replace("s3://", "s3://evil-")},
            }
            assert mallory.create(forged)[0]
            (child,) = await child_jobs(client, namespace)
    arguments = child["spec"]["template"]["spec"]["containers"][0]["args"]
    assert arguments[arguments.index(JOB_DIGEST_ARGUMENT) + 1] == digest
    assert hashlib.sha256(forged["data"]["job.json"].encode()).hexdigest() != digest
