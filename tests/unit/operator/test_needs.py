"""What pods need beside their Job, when somebody deletes it."""

from __future__ import annotations

import pytest

from finetune_api.trainer import Stage
from finetune_operator.finetunejob.actions import RestoreNeeds
from finetune_operator.finetunejob.plan import plan
from finetune_operator.kube.errors import Forbidden
from unit.operator.builders import CONFIG, NOW, after, at, child, job, observe, running, waiting
from unit.operator.test_reconcile import world_of

POD = "headlines-prepare-0-abcde"
MISSED = 'MountVolume.SetUp failed for volume "job" : configmap "headlines-job" not found'
CONFIG_MAP = ("configmaps", "team-a", "headlines-job")


def stuck(warning, **known):
    body = job()
    jobs = {Stage.PREPARE: child(Stage.PREPARE, status=running())}
    body = after(body, plan(observe(body, jobs=jobs), NOW, CONFIG))
    pods = {Stage.PREPARE: (waiting(Stage.PREPARE, "ContainerCreating"),)}
    return observe(body, jobs=jobs, pods=pods, warnings={POD: warning}, **known)


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
    [(frozenset({"headlines-job"}), True), (frozenset(), False)],
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
    assert found.restored == {"headlines-job"}
    before = world.client.cluster.objects[CONFIG_MAP]
    found = await world.children.restore_needs(observed, action)
    assert found.restored == frozenset()
    assert world.client.cluster.objects[CONFIG_MAP] == before


async def test_a_restoration_that_is_refused_holds_up_nothing():
    world, observed = world_of(job()), stuck(MISSED)
    (action,) = plan(observed, at(60), CONFIG).first
    world.client.faults.append(Forbidden("create", status=403, message="exceeded quota"))
    found = await world.children.restore_needs(observed, action)
    assert found.restored == frozenset()
