"""Statuses at every limit, and beyond, on a real API server; and a server that takes none."""

from __future__ import annotations

import math
import time

import pytest

from finetune_api.protocol.termination import TerminationMessage
from finetune_api.protocol.trainer import Stage
from finetune_operator.controllers.memory.caches import FINETUNEJOBS
from finetune_operator.controllers.memory.sweeps import FINETUNESWEEPS
from finetune_operator.finetunejob.state.draft import STATUS as JOB_STATUS
from finetune_operator.finetunesweep.draft import STATUS as SWEEP_STATUS
from finetune_operator.kube.api.errors import Invalid, KubeError, NotFound
from finetune_operator.kube.api.resource import Resource
from kit.builders.sweeps import sweep as sweep_of
from kit.cluster.chart import install_crd
from kit.cluster.crd import status_at_limits
from kit.cluster.kubelet import Fate, Kubelet, success
from kit.cluster.simulation import ended_status, finetunejob, result_of
from kit.processes.eventually import eventually_async
from kit.processes.operators import (
    child_jobs,
    connection_of,
    event_reasons,
    get_job,
    holds,
    open_client,
    running_manager,
    test_config,
)

ADMISSION = {"group": "admissionregistration.k8s.io", "version": "v1", "namespaced": False}
POLICIES = Resource(
    **ADMISSION, plural="validatingadmissionpolicies", kind="ValidatingAdmissionPolicy"
)
BINDINGS = Resource(
    **ADMISSION,
    plural="validatingadmissionpolicybindings",
    kind="ValidatingAdmissionPolicyBinding",
)


LOSS = {"name": "loss", "value": "0.5"}


@pytest.fixture(scope="module", autouse=True)
def crd(control_plane):
    install_crd(control_plane)


@pytest.fixture
async def client(control_plane):
    async with open_client(connection_of(control_plane)) as client:
        yield client


async def _objects(client, namespace):
    job = await client.create(FINETUNEJOBS, finetunejob("limits", namespace, suspend=True))
    body = sweep_of(suspend=True)
    metadata = {"name": "limits", "namespace": namespace}
    sweep = await client.create(FINETUNESWEEPS, {**body, "metadata": metadata})
    return ((FINETUNEJOBS, job, JOB_STATUS), (FINETUNESWEEPS, sweep, SWEEP_STATUS))


async def test_the_api_server_takes_a_status_at_every_limit_and_what_is_made_of_more(
    client, namespace
):
    for resource, obj, schema in await _objects(client, namespace):
        metadata = {key: obj["metadata"][key] for key in ("name", "namespace")}
        full = status_at_limits(resource.plural)
        assert schema.fit(full) == (full, ())
        written = await client.apply_status(
            resource, {"metadata": metadata, "status": full}, field_manager="test"
        )
        assert written["status"] == full
        more = status_at_limits(resource.plural, beyond=1)
        with pytest.raises(Invalid):
            await client.apply_status(
                resource, {"metadata": metadata, "status": more}, field_manager="test"
            )
        fitted, cuts = schema.fit(more)
        assert cuts
        written = await client.apply_status(
            resource, {"metadata": metadata, "status": fitted}, field_manager="test"
        )
        assert written["status"] == fitted


async def test_a_section_that_becomes_empty_is_no_null(client, namespace):
    """Trackers that failed, and work again, have nothing to tell: that was refused for ever."""
    job = await client.create(FINETUNEJOBS, finetunejob("emptied", namespace, suspend=True))
    metadata = {key: job["metadata"][key] for key in ("name", "namespace")}

    async def write(status):
        body = {"metadata": metadata, "status": status}
        return (await client.apply_status(FINETUNEJOBS, body, field_manager="test"))["status"]

    full = {"phase": "Training", "tracking": {"message": "m"}, "metrics": [LOSS]}
    empty = {"phase": "Training", "tracking": {}, "metrics": []}
    assert await write(full) == full
    with pytest.raises(Invalid, match="null"):
        await write(empty)
    fitted, cuts = JOB_STATUS.fit(empty)
    assert (await write(fitted), cuts) == ({"phase": "Training"}, ())


async def test_a_job_with_the_longest_output_address_is_recorded_and_can_be_suspended(
    client, namespace
):
    """1,002 characters were accepted, and broke the status: nothing could be suspended then."""
    output = "s3://models/" + "p" * 1012
    kubelet = Kubelet(client, namespaces=(namespace,))

    def fate(job, stage, attempt):
        if stage is not Stage.PREPARE:
            return Fate(run_seconds=600.0, status=ended_status(0, ""))
        result = result_of(stage).model_copy(update={"uri": f"{output}/datasets/dddd"})
        words = TerminationMessage(stage=stage, exit_code=0, reason="Succeeded", result=result)
        return Fate(status=ended_status(0, words.to_text()), run_seconds=0.1)

    kubelet.script = fate
    async with kubelet.running(), running_manager(client, test_config(namespace)):
        await client.create(FINETUNEJOBS, finetunejob("long", namespace, output={"uri": output}))

        async def is_training():
            job = await get_job(client, namespace, "long")
            return job if (job.get("status") or {}).get("phase") == "Training" else None

        job = await eventually_async(is_training, timeout=60, interval=0.2)
        assert job["status"]["dataset"]["uri"].startswith(f"{output}/datasets/")
        await client.merge_patch(FINETUNEJOBS, namespace, "long", {"spec": {"suspend": True}})
        await eventually_async(lambda: _is_suspended(client, namespace, "long"), timeout=30)


async def _is_suspended(client, namespace, name):
    jobs = {each["metadata"]["name"]: each for each in await child_jobs(client, namespace)}
    return jobs[f"{name}-train"]["spec"].get("suspend") is True


def _policy(namespace):
    """Return a policy that refuses every status of a FineTuneJob in one namespace."""
    rule = {
        "apiGroups": ["finetune.dev"], "apiVersions": ["*"], "operations": ["UPDATE"],
        "resources": ["finetunejobs/status"],
    }  # fmt: skip
    name = f"no-status-{namespace}"
    selector = {"matchLabels": {"kubernetes.io/metadata.name": namespace}}
    refusal = {"expression": "false", "message": "no status is taken", "reason": "Invalid"}
    return (
        (POLICIES, {
            "metadata": {"name": name},
            "spec": {"matchConstraints": {"resourceRules": [rule]}, "validations": [refusal]},
        }),
        (BINDINGS, {
            "metadata": {"name": name},
            "spec": {
                "policyName": name, "validationActions": ["Deny"],
                "matchResources": {"namespaceSelector": selector},
            },
        }),
    )  # fmt: skip


async def test_where_no_status_is_taken_jobs_start_end_by_their_deadline_and_are_deleted(
    client, namespace
):
    for resource, body in _policy(namespace):
        await client.create(resource, body)
    await client.create(FINETUNEJOBS, finetunejob("probe", namespace, suspend=True))

    async def is_refused():
        metadata = {"name": "probe", "namespace": namespace}
        body = {"metadata": metadata, "status": {"reason": "R"}}
        try:
            await client.apply_status(FINETUNEJOBS, body, field_manager="probe")
        except KubeError as error:
            return "no status is taken" in str(error)
        return False

    await eventually_async(is_refused, timeout=30, interval=0.5)
    kubelet = Kubelet(client, namespaces=(namespace,))
    kubelet.script = lambda job, stage, attempt: success(
        stage, run_seconds=0.1 if stage is Stage.PREPARE else 600.0
    )
    async with kubelet.running(), running_manager(client, test_config(namespace)):
        created = time.monotonic()
        spec = {"activeDeadlineSeconds": 3600, "ttlSecondsAfterFinished": 1}
        await client.create(FINETUNEJOBS, finetunejob("unheard", namespace, **spec))

        async def is_told():
            reasons = await event_reasons(client, namespace, "unheard")
            return {"StatusRefused", "TrainingStarted"} <= set(reasons)

        await eventually_async(is_told, timeout=30, interval=0.2)
        assert not holds(await get_job(client, namespace, "unheard"), "Accepted")
        # A few seconds away, however long it took to get here.
        spec["activeDeadlineSeconds"] = math.ceil(time.monotonic() - created) + 3
        await client.merge_patch(FINETUNEJOBS, namespace, "unheard", {"spec": spec})

        async def is_deleted():
            try:
                await client.get(FINETUNEJOBS, namespace, "unheard")
            except NotFound:
                return True
            return False

        await eventually_async(is_deleted, timeout=60, interval=0.2)

        async def is_announced():
            return "Failed" in await event_reasons(client, namespace, "unheard")

        await eventually_async(is_announced)
    for resource, body in _policy(namespace):
        await client.delete(resource, "", body["metadata"]["name"])
