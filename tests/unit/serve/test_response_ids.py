"""A response id belongs to one endpoint, and tells whether its answer was to be captured."""

from __future__ import annotations

import hmac
from datetime import UTC, datetime

from finetune_trainer.serve.response_ids import make_id, was_captured
from finetune_trainer.traffic.places import id_time, read_id, time_of

TIME = datetime(2026, 11, 30, 4, 0, 29, tzinfo=UTC)


def test_an_id_tells_its_own_endpoint_from_others_under_every_token() -> None:
    for is_captured in (True, False):
        made = make_id("team-a/headline", TIME, is_captured=is_captured)
        assert read_id(made) == made
        assert time_of(made) == TIME
        for token in ("token", "another"):
            assert was_captured("team-a/headline", made, token) is is_captured
            assert was_captured("team-a/other", made, token) is None
            assert was_captured("team-b/headline", made, token) is None


def test_no_two_ids_are_alike_and_a_changed_one_is_nobodys() -> None:
    made = make_id("a/b", TIME, is_captured=True)
    assert made != make_id("a/b", TIME, is_captured=True)
    assert was_captured("a/b", made.replace("2026", "2025"), "token") is None
    assert was_captured("a/b", "", "token") is None


def test_an_id_that_was_made_with_the_token_is_known_as_long_as_the_token_is() -> None:
    begin = f"{id_time(TIME)}-{'0' * 22}"
    proof = hmac.digest(b"token", f"id\0a/b\0{begin}\x001".encode(), "sha256").hex()[:10]
    assert was_captured("a/b", f"{begin}-{proof}", "token") is True
    assert was_captured("a/b", f"{begin}-{proof}", "another") is None
