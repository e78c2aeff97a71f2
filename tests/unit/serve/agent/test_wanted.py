"""Which versions a server must hold."""

from finetune_trainer.serve.agent.wanted import Finder
from kit.builders.versions import endpoint_with

SERVER = "fts-0123456789ab"


def served(job, version, **changes):
    known = {
        "version": version,
        "adapter": f"team.{job}-v{version}",
        "manifestUri": f"s3://b/versions/team/{job}/{version}/manifest.json",
        "sha256": f"{version:064d}",
        "server": SERVER,
        "baseModel": "hf://org/model",
        "storage": {"uri": "s3://b"},
    }
    return known | changes


def names(*endpoints):
    bodies = {str(number): body for number, body in enumerate(endpoints)}
    found = Finder(namespace="team", server=SERVER).find(bodies)
    return {wanted.name: wanted.has_traffic for wanted in found.values()}


def test_active_candidate_and_previous_of_all_endpoints_are_wanted():
    first = endpoint_with(
        "a", active=served("a", 2), candidate=served("a", 3, weight=0), previous=served("a", 1)
    )
    second = endpoint_with("b", active=served("b", 7), candidate=served("b", 8, weight=5))
    assert names(first, second) == {
        "team.a-v1": False,
        "team.a-v2": True,
        "team.a-v3": False,
        "team.b-v7": True,
        "team.b-v8": True,
    }


def test_a_version_of_another_server_is_not_wanted():
    assert names(endpoint_with("a", active=served("a", 1, server="fts-other"))) == {}


def test_a_name_that_is_not_the_versions_own_is_not_wanted():
    assert names(endpoint_with("a", active=served("a", 1, adapter="other.a-v1"))) == {}
    assert names(endpoint_with("a", active=served("b", 1))) == {}


def test_an_endpoint_of_another_namespace_or_without_sense_is_left_out():
    other = endpoint_with("a", active=served("a", 1))
    other["metadata"]["namespace"] = "others"
    assert names(other, {"metadata": {}}, endpoint_with("a")) == {}


def test_two_endpoints_of_one_job_share_a_version_with_its_traffic():
    idle = endpoint_with("a", previous=served("a", 1))
    busy = endpoint_with("a", active=served("a", 1))
    assert names(idle, busy) == names(busy, idle) == {"team.a-v1": True}


def test_endpoints_that_know_more_and_less_of_a_version_share_it():
    pinned = served("a", 1, jobUid="uid", weightsSha256="w" * 64)
    by_number = served("a", 1, sha256="")
    bodies = [endpoint_with("a", active=each) for each in (pinned, by_number)]
    for order in (bodies, bodies[::-1]):
        found = Finder(namespace="team", server=SERVER).find(dict(enumerate(order)))
        (wanted,) = found.values()
        assert (wanted.job_uid, wanted.weights_sha256) == ("uid", "w" * 64)
        assert wanted.sha256 == pinned["sha256"]


def test_other_content_under_a_name_is_another_version():
    for other in ({"sha256": "f" * 64}, {"jobUid": "two"}, {"weightsSha256": "f" * 64}):
        one = served("a", 1, jobUid="one", weightsSha256="e" * 64)
        body = endpoint_with("a", active=one, candidate=one | other)
        assert len(Finder(namespace="team", server=SERVER).find({"a": body})) == 2


def test_an_endpoint_that_has_not_changed_is_not_parsed_again():
    finder = Finder(namespace="team", server=SERVER)
    same, before = endpoint_with("a", active=served("a", 1)), endpoint_with("b")
    first = finder.find({"a": same, "b": before})
    same["status"] = None  # nobody changes an object; it would be seen if it was read again
    changed = endpoint_with("b", active=served("b", 2))
    second = finder.find({"a": same, "b": changed})
    assert [each.name for each in first.values()] == ["team.a-v1"]
    assert [each.name for each in second.values()] == ["team.a-v1", "team.b-v2"]
    assert finder.find({}) == {}
