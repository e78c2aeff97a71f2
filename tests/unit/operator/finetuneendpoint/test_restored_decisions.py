"""An endpoint whose status was lost goes on as the decisions beside its versions say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from finetune_api.protocol.serving import RecordReport, StoredDecisions
from kit.builders.endpoints import (
    NAME,
    ROLLOUT,
    EndpointWorld,
    digest_of,
    manifest_digest_of,
    published_job,
)


def decisions_of(world: EndpointWorld) -> StoredDecisions:
    """Return what agents store of an endpoint."""
    status = world.status
    return StoredDecisions.model_validate(
        {
            "active": status["active"]["version"],
            "newest": status["newest"]["version"],
            "knownVersions": status["knownVersions"],
            "rejected": status.get("rejected", []),
            "time": status["decisions"][-1]["time"],
        }
    )


def tell(world: EndpointWorld, state: str, decisions: StoredDecisions | None = None, **more: str):
    """Let all server pods report the stored decisions of the endpoint."""
    world.facts.pop("servers", None)
    record = RecordReport(name=NAME, state=state, decisions=decisions, **more)  # type: ignore[arg-type]
    say(world, [record])


def say(world: EndpointWorld, records: list[RecordReport] | None) -> None:
    world.facts.pop("servers", None)
    world.facts["servers"] = tuple(
        replace(pod, report=pod.report.model_copy(update={"records": records}))
        for pod in world.observe().servers
        if pod.report is not None
    )


def lose_status(world: EndpointWorld) -> None:
    world.endpoint.pop("status")
    world.endpoint["metadata"]["generation"] = 1
    world.facts.clear()
    world.written_at = None


def after_a_rejection(**spec: object) -> EndpointWorld:
    """Return an endpoint with version 2, whose version 3 was refused."""
    world = EndpointWorld(published_job(2), **spec)
    world.run()
    world.job = published_job(3)
    world.answers[3] = ("Failed", "AnswersDiffer")
    world.run()
    assert world.versions() == (2, None, None)
    assert [each["version"] for each in world.status["rejected"]] == [3]
    return world


@pytest.mark.parametrize("job", [None, published_job(None)], ids=["no job", "it published nothing"])
def test_without_a_job_that_has_published_it_takes_the_status_to_find_the_version(
    job: dict[str, Any] | None,
) -> None:
    world = after_a_rejection()
    status = world.status
    world.job = job
    lose_status(world)
    world.run()
    reason = "NoVersion" if job else "JobNotFound"
    assert world.condition("Available") == ("False", reason)
    world.endpoint["metadata"]["uid"] = "uid-in-another-cluster"
    world.endpoint["status"] = status
    world.run()
    assert world.condition("Available") == ("True", "Serving")
    assert world.status["active"]["version"] == 2


def test_the_version_that_answered_answers_again_and_a_rejected_one_is_not_tried():
    world = after_a_rejection()
    stored = decisions_of(world)
    lose_status(world)
    world.answers.clear()
    world.look()
    assert world.versions() == (None, 3, None)
    tell(world, "Found", stored)
    world.run()
    assert world.versions() == (2, None, None)
    active = world.status["active"]
    assert active["sha256"] == manifest_digest_of(2)
    assert active["weightsSha256"] == digest_of(2)
    assert world.decided() == [(2, "Restored")]
    assert [each["version"] for each in world.status["rejected"]] == [3]
    assert world.condition("Recorded") == ("True", "Restored")
    say(world, [])
    world.run(5)
    assert world.versions() == (2, None, None)
    assert world.condition("Recorded") == ("True", "Recorded")
    assert decisions_of(world).known_versions == stored.known_versions


def test_a_newer_version_takes_its_steps_against_the_one_that_answered():
    world = EndpointWorld(published_job(2), rollout=ROLLOUT)
    world.run()
    stored = decisions_of(world)
    lose_status(world)
    world.job = published_job(3)
    world.look()
    tell(world, "Found", stored)
    world.run()
    assert world.versions() == (2, 3, None)
    assert world.status["candidate"]["weight"] <= 5


def test_a_smaller_version_does_not_take_over_below_the_newest_on_record():
    world = EndpointWorld(published_job(3))
    world.run()
    stored = decisions_of(world)
    lose_status(world)
    world.job = published_job(1)
    world.look()
    tell(world, "Found", stored)
    world.run(5)
    assert world.versions() == (3, None, None)
    assert world.status["active"]["sha256"] == manifest_digest_of(3)


def test_the_pin_of_the_spec_comes_before_the_stored_version():
    world = EndpointWorld(published_job(3))
    world.run()
    stored = decisions_of(world)
    lose_status(world)
    world.edit(version=2)
    world.look()
    tell(world, "Found", stored)
    world.run()
    assert world.versions() == (2, None, 3)
    assert world.decided()[0] == (3, "Restored")


def test_no_version_takes_over_before_the_stored_decisions_were_read():
    world = EndpointWorld(published_job(1))
    world.look()
    tell(world, "Reading", reason="StorageUnavailable", message="timed out")
    world.run(5)
    assert world.versions() == (None, 1, None)
    assert world.condition("Verified") == ("Unknown", "DecisionsUnread")
    say(world, [])
    world.run()
    assert world.versions() == (None, 1, None)
    tell(world, "Absent")
    world.run()
    assert world.versions() == (1, None, None)
    assert world.condition("Recorded") == ("True", "Recorded")


def test_agents_that_store_no_decisions_are_not_waited_for():
    world = EndpointWorld(published_job(1))
    world.look()
    say(world, None)
    world.run()
    assert world.versions() == (1, None, None)


def test_storage_that_refuses_is_told_and_serving_goes_on():
    world = EndpointWorld(published_job(1))
    world.look()
    tell(world, "Failed", reason="AccessDenied", message="not allowed")
    world.run()
    assert world.versions() == (1, None, None)
    assert world.condition("Recorded") == ("False", "AccessDenied")
    assert world.condition("Available") == ("True", "Serving")
    say(world, [])
    world.run()
    assert world.condition("Recorded") == ("True", "Recorded")


@pytest.mark.parametrize("change", ["weights", "unknown"])
def test_a_stored_version_whose_content_is_not_known_does_not_answer_unasked(change):
    world = EndpointWorld(published_job(1))
    world.run()
    stored = decisions_of(world)
    (known,) = stored.known_versions
    forged = known.model_copy(update={"weights_sha256": digest_of(9)})
    if change == "unknown":
        forged = known.model_copy(update={"sha256": None})
    lose_status(world)
    world.answers[1] = ("Verifying", "")
    world.look()
    tell(world, "Found", stored.model_copy(update={"known_versions": [forged]}))
    world.run()
    assert world.versions() == (None, 1, None)
    assert world.status["candidate"]["weightsSha256"] == digest_of(1)


def test_a_status_that_has_a_version_takes_nothing_from_storage():
    world = EndpointWorld(published_job(1))
    world.run()
    other = decisions_of(world).model_copy(update={"active": 7, "newest": 9})
    tell(world, "Found", other)
    world.run()
    assert world.versions() == (1, None, None)
    assert world.status["newest"]["version"] == 1
