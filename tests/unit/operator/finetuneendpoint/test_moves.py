"""Servers under a changed configuration: versions move one after the other, and back."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_api.names import FRONT
from finetune_api.protocol.serving import OUTLIVES_SECONDS
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.observed import ServerPod, Workload
from finetune_operator.status.conditions import find_condition
from kit.builders.endpoints import EndpointWorld, published_job

OLD = OperatorConfig(vllm_image="vllm:1")
NEW = OperatorConfig(vllm_image="vllm:2")


def serving(**spec):
    world = EndpointWorld(published_job(1), **spec)
    world.config = OLD
    world.run()
    assert world.versions() == (1, None, None)
    return world


def server(world, section="active"):
    return world.status[section]["server"]


def upgrade(world, config=NEW, **answers):
    """Change the configuration; the version answers on its present server whatever comes."""
    world.answers[(1, server(world))] = ("Verified", "")
    world.answers[1] = answers.get("says", ("Verifying", ""))
    world.config = config
    world.look()


# ---- an upgrade is a verified move ---------------------------------------------------------------


def test_a_new_engine_image_is_verified_on_a_further_server_and_the_present_one_is_left_alone():
    world = serving()
    before = server(world)
    upgrade(world)
    assert world.versions() == (1, 1, None)
    assert server(world) == before
    assert server(world, "candidate") != before
    serving_now = world.last.serving
    assert [each.name for each in serving_now.servers] == [server(world, "candidate")]
    assert serving_now.keep == (before,)
    assert world.condition("Progressing") == ("True", "Moving")
    world.answers[1] = ("Verified", "")
    world.run()
    assert world.versions() == (1, None, None)
    assert server(world) != before
    assert world.condition("Available") == ("True", "Serving")


def test_an_image_that_answers_wrongly_takes_nothing_over_and_the_old_configuration_ends_it():
    world = serving()
    before = server(world)
    upgrade(world, says=("Failed", "AnswersDiffer"))
    world.run(20)
    assert server(world) == before
    assert world.condition("Available") == ("True", "Serving")
    assert world.condition("Verified") == ("False", "AnswersDiffer")
    assert world.condition("Stalled") == ("True", "MoveRefused")
    assert [reason for reason, _ in world.events].count("MoveRefused") == 1
    assert "rejected" not in world.status
    world.config = OLD
    world.look()
    assert world.versions() == (1, None, None)
    assert server(world) == before
    assert [each.name for each in world.last.serving.servers] == [before]
    assert world.condition("Stalled") == ("False", "AsWanted")


def refused():
    """Return a world whose version has failed on the server of a new image, with its names."""
    world = serving()
    before = server(world)
    upgrade(world, says=("Failed", "AnswersDiffer"))
    failed = server(world, "candidate")
    world.look()
    return world, before, failed


def test_the_server_that_a_version_failed_on_is_stopped_and_not_started_again():
    world, before, failed = refused()
    assert world.versions() == (1, None, None)
    assert world.status["refused"]["server"] == failed
    world.facts = {"owned": frozenset({before, failed})}
    world.look(OUTLIVES_SECONDS)
    world.run(5)
    assert world.last.serving.release == (failed,)
    assert world.last.serving.servers == ()
    assert world.last.serving.keep == (before,)
    assert world.versions() == (1, None, None)
    assert world.condition("Stalled") == ("True", "MoveRefused")
    assert world.condition("Progressing") == ("False", "MoveRefused")


@pytest.mark.parametrize("change", [{"rollout": {"steps": [100]}}, {"serve": {"maxAdapters": 8}}])
def test_an_edit_of_the_spec_tries_a_refused_move_again(change):
    world, before, failed = refused()
    world.answers[1] = ("Verified", "")
    world.run(5)
    assert server(world) == before
    world.edit(**change)
    world.run(5)
    assert server(world) != before
    assert (server(world) == failed) == ("rollout" in change)
    assert "refused" not in world.status
    assert world.condition("Stalled") == ("False", "AsWanted")


def test_a_refused_move_is_tried_again_after_pauses_that_grow():
    world, before, failed = refused()
    for failures, hours in enumerate((1, 4, 24, 24), 1):
        assert world.status["refused"]["failures"] == failures
        assert world.last.requeue_after == hours * 3600.0
        world.look(hours * 3600.0 - 1.0)
        assert world.versions() == (1, None, None)
        world.look()
        assert server(world, "candidate") == failed
        assert world.condition("Stalled") == ("False", "AsWanted")
        assert world.condition("Progressing") == ("True", "Moving")
        world.look()
        assert world.condition("Stalled") == ("True", "MoveRefused")
    world.answers[1] = ("Verified", "")
    world.look(24 * 3600.0)
    world.look()
    assert server(world) == failed
    assert "refused" not in world.status


def test_a_refused_move_is_tried_again_in_its_turn():
    world, _, failed = refused()
    world.facts = {"is_crowded": True, "num_failed_moves": 3}
    world.look(3600.0)
    assert world.condition("Stalled") == ("True", "MoveRefused")
    assert world.last.requeue_after == 30.0
    world.facts = {"num_failed_moves": 3}
    world.look()
    assert server(world, "candidate") == failed


def test_a_refused_move_says_whether_an_edit_or_the_configuration_asked_for_it():
    world, _, failed = refused()
    assert "isEdit" not in world.status["refused"]
    world.edit(serve={"maxAdapters": 8})
    world.look()
    assert world.status["candidate"]["isEdit"] is True
    world.look()
    assert world.status["refused"]["server"] != failed
    assert world.status["refused"]["isEdit"] is True
    world.look(3600.0)
    assert world.status["candidate"]["isEdit"] is True


def test_another_configuration_tries_another_server_and_forgets_the_refused_one():
    world, _, failed = refused()
    world.answers[1] = ("Verified", "")
    world.config = OperatorConfig(vllm_image="vllm:3")
    world.run(5)
    assert server(world) != failed
    assert "refused" not in world.status


def test_a_new_version_is_tried_on_the_server_that_another_one_failed_on():
    world, _, failed = refused()
    world.job = published_job(2)
    world.run(5)
    assert world.versions()[0] == 2
    assert server(world) == failed
    assert "refused" not in world.status


def test_an_image_that_does_not_start_is_told_with_the_clusters_words():
    world = serving()
    upgrade(world)
    new = Workload(num_ready=0, num_wanted=1, problem="Container engine: ErrImagePull")
    world.facts = {
        "workloads": {**world.observe().workloads, server(world, "candidate"): new},
        "servers": tuple(each for each in world.observe().servers if each.server == server(world)),
    }
    world.look()
    assert world.condition("Stalled") == ("True", "MoveStuck")
    assert world.condition("Available") == ("True", "Serving")
    assert "MoveStuck" in [reason for reason, _ in world.events]


def test_a_server_takes_over_with_as_many_pods_as_answered_before():
    world = serving(serve={"replicas": {"min": 3, "max": 3}})
    before = server(world)
    upgrade(world, says=("Verified", ""))
    workloads = {
        before: Workload(num_ready=3, num_wanted=3),
        server(world, "candidate"): Workload(num_ready=1, num_wanted=3),
    }
    front = {"finetune-front": Workload(num_ready=2, num_wanted=2)}
    world.facts = {"workloads": {**front, **workloads}}
    world.run()
    assert server(world) == before
    assert world.condition("Verified") == ("Unknown", "ServerNotReady")
    workloads[server(world, "candidate")] = Workload(num_ready=3, num_wanted=3)
    world.facts = {"workloads": {**front, **workloads}}
    world.run()
    assert server(world) != before


def test_a_scaled_server_is_followed_by_one_with_as_many_pods():
    world = serving(serve={"replicas": {"min": 1, "max": 8}})
    present = Workload(num_ready=5, num_wanted=5)
    world.facts = {"workloads": {**world.observe().workloads, server(world): present}}
    upgrade(world)
    (needed,) = world.last.serving.servers
    assert (needed.replicas.min, needed.replicas.max) == (5, 8)


# ---- one server after the other ------------------------------------------------------------------


@pytest.mark.parametrize("facts", [{"moving": frozenset({"fts-other"})}, {"is_crowded": True}])
def test_a_version_waits_while_other_servers_move(facts):
    world = serving()
    world.facts = facts
    upgrade(world, says=("Verified", ""))
    world.run()
    assert world.versions() == (1, None, None)
    assert world.condition("Progressing") == ("True", "WaitsForTurn")
    assert world.last.requeue_after == 30.0
    assert world.last.serving.keep == (server(world),)
    before = server(world)
    world.facts = {}
    world.run()
    assert server(world) != before


def test_a_version_joins_a_move_to_the_server_that_it_needs():
    world, neighbour = serving(), serving()
    upgrade(neighbour)
    world.facts = {"moving": frozenset({server(neighbour, "candidate")}), "is_crowded": True}
    upgrade(world)
    assert server(world, "candidate") == server(neighbour, "candidate")


def test_an_edit_of_a_user_waits_for_nobody():
    world = serving()
    world.facts = {"is_crowded": True, "moving": frozenset({"fts-other"})}
    world.edit(serve={"maxAdapters": 8})
    world.look()
    assert world.versions() == (1, 1, None)


def test_a_version_whose_server_was_deleted_waits_for_nobody():
    world = serving()
    workloads = {k: v for k, v in world.observe().workloads.items() if k != server(world)}
    world.facts = {"is_crowded": True, "workloads": workloads}
    upgrade(world)
    assert world.versions() == (1, 1, None)
    assert world.condition("Available") == ("False", "ServerNotReady")


# ---- Available is what the pods report -----------------------------------------------------------


def test_an_endpoint_is_not_available_while_no_ready_pod_has_its_version_verified():
    world = serving()
    world.pods = 2
    world.answers[1] = ("Failed", "AnswersDiffer")
    world.run()
    assert world.condition("Available") == ("False", "AnswersDiffer")
    assert world.status["phase"] == "Degraded"
    world.answers = {(1, 0): ("Failed", "AnswersDiffer")}
    world.run()
    assert world.condition("Available") == ("True", "Serving")
    assert world.condition("Degraded") == ("True", "PodsRefuse")


def silent(world):
    return tuple(replace(pod, report=None) for pod in world.observe().servers)


def test_pods_that_tell_nothing_are_unknown_and_not_false():
    world = serving()
    world.facts = {"servers": silent(world), "is_young": True}
    world.run()
    assert world.condition("Available") == ("True", "Serving")
    assert world.last.requeue_after == 30.0
    world.facts = {"servers": silent(world)}
    world.run()
    assert world.condition("Available") == ("Unknown", "NotReported")
    assert world.condition("Degraded") == ("Unknown", "NotReported")


def test_pods_that_do_not_come_up_beside_others_are_told():
    world = serving()
    short = Workload(num_ready=1, num_wanted=4, problem="Insufficient nvidia.com/gpu")
    world.facts = {"workloads": {**world.observe().workloads, server(world): short}}
    world.look()
    assert world.condition("Available") == ("True", "Serving")
    assert world.condition("Degraded") == ("True", "PodsMissing")
    assert world.status["phase"] == "Degraded"


def test_pods_that_run_and_do_not_answer_are_told_in_their_words():
    world = serving()
    world.pods = 2
    world.answers[(1, 1)] = ("Loading", "EngineSlow")
    world.run()
    short = Workload(num_ready=1, num_wanted=2)
    first, second = world.observe().servers
    world.facts = {
        "servers": (first, replace(second, is_ready=False)),
        "workloads": {**world.observe().workloads, server(world): short},
    }
    world.look()
    assert world.condition("Available") == ("True", "Serving")
    assert world.condition("Degraded") == ("True", "PodsMissing")
    assert "EngineSlow" in find_condition(world.status["conditions"], "Degraded")["message"]


def test_a_deployment_whose_new_pods_do_not_come_up_is_told_while_the_old_ones_answer():
    world = serving()
    stuck = Workload(num_ready=2, num_wanted=2, num_updated=1, problem="exceeded quota")
    for name in (FRONT, server(world)):
        world.facts = {"workloads": {**world.observe().workloads, name: stuck}}
        world.look()
        assert world.condition("Available") == ("True", "Serving")
        assert world.condition("Degraded") == ("True", "PodsMissing")
        updated = replace(stuck, num_updated=2, problem="")
        world.facts = {"workloads": {**world.observe().workloads, name: updated}}
        world.look()
        assert world.condition("Degraded") == ("False", "AsWanted")


# ---- one bad pod rejects nothing -----------------------------------------------------------------


def candidate(pods: int) -> EndpointWorld:
    world = serving()
    world.pods = pods
    world.job = published_job(2)
    world.look()
    return world


def test_a_fault_that_one_of_two_pods_finds_rejects_nothing():
    world = candidate(2)
    world.answers[(2, 1)] = ("Failed", "FilesDamaged")
    world.run(10)
    assert world.versions() == (1, 2, None)
    assert world.condition("Verified") == ("Unknown", "FilesDamaged")
    assert "rejected" not in world.status


def test_a_fault_that_pods_on_two_nodes_find_rejects_the_version():
    world = candidate(3)
    world.failures = 1
    world.answers |= {(2, 1): ("Failed", "AnswersDiffer"), (2, 2): ("Failed", "AnswersDiffer")}
    world.look()
    assert world.versions() == (1, None, None)
    assert world.status["rejected"][0]["reason"] == "AnswersDiffer"


def test_two_pods_on_one_node_count_as_one():
    world = candidate(3)
    world.answers |= {(2, 1): ("Failed", "AnswersDiffer"), (2, 2): ("Failed", "AnswersDiffer")}
    world.facts = {"servers": tuple(replace(p, node="node") for p in world.observe().servers)}
    world.look()
    assert world.versions() == (1, 2, None)


@pytest.mark.parametrize(("failures", "is_rejected"), [(1, False), (2, True), (0, True)])
def test_the_only_pod_rejects_a_version_at_its_second_try(failures, is_rejected):
    world = candidate(1)
    world.failures = failures
    world.answers[2] = ("Failed", "AnswersDiffer")
    world.look()
    assert ("rejected" in world.status) == is_rejected


def test_a_pod_without_a_report_does_not_hold_up_the_verdict_of_the_others():
    world = candidate(1)
    world.answers[2] = ("Failed", "AnswersDiffer")
    pods = world.observe().servers
    new = ServerPod(name="new", server=pods[0].server, is_ready=False)
    world.facts = {"servers": (*pods, new)}
    world.look()
    assert "rejected" in world.status
