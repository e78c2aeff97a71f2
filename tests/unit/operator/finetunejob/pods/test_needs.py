"""What pods need beside their Job, when somebody deletes it."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest

from finetune_api.protocol.trainer import JOB_DIGEST_ARGUMENT, ExitCode, FailureClass, Stage
from finetune_operator.finetunejob.plan import plan
from finetune_operator.finetunejob.pods import needs
from finetune_operator.finetunejob.render.config import digest_of
from finetune_operator.finetunejob.state.actions import RestoreNeeds, ResumeJob
from finetune_operator.finetunejob.state.observed import WarningEvent
from finetune_operator.finetunejob.state.trimming import trim_job
from finetune_operator.kube.api.errors import Forbidden
from finetune_operator.status.conditions import timestamp
from kit.builders.jobs import (
    CONFIG,
    NOW,
    after,
    at,
    child,
    ended,
    job,
    live,
    merged,
    observe,
    queue,
    running,
    stages_done,
    suspended,
    waiting,
    words,
)
from unit.operator.controllers.test_reconcile import KEY, world_of
from unit.operator.finetunejob.pods.test_placement import in_training, paused

POD = "headlines-prepare-0-abcde"
MISSED = 'MountVolume.SetUp failed for volume "job" : configmap "headlines-job" not found'
CONFIG_MAP = ("configmaps", "team-a", "headlines-job")


def stuck(warning, **known):
    body = job()
    jobs = {Stage.PREPARE: child(Stage.PREPARE, status=running())}
    body = after(body, plan(observe(body, jobs=jobs), NOW, CONFIG))
    pods = {Stage.PREPARE: (waiting(Stage.PREPARE, "ContainerCreating"),)}
    told = WarningEvent("FailedMount", warning) if warning else None
    return observe(body, jobs=jobs, pods=pods, warnings={POD: told}, **known)


def reasons(made):
    return [event.reason for event in made.events]


@pytest.mark.parametrize("word", ["configmap", "configmaps"])
def test_a_config_map_that_the_kubelet_misses_is_made_again(word):
    made = plan(stuck(MISSED.replace("configmap", word)), at(60), CONFIG)
    ((obj,),) = [action.objects for action in made.first if isinstance(action, RestoreNeeds)]
    assert (obj["kind"], obj["metadata"]["name"]) == ("ConfigMap", "headlines-job")
    assert obj["data"]["job.json"]
    assert obj["metadata"]["ownerReferences"][0]["uid"]


@pytest.mark.parametrize(
    "warning",
    ["", MISSED.replace("headlines-job", "ca-bundle"), MISSED.replace("configmap", "secret")],
    ids=["none", "another's", "a Secret"],
)
def test_what_is_not_ours_is_not_made(warning):
    assert plan(stuck(warning), at(60), CONFIG).first == ()


@pytest.mark.parametrize(
    ("restored", "told"),
    [({"headlines-job": True}, True), ({"headlines-job": False}, False)],
    ids=["was gone", "was there"],
)
def test_a_restoration_is_told_once_it_happened(restored, told):
    made = plan(stuck(MISSED, restored=restored), at(60), CONFIG)
    assert made.first == ()
    assert ("Restored" in reasons(made)) is told


async def test_what_is_missed_is_created_and_what_is_there_stays():
    world, observed = world_of(job()), stuck(MISSED)
    (action,) = plan(observed, at(60), CONFIG).first
    found = await world.children.restore_needs(observed, action)
    assert found.restored == {"headlines-job": True}
    before = world.client.cluster.objects[CONFIG_MAP]
    found = await world.children.restore_needs(observed, action)
    assert found.restored == {"headlines-job": False}
    assert world.client.cluster.objects[CONFIG_MAP] == before


async def test_a_restoration_that_is_refused_holds_up_nothing():
    world, observed = world_of(job()), stuck(MISSED)
    (action,) = plan(observed, at(60), CONFIG).first
    world.client.faults.append(Forbidden("create", status=403, message="exceeded quota"))
    found = await world.children.restore_needs(observed, action)
    assert found.restored == {"headlines-job": False}


# ---- the job file ------------------------------------------------------------------------------


def told_digest(manifest):
    """Return which job file a Job's stage is told to read; None if any."""
    (container,) = manifest["spec"]["template"]["spec"]["containers"]
    arguments = container["args"]
    if JOB_DIGEST_ARGUMENT not in arguments:
        return None
    return arguments[arguments.index(JOB_DIGEST_ARGUMENT) + 1]


def begun(body):
    """Return what is created for a job's first stage, and its Job as it is stored."""
    (action,) = plan(observe(body), NOW, CONFIG).first
    (config_map,) = action.needs
    digest = hashlib.sha256(config_map["data"]["job.json"].encode()).hexdigest()
    assert told_digest(action.job) == digest
    stored = {**action.job, "metadata": {**action.job["metadata"], "uid": "uid-prepare"}}
    return digest, stored


def test_each_stage_is_told_which_job_file_it_may_read(monkeypatch):
    digest, first = begun(job())
    known = stages_done(Stage.PREPARE)
    ended_job = known["jobs"][Stage.PREPARE]
    ended_job = {**ended_job, "spec": trim_job(first)["spec"]}
    _, body = live([{**known, "jobs": {Stage.PREPARE: ended_job}}], job(), at(60))
    assert body["status"]["jobDigest"] == digest
    # The operator of another version writes it otherwise, and the first Job is deleted.
    monkeypatch.setattr(needs, "digest_of", lambda config_map: "0" * 64)
    (action,) = plan(observe(body), at(70), CONFIG).first
    assert (action.stage, told_digest(action.job)) == (Stage.TRAIN, digest)


def test_a_run_begun_without_a_digest_goes_on_without_one():
    _, body = live([stages_done(Stage.PREPARE)], job(), at(60))
    del body["status"]["jobDigest"]  # as the operator before this one wrote it
    (action,) = plan(observe(body, **stages_done(Stage.PREPARE)), at(70), CONFIG).first
    assert (action.stage, told_digest(action.job)) == (Stage.TRAIN, None)
    assert "jobDigest" not in body["status"]


@pytest.mark.parametrize("arguments", [[], [JOB_DIGEST_ARGUMENT, "f" * 64]], ids=["none", "other"])
def test_a_first_job_that_somebody_made_names_no_job_file(arguments):
    digest, forged = begun(job())
    forged["spec"]["template"]["spec"]["containers"][0]["args"] = arguments
    _, body = live([{}], suspended(job()), at(10))
    body = {**body, "spec": {**body["spec"], "suspend": False}}
    known = stages_done(Stage.PREPARE)
    seen = {**known["jobs"][Stage.PREPARE], "spec": trim_job(forged)["spec"]}
    known["jobs"] = {Stage.PREPARE: seen}
    made, body = live([known], body, at(60))
    assert body["status"]["jobDigest"] == digest
    (action,) = plan(observe(body, **known), at(70), CONFIG).first
    assert (action.stage, told_digest(action.job)) == (Stage.TRAIN, digest)


async def test_a_config_map_with_another_job_file_holds_up_the_first_stage():
    world = world_of(job())
    (action,) = plan(observe(job()), NOW, CONFIG).first
    (wanted,) = action.needs
    world.client.cluster.store(CONFIG_MAP, {**wanted, "data": {"job.json": "{}"}})
    observed = await world.children.create_needs(observe(job()), action)
    assert observed.refusals[Stage.PREPARE].reason == "NameTaken"
    # A run that began with it goes on: the operator of another version wrote it.
    begun_before = replace(action, job_digest=digest_of({"data": {"job.json": "{}"}}))
    assert (await world.children.create_needs(observe(job()), begun_before)).refusals == {}
    world.client.cluster.store(CONFIG_MAP, wanted)
    assert (await world.children.create_needs(observe(job()), action)).refusals == {}


# ---- the Service of several nodes ----------------------------------------------------------------

TRAIN = Stage.TRAIN
SERVICE = "headlines-train"
NODES = {"resources": {"nodes": 2, "gpusPerNode": 1}}


def ends_of_ranks(code, reason, *, spec=NODES, **known):
    """Return the snapshot of a training all of whose ranks have just ended."""
    body = job(**spec)
    _, body = live([stages_done(Stage.PREPARE)], body, at(60))
    train = child(TRAIN, body, status={"startTime": timestamp(at(70)), "active": 2})
    failure = FailureClass.RETRYABLE if code == ExitCode.RETRYABLE else FailureClass.INTERNAL
    told = words(TRAIN, code, failure, reason, "cannot resolve rank 0")
    pods = tuple(
        ended(TRAIN, code, told, start=100, end=190, index=rank, name=f"p-{rank}")
        for rank in range(body["spec"]["resources"]["nodes"])
    )
    snapshot = merged(
        stages_done(Stage.PREPARE), {"jobs": {TRAIN: train}, "pods": {TRAIN: pods}}, known
    )
    return body, snapshot


def resumed(*, nodes=2, is_queued=False, **known):
    """Return the snapshot of a training that was suspended by its user and shall go on."""
    body = job(resources={"nodes": nodes, "gpusPerNode": 1})
    annotations = {} if is_queued else {"finetune.dev/paused": "true"}
    stopped = {"type": "Suspended", "status": "True", "lastTransitionTime": timestamp(at(160))}
    status = {"conditions": [stopped]}
    train = child(TRAIN, body, suspend=True, annotations=annotations, status=status)
    snapshot = merged(stages_done(Stage.PREPARE), {"jobs": {TRAIN: train}}, known)
    if is_queued:
        snapshot["queue"] = {TRAIN: queue(is_active=False, deactivated_by="finetune-operator")}
    _, body = live([snapshot], suspended(body), at(170))
    return {**body, "spec": {**body["spec"], "suspend": False}}, snapshot


def restores(made):
    found = [action.objects for action in made.first if isinstance(action, RestoreNeeds)]
    return [(obj["kind"], obj["metadata"]["name"]) for objects in found for obj in objects]


@pytest.mark.parametrize("is_queued", [False, True], ids=["by itself", "in a queue"])
def test_the_service_is_there_before_ranks_that_were_suspended_start_again(is_queued):
    body, known = resumed(is_queued=is_queued)
    assert restores(plan(observe(body, **known), at(200), CONFIG)) == [("Service", SERVICE)]
    for was_gone in (True, False):
        made = plan(observe(body, **known, restored={SERVICE: was_gone}), at(200), CONFIG)
        assert made.first == ()
        assert len(made.then) == 1
        assert ("Restored" in reasons(made)) is was_gone


def test_the_service_is_there_before_ranks_that_let_their_nodes_go_try_again():
    body, known = in_training()
    known = paused(known)
    assert restores(plan(observe(body, **known), at(1000), CONFIG)) == [("Service", SERVICE)]
    made = plan(observe(body, **known, restored={SERVICE: False}), at(1000), CONFIG)
    assert made.then == (ResumeJob(stage=TRAIN, name="headlines-train"),)


@pytest.mark.parametrize("reason", ["RendezvousFailed", "PeersMissing", "PeerLost"])
def test_the_service_is_looked_for_once_for_each_attempt_whose_ranks_found_nobody(reason):
    body, known = ends_of_ranks(ExitCode.RETRYABLE, reason)
    observed = observe(body, **known)
    assert restores(plan(observed, at(200), CONFIG)) == [("Service", SERVICE)]
    made = plan(replace(observed, restored={SERVICE: True}), at(200), CONFIG)
    assert made.first == ()
    assert reasons(made) == ["Retrying", "Restored"]
    assert plan(observe(after(body, made), **known), at(230), CONFIG).first == ()


@pytest.mark.parametrize(
    "snapshot",
    [
        ends_of_ranks(1, "Crashed"),
        ends_of_ranks(ExitCode.RETRYABLE, "Retryable", spec={"resources": {"nodes": 1}}),
        resumed(nodes=1),
    ],
    ids=["failed of itself", "a single node", "a single node that goes on"],
)
def test_no_service_is_made_where_none_is_missed(snapshot):
    body, known = snapshot
    assert restores(plan(observe(body, **known), at(200), CONFIG)) == []


async def test_a_service_that_is_gone_is_back_before_its_job_is_resumed():
    body, known = resumed()
    world = world_of(body)
    for child_job in known["jobs"].values():
        owner = [{"kind": "FineTuneJob", "uid": body["metadata"]["uid"], "controller": True}]
        child_job = {**child_job, "metadata": {**child_job["metadata"], "ownerReferences": owner}}
        key = ("jobs", "team-a", child_job["metadata"]["name"])
        world.caches.jobs.absorb(world.client.cluster.store(key, child_job))
    await world.reconciler.reconcile(KEY)
    sent = [(verb, obj.get("kind")) for verb, obj in world.client.writes if verb != "apply"]
    assert sent == [("create", "Service"), ("patch", None)]
    assert ("services", "team-a", SERVICE) in world.client.cluster.objects
    assert (
        world.client.cluster.objects["jobs", "team-a", "headlines-train"]["spec"]["suspend"]
        is False
    )
    assert [reason for _, _, reason, _ in world.events] == ["Restored"]
