"""What must exist for an endpoint, shared with the other endpoints of its namespace."""

from __future__ import annotations

from dataclasses import replace

from finetune_api.protocol.serving import OUTLIVES_SECONDS, STALE_SECONDS, FrontReport
from finetune_operator.finetuneendpoint.observed import read_neighbour
from finetune_operator.finetuneendpoint.serving import MAX_SECRETS
from finetune_operator.finetunejob.state.observed import Refusal
from kit.builders.endpoints import EndpointWorld, endpoint, published_job


def neighbour(name, *servers, **spec):
    other = endpoint(name, **spec)
    sections = zip(("active", "previous"), servers, strict=False)
    other["status"] = {section: {"server": server} for section, server in sections}
    found = read_neighbour(other)
    assert found is not None
    return found


def serving(**spec):
    world = EndpointWorld(published_job(1), **spec)
    world.run()
    return world


def asked(world):
    world.look()
    assert world.last.serving is not None
    return world.last.serving


def test_endpoints_that_name_a_server_own_it_together_and_all_own_the_front():
    world = serving()
    server = world.status["active"]["server"]
    world.facts = {"neighbours": (neighbour("zebra", server), neighbour("ant", "fts-other"))}
    found = asked(world)
    assert [each.name for each in found.servers] == [server]
    assert [owner.name for owner in found.servers[0].owners] == ["headlines", "zebra"]
    assert [owner.name for owner in found.front.owners] == ["ant", "headlines", "zebra"]
    assert {owner.kind for owner in found.front.owners} == {"FineTuneEndpoint"}


def test_a_shared_server_has_as_many_pods_as_the_most_demanding_endpoint_wants():
    world = serving(serve={"replicas": {"min": 2, "max": 3}})
    server = world.status["active"]["server"]
    more = {"serve": {"replicas": {"min": 1, "max": 8}}}
    world.facts = {"neighbours": (neighbour("zebra", server, **more),)}
    replicas = asked(world).servers[0].replicas
    assert (replicas.min, replicas.max) == (2, 8)


def test_the_front_has_the_keys_of_all_endpoints_and_editors():
    def named(name: str) -> dict[str, dict[str, str]]:
        return {"secretRef": {"name": name}}

    own = {"access": {"keysFrom": named("own")}, "capture": {"editorsFrom": named("own-editors")}}
    theirs = {"access": {"keysFrom": named("theirs")}, "capture": {"editorsFrom": named("editors")}}
    world = serving(**own)
    world.facts = {"neighbours": (neighbour("zebra", **theirs), neighbour("ant"))}
    assert asked(world).front.key_secrets == ("editors", "own", "own-editors", "theirs")


def test_the_front_records_for_all_endpoints_that_capture():
    assert asked(serving()).front.store_secrets is None
    world = serving(capture={})
    storage = world.status["active"]["storage"]
    other = endpoint("zebra", capture={"uri": "s3://b/t", "secretRef": {"name": "theirs"}})
    found = read_neighbour(other)
    world.facts = {"neighbours": (found, neighbour("ant"))}
    found = asked(world).front.store_secrets
    assert set(found) == {"theirs", storage.get("credentialsSecret")} - {None}


def test_a_claim_of_one_endpoint_is_told_there_and_reaches_the_pods_of_none():
    world = serving(capture={"uri": "s3://b/t"})
    world.facts = {"neighbours": (neighbour("zebra", capture={"uri": "pvc://nope/x"}),)}
    storage = world.status["active"]["storage"]
    assert asked(world).front.store_secrets == (storage["credentialsSecret"],)
    assert world.condition("Stalled")[0] == "False"
    world.edit(capture={"uri": "pvc://nope/x"})
    assert asked(world).front.store_secrets is None
    assert world.condition("Stalled") == ("True", "URINotAllowed")
    assert "capture" not in world.status


def test_secrets_of_many_endpoints_are_mounted_up_to_a_bound_and_the_newest_is_told():
    def keys(name: str) -> dict[str, dict[str, dict[str, str]]]:
        return {"access": {"keysFrom": {"secretRef": {"name": name}}}}

    world = serving(**keys("own"))
    world.endpoint["metadata"]["creationTimestamp"] = "2026-01-01T00:00:00Z"
    older = [neighbour(f"n{number:03}", **keys(f"k{number:03}")) for number in range(200)]
    world.facts = {
        "neighbours": tuple(replace(each, created="2020-01-01T00:00:00Z") for each in older)
    }
    mounted = asked(world).front.key_secrets
    assert len(mounted) == MAX_SECRETS
    assert "own" not in mounted
    assert world.condition("Stalled") == ("True", "InvalidSpec")
    world.edit(**keys(mounted[0]))
    assert asked(world).front.key_secrets == mounted
    assert world.condition("Stalled")[0] == "False"


def test_nothing_is_recorded_where_the_cluster_does_not_allow_it():
    world = serving(capture={})
    world.facts = {"fault": Refusal(reason="URINotAllowed", message="no", is_final=True)}
    assert asked(world).front.store_secrets is None
    assert "capture" not in world.status


def test_the_front_has_its_recorder_while_the_first_version_is_verified():
    world = EndpointWorld(published_job(1), capture={})
    world.answers[1] = ("Verifying", "")
    world.run()
    assert world.versions() == (None, 1, None)
    storage = world.status["candidate"]["storage"]
    assert asked(world).front.store_secrets == (storage["credentialsSecret"],)
    assert read_neighbour(endpoint("zebra", capture={})).recorded is None


def test_the_status_tells_where_answers_are_stored_and_keeps_what_was_counted():
    world = serving(capture={})
    told = world.status["capture"]
    assert told["uri"] == world.status["active"]["storage"]["uri"]
    assert told["since"]
    world.status["capture"] = {**told, "rows": 7}
    world.run()
    assert world.status["capture"] == {**told, "rows": 7}
    assert "capture" not in serving().status


def report(world, rows, feedback, seconds=1.0):
    """Have a front report counts; return those of the status."""
    captured = {"rows": rows, "feedback": feedback}
    front = {"id": "f", "endpoints": [{"name": "headlines", "captured": captured}]}
    world.facts = {"fronts": (FrontReport.model_validate(front),)}
    world.look(seconds)
    told = world.status["capture"]
    return told["rows"], told["feedback"]


def test_counts_of_fronts_reach_the_status_and_never_fall():
    world = serving(capture={})
    assert report(world, 5, 2) == (5, 2)
    counted = world.status["capture"]["countedTime"]
    assert report(world, 4, 3) == (5, 3)
    assert world.status["capture"]["countedTime"] > counted


def test_small_growth_of_counts_is_written_each_ten_minutes_or_with_something_else():
    world = serving(capture={})
    assert report(world, 1000, 100) == (1000, 100)
    num_writes = world.num_writes
    for minute in range(1, 9):
        assert report(world, 1000 + minute, 100, seconds=60) == (1000, 100)
        assert 0 < world.last.requeue_after <= (10 - minute) * 60
    assert world.num_writes == num_writes
    assert report(world, 1008, 100, seconds=world.last.requeue_after) == (1008, 100)
    assert report(world, 1009, 100) == (1008, 100)
    assert report(world, 1009, 111) == (1009, 111)
    assert report(world, 1010, 111) == (1009, 111)
    world.edit(rollout=None)
    assert report(world, 1010, 111) == (1010, 111)
    assert world.num_writes == num_writes + 3


def test_counts_go_on_where_capture_is_switched_off_and_on_again():
    world = serving(capture={})
    report(world, 1000, 100)
    told = world.status["capture"]
    world.edit(capture=None)
    world.run()
    assert world.status["capture"] == told
    assert asked(world).front.store_secrets is None
    world.edit(capture={})
    world.run()
    assert world.status["capture"] == told


def test_counts_of_an_earlier_place_do_not_count_at_the_present_one():
    world = serving(capture={"uri": "s3://before/t"})
    captured = {"rows": 500, "feedback": 50, "uri": "s3://before/t"}
    front = {"id": "f", "endpoints": [{"name": "headlines", "captured": captured}]}
    world.facts = {"fronts": (FrontReport.model_validate(front),)}
    world.look()
    assert world.status["capture"]["rows"] == 500
    world.edit(capture={"uri": "s3://after/t"})
    world.look()
    told = world.status["capture"]
    assert (told["uri"], told.get("rows", 0)) == ("s3://after/t", 0)


def test_a_server_that_no_version_needs_any_more_is_released():
    world = serving()
    server = world.status["active"]["server"]
    world.facts = {"owned": frozenset({server, "fts-before"})}
    world.look(OUTLIVES_SECONDS)
    found = asked(world)
    assert found.release == ("fts-before",)
    assert found.keep == ()


def test_a_server_that_was_left_answers_until_stale_fronts_have_listed_anew():
    world = serving()
    before = world.status["active"]["server"]
    world.edit(serve={"maxAdapters": 8})
    world.run()
    after = world.status["active"]["server"]
    assert after != before
    world.facts = {"owned": frozenset({before, after})}
    plan = world.look()
    assert plan.serving.release == ()
    assert STALE_SECONDS < plan.requeue_after <= OUTLIVES_SECONDS
    plan = world.look(plan.requeue_after)
    assert plan.serving.release == (before,)


def test_an_endpoint_that_is_being_deleted_is_no_neighbour():
    gone = endpoint("zebra")
    gone["metadata"]["deletionTimestamp"] = "2026-11-24T12:00:00Z"
    assert read_neighbour(gone) is None


def test_what_must_exist_is_the_same_at_each_look():
    world = serving()
    assert asked(world) == asked(world)
