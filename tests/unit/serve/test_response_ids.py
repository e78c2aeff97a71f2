"""A response id belongs to one endpoint, and tells whether its answer was to be captured."""

from __future__ import annotations

from datetime import UTC, datetime

from finetune_trainer.serve.response_ids import Secret
from finetune_trainer.traffic.places import read_id, time_of

TIME = datetime(2026, 11, 30, 4, 0, 29, tzinfo=UTC)
SECRET = Secret("token")


def test_an_id_tells_its_own_endpoint_from_others_and_whether_it_was_captured() -> None:
    for is_captured in (True, False):
        made = SECRET.make_id("team-a/headline", TIME, is_captured=is_captured)
        assert read_id(made) == made
        assert time_of(made) == TIME
        assert SECRET.has_captured("team-a/headline", made) is is_captured
        assert SECRET.has_captured("team-a/other", made) is None
        assert SECRET.has_captured("team-b/headline", made) is None
        assert Secret("other").has_captured("team-a/headline", made) is None


def test_no_two_ids_are_alike_and_a_changed_one_is_nobodys() -> None:
    made = SECRET.make_id("a/b", TIME, is_captured=True)
    assert made != SECRET.make_id("a/b", TIME, is_captured=True)
    assert SECRET.has_captured("a/b", made.replace("2026", "2025")) is None
    assert SECRET.has_captured("a/b", "") is None


def test_a_hash_of_a_person_needs_the_token_and_differs_by_endpoint() -> None:
    hashes = {
        SECRET.hash_person("a/b", "alice"),
        SECRET.hash_person("a/c", "alice"),
        SECRET.hash_person("a/b", "bob"),
        Secret("other").hash_person("a/b", "alice"),
    }
    assert len(hashes) == 4
    assert SECRET.hash_person("a/b", "alice") in hashes
