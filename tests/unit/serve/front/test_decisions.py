"""The pure parts of the front: routes, rotation, counts, limits, and what an answer tells."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.serve.front.answers import HEAD_BYTES, Facts, Watched, wants_json
from finetune_trainer.serve.front.limits import MAX_BUCKETS, Limits
from finetune_trainer.serve.front.rotation import (
    Failure,
    Health,
    choose,
    failure_of,
    number_of,
    sticky_key,
)
from finetune_trainer.serve.front.routes import (
    Route,
    Served,
    find_route,
    read_route,
    read_routes,
)
from finetune_trainer.serve.front.server import read_settings
from finetune_trainer.serve.front.tallies import MAX_STREAMS, Tallies
from kit.servers.running_front import access, endpoint, served

URL = "http://{server}:8000"
V1 = Served(version=1, adapter="team-a.headline-v1", url="http://one")
V2 = Served(version=2, adapter="team-a.headline-v2", url="http://two")


def route(weight: float) -> Route:
    return Route(
        name="headline", namespace="a", active=V1, candidate=V2, weight=weight, rollout="r1"
    )


@given(
    user=st.text(min_size=1, max_size=40),
    weights=st.lists(st.integers(0, 100), min_size=2, max_size=5),
)
def test_a_user_who_met_the_candidate_stays_with_it_while_the_weight_grows(
    user: str, weights: list[int]
) -> None:
    key = sticky_key({"user": user})
    assert key is not None
    number = number_of("r1", key)
    met = [choose(route(weight), Health(), number) == V2 for weight in sorted(weights)]
    assert met == sorted(met)
    assert choose(route(0), Health(), number) == V1
    assert choose(route(100), Health(), number) == V2


def test_the_candidate_gets_its_share_and_rollouts_choose_anew() -> None:
    keys = [sticky_key({"user": f"u{number}"}) for number in range(4000)]
    first = [number_of("r1", key) < 0.25 * 2**64 for key in keys if key]
    second = [number_of("r2", key) < 0.25 * 2**64 for key in keys if key]
    assert 0.22 < sum(first) / 4000 < 0.28
    both = sum(one and two for one, two in zip(first, second, strict=True))
    assert 0.04 < both / 4000 < 0.09


def test_later_turns_of_a_conversation_have_the_key_of_the_first() -> None:
    system = {"role": "system", "content": "Be brief."}
    first = [system, {"role": "user", "content": "Hello"}]
    later = [*first, {"role": "assistant", "content": "Hi"}, {"role": "user", "content": "More"}]
    other = [system, {"role": "user", "content": "Bye"}]
    assert sticky_key({"messages": first}) == sticky_key({"messages": later})
    assert sticky_key({"messages": first}) != sticky_key({"messages": other})
    assert sticky_key({"messages": first, "user": "a"}) == sticky_key({"user": "a"})
    assert sticky_key({"prompt": "x"}) != sticky_key({"user": "x"})
    assert sticky_key({"messages": "no list", "user": 3}) is None


@pytest.mark.parametrize(
    ("weight", "asked", "answers"),
    [(5, 2, V2), (5, 1, V1), (5, 7, V1), (0, 2, V1), (95, 1, V1)],
    ids=["candidate", "active", "neither", "candidate without weight", "active at a high weight"],
)
def test_the_choice_of_a_gateway_counts_among_versions_in_rotation(
    weight: int, asked: int, answers: Served
) -> None:
    for number in (0, 2**64 - 1):
        assert choose(route(weight), Health(), number, asked) == answers


def test_a_candidate_that_was_taken_out_is_not_asked_for_a_gateway_either() -> None:
    assert choose(route(50), Health(is_tripped=True), 0, 2) == V1


def test_only_a_gateway_names_versions_and_only_of_endpoints_behind_it() -> None:
    behind = replace(route(5), is_behind_gateway=True)
    assert find_route({"headline": behind}, "headline") == (behind, None)
    assert find_route({"headline": behind}, "headline@2") == (behind, 2)
    for model in ("headline@", "headline@two", "headline@-1", "headline@2\n", "other@2",
                  "headline@1@2", "team-a.headline-v2", "headline@1234567890"):  # fmt: skip
        assert find_route({"headline": behind}, model) == (None, None), model
    assert find_route({"headline": route(5)}, "headline@2") == (None, None)


@pytest.mark.parametrize(
    ("status", "failure"),
    [
        (200, None),
        (400, None),
        (429, None),
        (401, Failure.NOT_LOADED),
        (404, Failure.NOT_LOADED),
        (500, Failure.ERROR),
        (504, Failure.ERROR),
        (503, Failure.UNAVAILABLE),
    ],
)
def test_a_status_is_an_answer_or_a_failure(status: int, failure: Failure | None) -> None:
    assert failure_of(status) is failure


def test_failures_take_the_candidate_out_at_once_or_three_in_a_row() -> None:
    health = Health()
    assert health.fail(Failure.ERROR, shares_server=False)
    assert health.fail(Failure.NOT_LOADED, shares_server=True)
    health.succeed()
    assert not health.fail(Failure.UNREACHABLE, shares_server=True)
    assert not health.is_tripped
    for _ in range(3):
        health.fail(Failure.ERROR, shares_server=True)
    assert health.is_tripped
    assert choose(route(100), health, 0) == V1
    other = Health()
    other.fail(Failure.UNREACHABLE, shares_server=False)
    assert other.is_tripped


def test_an_endpoint_is_read_and_a_broken_one_keeps_its_route() -> None:
    found = endpoint(
        served(1, "one"),
        served(2, "two"),
        weight=5,
        access=access("keys", 60),
        rollout={"latencySeconds": "2.5"},
        shadow={"percent": 10},
    )
    read = read_route(found, server_url=URL)
    assert (read.weight, read.rollout, read.secret, read.requests_per_minute) == (
        5.0,
        "r1",
        "keys",
        60,
    )
    assert (read.slow_seconds, read.shadow_percent) == (2.5, 10.0)
    assert read.candidate == Served(version=2, adapter="team-a.headline-v2", url="http://two:8000")
    assert not read.shares_server
    broken = {**found, "status": {"active": {"version": "two"}}}
    assert read_routes({"headline": broken}, {"headline": read}, server_url=URL)["headline"] is read
    assert read_routes({"headline": broken}, {}, server_url=URL) == {}


@pytest.mark.parametrize("keys", [{}, {"secretRef": {}}, {"secretRef": None}])
def test_keys_from_nowhere_open_to_nobody(keys: dict[str, object]) -> None:
    read = read_route(endpoint(served(1, "one"), access={"keysFrom": keys}), server_url=URL)
    assert read.secret == ""
    assert read_route(endpoint(served(1, "one")), server_url=URL).secret is None


def test_a_candidate_that_is_not_verified_gets_no_copies() -> None:
    unverified = {**served(2, "two"), "verifiedTime": None}
    found = endpoint(served(1, "one"), unverified, weight=0, shadow={"percent": 10})
    assert read_route(found, server_url=URL).shadow_percent == 0


def tally(
    tallies: Tallies,
    number: int,
    sender: str,
    *bad: str,
    weight: int = 5,
    rollout: str = "r1",
    most: int = 1000,
    is_candidate: bool = True,
) -> None:
    tallies.count(
        rollout=rollout,
        weight=weight,
        is_candidate=is_candidate,
        number=number,
        sender=sender,
        most=most,
        bad=bad,
    )


def test_neither_made_up_users_nor_made_up_senders_are_more_evidence() -> None:
    tallies = Tallies()
    tallies.begin("r1")
    for number in range(10):
        tally(tallies, number, "one key", "errors", is_candidate=number % 2 == 0)
        tally(tallies, 77, f"key {number}", "slow")
    tally(tallies, 1, "other key", "errors")
    (stream,) = tallies.report()
    assert stream["candidate"] == {**ZEROS, "requests": 16, "errors": 2, "slow": 1}
    assert stream["active"] == {**ZEROS, "requests": 5}


def test_of_one_sender_a_stream_counts_a_limited_number_of_requests() -> None:
    tallies = Tallies()
    tallies.begin("r1")
    for number in range(10):
        for weight in (5, 25):
            tally(tallies, number, "a", weight=weight, most=3)
            tally(tallies, number, "a", weight=weight, most=3, is_candidate=False)
    tally(tallies, 11, "b", most=3)
    counts = [
        (each["active"]["requests"], each["candidate"]["requests"]) for each in streams(tallies)
    ]
    assert counts == [(3, 4), (3, 3)]


def streams(tallies: Tallies) -> list[dict[str, dict[str, int]]]:
    return tallies.report()  # type: ignore[return-value]


ZEROS = dict.fromkeys(("requests", "errors", "slow", "refusals", "invalidJson", "thumbsDown"), 0)


def test_a_bad_event_counts_once_for_each_key_and_rollout() -> None:
    tallies = Tallies()
    tallies.begin("r1")

    def count(number: int, *bad: str, weight: int = 5, rollout: str = "r1") -> None:
        tally(tallies, number, f"s{number}", *bad, weight=weight, rollout=rollout)

    for weight in (5, 5, 25):
        count(7, "errors", weight=weight)
    count(8, "errors", "slow")
    count(9, "errors", rollout="r0")
    first, second = (stream["candidate"] for stream in tallies.report())
    assert (first["requests"], first["errors"], first["slow"]) == (3, 2, 1)
    assert (second["requests"], second["errors"]) == (1, 0)
    tallies.begin("r1")
    assert tallies.report()
    tallies.begin("r2")
    assert tallies.report() == []
    for weight in range(100):
        count(1, weight=weight, rollout="r2")
    assert len(tallies.report()) == MAX_STREAMS


def test_a_bucket_fills_again_and_there_are_not_too_many() -> None:
    limits = Limits()
    sender = ("headline", "key")
    assert [limits.wait_of(sender, per_minute=2, now=0) for _ in range(2)] == [0, 0]
    assert limits.wait_of(sender, per_minute=2, now=0) == 30
    assert limits.wait_of(sender, per_minute=2, now=20) == pytest.approx(10)
    assert limits.wait_of(sender, per_minute=2, now=30) == 0
    assert limits.wait_of(sender, per_minute=2, now=31) == 29
    for number in range(MAX_BUCKETS + 5):
        limits.wait_of(("headline", str(number)), per_minute=2, now=32)
    assert len(limits._buckets) == MAX_BUCKETS


def plain(**message: object) -> list[bytes]:
    choice = {"index": 0, "message": message, "finish_reason": "stop"}
    usage = {"prompt_tokens": 5, "completion_tokens": 2}
    return [json.dumps({"choices": [choice], "usage": usage}).encode()]


def streamed(*texts: str, **last: object) -> list[bytes]:
    events = [{"choices": [{"index": 0, "delta": {"content": text}}]} for text in texts]
    written = (json.dumps(each).encode() for each in [*events, {"choices": [], **last}])
    return [*(b"data: %b\n\n" % each for each in written), b"data: [DONE]\n\n"]


USAGE = {"prompt_tokens": 5, "completion_tokens": 2}
TOKENS = {"num_input_tokens": 5, "num_output_tokens": 2}


@pytest.mark.parametrize(
    ("pieces", "facts"),
    [
        (plain(content='{"a": 1}'), Facts(**TOKENS)),
        (plain(content="no json"), Facts(is_invalid_json=True, **TOKENS)),
        (plain(content=None, tool_calls=[]), Facts(**TOKENS)),
        (plain(content=None, refusal="no"), Facts(is_refusal=True, **TOKENS)),
        (
            plain(content="I cannot help with that."),
            Facts(is_refusal=True, is_invalid_json=True, **TOKENS),
        ),
        ([b"no json at all"], Facts()),
        ([b'{"choices": []}'], Facts()),
        (streamed('{"a"', ": 1}", usage=USAGE), Facts(**TOKENS)),
        (streamed('{"a"', ": 1"), Facts(is_invalid_json=True)),
        (
            streamed("I cannot ", "help with that.", usage=USAGE),
            Facts(is_refusal=True, is_invalid_json=True, **TOKENS),
        ),
        (streamed("x", error={"message": "m"}), Facts(is_error=True)),
        (streamed(*["y" * 100] * 3000, usage=USAGE), Facts(**TOKENS)),
        (streamed(*["y" * 100] * 3000, error={"message": "m"}), Facts(is_error=True)),
    ],
)
@pytest.mark.parametrize("size", [7, 4000])
def test_an_answer_tells_the_same_however_it_was_cut_into_pieces(
    pieces: list[bytes], facts: Facts, size: int
) -> None:
    whole = b"".join(pieces)
    watched = Watched(is_stream=whole.startswith(b"data:"), wants_json=True)
    for begin in range(0, len(whole), size):
        watched.take(whole[begin : begin + size])
    assert watched.conclude() == facts


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize(("reason", "is_invalid"), [("length", False), ("stop", True)])
def test_json_that_the_callers_limit_cuts_off_is_not_the_versions_fault(
    is_stream: bool, reason: str, is_invalid: bool
) -> None:
    part = "delta" if is_stream else "message"
    choice = {"index": 0, part: {"content": '{"a'}, "finish_reason": reason}
    wire = json.dumps({"choices": [choice]}).encode()
    watched = Watched(is_stream=is_stream, wants_json=True)
    watched.take(b"data: %b\n\n" % wire if is_stream else wire)
    assert watched.conclude().is_invalid_json is is_invalid


def test_an_answer_that_the_caller_stops_need_not_be_json() -> None:
    asked = {"response_format": {"type": "json_object"}}
    assert wants_json(asked)
    assert not wants_json({**asked, "stop": ["}"]})


def test_little_of_a_long_answer_is_kept() -> None:
    watched = Watched(is_stream=True, wants_json=False)
    for _ in range(10_000):
        watched.take(b"data: " + b"x" * 1000 + b"\n\n")
    assert sum(map(len, watched._head)) + len(watched._tail) < 2 * HEAD_BYTES
    assert watched.num_events == 10_000


@pytest.mark.parametrize("given", ["0", "two", "-1"])
def test_a_wrong_number_of_fronts_is_named(given: str) -> None:
    arguments = argparse.Namespace(host="127.0.0.1", port=0, report_port=0)
    with pytest.raises(ValueError, match=f"FINETUNE_FRONTS is '{given}'"):
        read_settings(arguments, {"FINETUNE_FRONTS": given})
