"""The pure parts of the front: routes, rotation, counts, limits, and what an answer tells."""

from __future__ import annotations

import base64
import json
import zlib
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_api.protocol.serving import (
    MAX_CELLS,
    MAX_CELLS_BEYOND,
    NUM_CELLS,
    NUM_USERS,
    OF_CANDIDATE,
    add_cell,
    read_cells,
    write_cells,
)
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
    read_route,
    read_routes,
)
from finetune_trainer.serve.front.tallies import MAX_STREAMS, Tallies, cell_of
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
    number = number_of("r1", "k", key)
    met = [choose(route(weight), Health(), number) == V2 for weight in sorted(weights)]
    assert met == sorted(met)
    assert choose(route(0), Health(), number) == V1
    assert choose(route(100), Health(), number) == V2


def test_the_candidate_gets_its_share_and_rollouts_choose_anew() -> None:
    keys = [sticky_key({"user": f"u{number}"}) for number in range(4000)]
    first = [number_of("r1", "k", key) < 0.25 * 2**64 for key in keys if key]
    second = [number_of("r2", "k", key) < 0.25 * 2**64 for key in keys if key]
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


@pytest.mark.parametrize("status", [204, 302, 206, 100])
def test_a_status_that_is_no_answer_is_an_error(status: int) -> None:
    assert failure_of(status) is Failure.ERROR
    assert Facts().bad_signals(status=status, is_slow=False) == ["errors"]


def test_failures_for_three_users_in_a_row_take_the_candidate_out_if_the_active_answers() -> None:
    health = Health()
    for user in (1, 2, 2, 2):
        health.fail(Failure.ERROR, user, "a", now=0)
    assert not health.note_active(is_error=False, is_only_sender=True, now=1)
    health.fail(Failure.ERROR, 3, "a", now=1)
    assert not health.is_tripped
    assert health.note_active(is_error=False, is_only_sender=True, now=2)
    assert choose(route(100), health, 0) == V1


def test_one_of_several_senders_takes_no_candidate_out_alone() -> None:
    health = Health()
    for user in range(9):
        health.fail(Failure.ERROR, user, "a", now=0)
    assert not health.note_active(is_error=False, is_only_sender=False, now=1)
    health.fail(Failure.ERROR, 9, "b", now=1)
    assert health.note_active(is_error=False, is_only_sender=False, now=2)


def test_an_answer_of_the_candidate_ends_a_row_of_failures() -> None:
    health = Health()
    for user in (1, 2):
        health.fail(Failure.ERROR, user, "a", now=0)
    health.succeed()
    health.fail(Failure.ERROR, 3, "a", now=0)
    assert not health.note_active(is_error=False, is_only_sender=True, now=1)


def test_a_server_that_cannot_be_reached_takes_the_candidate_out_at_once() -> None:
    health = Health()
    health.fail(Failure.UNREACHABLE, 1, "a", now=0)
    assert health.note_active(is_error=False, is_only_sender=True, now=0)


def test_an_outage_of_both_versions_takes_nobody_out() -> None:
    health = Health()
    assert not health.note_active(is_error=True, is_only_sender=True, now=100)
    for user in range(9):
        health.fail(Failure.UNREACHABLE, user, "a", now=109)
    assert not health.note_active(is_error=False, is_only_sender=True, now=109)
    for user in range(9):
        health.fail(Failure.ERROR, user, "a", now=111)
    assert health.note_active(is_error=False, is_only_sender=True, now=111)


def test_an_endpoint_is_read_and_a_broken_one_keeps_its_route() -> None:
    found = endpoint(
        served(1, "one"),
        served(2, "two"),
        weight=5,
        access=access("keys", 60),
        rollout={"latencySeconds": "2.5"},
    )
    read = read_route(found, server_url=URL)
    assert (read.weight, read.rollout, read.secret, read.rate.requests) == (
        5.0,
        "r1",
        "keys",
        60,
    )
    assert read.slow_seconds == 2.5
    assert read.candidate == Served(version=2, adapter="team-a.headline-v2", url="http://two:8000")
    broken = {**found, "status": {"active": {"version": "two"}}}
    assert read_routes({"headline": broken}, {"headline": read}, server_url=URL)["headline"] is read
    assert read_routes({"headline": broken}, {}, server_url=URL) == {}


@pytest.mark.parametrize("keys", [{}, {"secretRef": {}}, {"secretRef": None}])
def test_keys_from_nowhere_open_to_nobody(keys: dict[str, object]) -> None:
    read = read_route(endpoint(served(1, "one"), access={"keysFrom": keys}), server_url=URL)
    assert read.secret == ""
    assert read_route(endpoint(served(1, "one")), server_url=URL).secret is None


def tally(
    tallies: Tallies,
    user: int,
    sender: str = "key",
    *bad: str,
    weight: int = 5,
    rollout: str = "r1",
    needed: int = 1000,
    is_only_sender: bool = False,
    is_candidate: bool = True,
) -> None:
    tallies.count(
        rollout=rollout,
        weight=weight,
        is_candidate=is_candidate,
        user=user,
        sender=sender,
        needed=needed,
        is_only_sender=is_only_sender,
        bad=bad,
    )


def begun(rollout: str = "r1") -> Tallies:
    tallies = Tallies()
    tallies.begin(rollout)
    return tallies


def events(tallies: Tallies, signal: str = "errors") -> tuple[int, int]:
    """Return how many users had a bad answer of the active version, and of the candidate."""
    marks = tallies.events.get(signal, {}).values()
    num_new = sum(mark >= OF_CANDIDATE for mark in marks)
    return len(marks) - num_new, num_new


def test_a_user_counts_once_for_each_kind_and_users_of_one_key_count_each() -> None:
    tallies = begun()
    for weight in (5, 5, 25):
        tally(tallies, 7, "key", "errors", weight=weight)
    tally(tallies, 8, "key", "errors", "slow")
    tally(tallies, 9, "key", "errors", is_candidate=False)
    tally(tallies, 7, "other", "errors")
    tally(tallies, 10, "key", "errors", rollout="r0")
    assert (events(tallies), events(tallies, "slow")) == ((1, 3), (0, 1))


def test_two_fronts_note_a_user_in_one_cell() -> None:
    one, other = begun(), begun()
    tally(one, 7, "key", "errors")
    tally(other, 7, "key", "errors")
    assert one.events == other.events
    assert begun("r2").events == {}


@pytest.mark.parametrize("num_keys", [1, 2])
def test_an_outage_uses_up_nobodys_error_and_fills_no_step(num_keys: int) -> None:
    tallies = begun()
    for user in range(500):
        tally(tallies, user, f"key-{user % num_keys}", "errors", is_candidate=user % 20 == 0)
    assert sum(events(tallies)) <= 12
    num_asked = tallies.streams[5].candidate.asked
    for user in range(500, 530):
        tally(tallies, user, "key", is_candidate=False)
    for user in range(100, 120):
        tally(tallies, user, "key-0", *(["errors"] if user % 4 == 0 else []))
    assert events(tallies)[1] >= 5
    assert tallies.streams[5].candidate.asked == num_asked + 20


@pytest.mark.parametrize("is_only_sender", [False, True])
@pytest.mark.parametrize("weight", [5, 50])
def test_one_who_floods_with_bad_answers_hides_no_harm_to_others(
    weight: int, is_only_sender: bool
) -> None:
    tallies, others = begun(), ["", ""] if is_only_sender else ["a", "b"]
    flood = partial(tally, tallies, weight=weight, is_only_sender=is_only_sender)
    for user in range(200):
        for number in range(19):
            flood(-1, "" if is_only_sender else "liar", "refusals", is_candidate=number % 2 == 0)
        flood(user, others[user % 2], *["refusals"] * (user % 5 == 0))
    own = {cell_of("r1", "" if is_only_sender else "liar", -1)}
    assert len(tallies.events["refusals"].keys() - own) >= 30


def test_failures_of_a_hanging_candidate_that_end_together_are_no_outage() -> None:
    tallies = begun()
    for user in range(1000):
        is_new = user % 60 < 30
        tally(tallies, user, f"key-{user % 3}", *["slow"] * is_new, is_candidate=is_new, weight=50)
    assert events(tallies, "slow")[0] == 0
    assert events(tallies, "slow")[1] > 200


def test_a_candidate_that_always_fails_is_no_outage() -> None:
    for weight in (5, 25, 50):
        tallies = begun()
        for user in range(1000):
            is_new = user * 37 % 100 < weight
            tally(tallies, user, "key", *["errors"] * is_new, is_candidate=is_new, weight=weight)
        assert events(tallies)[0] == 0
        assert events(tallies)[1] > 6 * weight


def test_requests_of_one_user_and_of_one_sender_count_in_part() -> None:
    tallies = begun()
    for user in range(60):
        for _ in range(5):
            tally(tallies, user, "a", needed=80)
            tally(tallies, user, "only", needed=80, is_only_sender=True, weight=25)
    one, other = tallies.streams[5].candidate, tallies.streams[25].candidate
    assert (one.requests, one.asked, one.users) == (40, 300, 60)
    assert (other.requests, other.asked, other.users) == (80, 300, 60)


def test_streams_are_bounded_and_go_with_their_rollout() -> None:
    tallies = begun()
    tally(tallies, 1)
    tallies.begin("r1")
    assert tallies.streams
    tallies.begin("r2")
    assert tallies.streams == {}
    for weight in range(1, 100):
        tally(tallies, 1, weight=weight, rollout="r2")
    assert len(tallies.streams) == MAX_STREAMS


@given(st.dictionaries(st.integers(0, NUM_CELLS - 1), st.integers(1, 99), max_size=700))
def test_cells_are_read_as_they_were_written(marks: dict[int, int]) -> None:
    cells = {key: mark + OF_CANDIDATE * (key % 3 == 0) for key, mark in marks.items()}
    assert read_cells(write_cells(cells)) == cells


@pytest.mark.parametrize(
    "data", [b"", b"x", b"\x01", b"\x01\x64", b"\x00\x05", b"\xff\xff\x05", b"\xfe" * 300]
)
def test_what_a_pod_makes_up_is_no_cells(data: bytes) -> None:
    with pytest.raises(ValueError, match="cells"):
        read_cells(base64.b64encode(zlib.compress(data + b"\0" * (not data))).decode())


@pytest.mark.parametrize("text", ["", "!", "AAAA", base64.b64encode(b"x" * 50).decode()])
def test_what_is_not_packed_is_no_cells(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of zlib or of base64
        read_cells(text)


def test_a_bomb_is_not_unpacked() -> None:
    with pytest.raises(ValueError, match="cells"):
        read_cells(base64.b64encode(zlib.compress(b"\x01" * 10**8, 9)).decode())


def test_a_sender_who_fills_the_table_leaves_room_for_others() -> None:
    cells: dict[int, int] = {}
    for cell in range(NUM_USERS * 2):
        add_cell(cells, cell, 5)
    assert len(cells) <= MAX_CELLS + 2 * MAX_CELLS_BEYOND
    for cell in range(40 * NUM_USERS, 41 * NUM_USERS):
        add_cell(cells, cell, 5)
    assert sum(cell // NUM_USERS == 40 for cell in cells) == MAX_CELLS_BEYOND


def test_a_bucket_fills_again_and_there_are_not_too_many() -> None:
    limits, whose = Limits(), ("headline", "key", "tokens")

    def look(now: float, per_minute: int = 2) -> tuple[float, float, float]:
        left = limits.look(whose, per_minute=per_minute, now=now)
        return left.level, left.wait_seconds, left.reset_seconds

    assert look(0) == (2, 0, 0)
    limits.spend(whose, 2)
    assert look(0) == (0, 30, 60)
    assert look(20) == pytest.approx((2 / 3, 10, 40))
    assert look(30) == pytest.approx((1, 0, 30))
    limits.spend(whose, 11)
    assert look(30) == pytest.approx((-10, 330, 360))
    assert look(330) == pytest.approx((0, 30, 60))
    assert look(10_000) == (2, 0, 0)
    limits.spend(whose, 5)
    limits.spend(whose, -5)
    assert look(10_000, per_minute=1) == (1, 0, 0)
    for number in range(MAX_BUCKETS + 5):
        limits.look(("headline", str(number), "tokens"), per_minute=2, now=32)
    assert len(limits._buckets) == MAX_BUCKETS
    limits.spend(whose, 1)
    assert whose not in limits._buckets


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
        ([b"no json at all"], Facts(is_error=True)),
        ([b""], Facts(is_error=True)),
        ([b"<html>" + b" " * 2 * HEAD_BYTES], Facts(is_error=True)),
        ([b'{"choices": null}'], Facts(is_error=True)),
        ([b'{"choices": [{}]}'], Facts(is_error=True)),
        ([b"{}"], Facts(is_error=True)),
        (streamed("cut")[:-1], Facts(is_error=True)),
        ([b"data: x"], Facts(is_error=True)),
        ([b'{"choices": []}'], Facts(is_error=True)),
        (streamed('{"a"', ": 1}", usage=USAGE), Facts(**TOKENS)),
        (streamed('{"a"', ": 1"), Facts(is_invalid_json=True)),
        (
            streamed("I cannot ", "help with that.", usage=USAGE),
            Facts(is_refusal=True, is_invalid_json=True, **TOKENS),
        ),
        (
            streamed("{}", usage={"prompt_tokens": -3, "completion_tokens": 2**63}),
            Facts(),
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


NO = "I cannot help with that."


@pytest.mark.parametrize(
    ("texts", "reasons", "facts"),
    [
        (["{}", "{}"], ["stop", "stop"], Facts()),
        (["{}", NO], ["stop", "length"], Facts(is_refusal=True)),
        (["{}", "{", "{}"], ["stop", "stop", "length"], Facts(is_invalid_json=True)),
        (["{}", "{"], ["stop", "length"], Facts()),
    ],
)
@pytest.mark.parametrize("form", ["plain", "text", "long", "stream"])
def test_an_answer_is_bad_if_one_of_its_choices_is(
    texts: list[str], reasons: list[str], facts: Facts, form: str
) -> None:
    said = list(zip(range(len(texts)), texts, reasons, strict=True))
    if form == "stream":
        # The choices come in turn, a piece of each.
        pieces = [
            (n, {"content": c}, None) for k in range(30) for n, t, _ in said for c in t[k : k + 1]
        ]
        pieces += [(n, {}, reason) for n, _, reason in said]
        events = [
            {"choices": [{"index": n, "delta": delta, "finish_reason": reason}]}
            for n, delta, reason in pieces
        ]
        wire = b"".join(b"data: %b\n\n" % json.dumps(each).encode() for each in events)
    else:
        choices = [
            {
                "index": n,
                **({"text": t} if form == "text" else {"message": {"content": t}}),
                "finish_reason": r,
            }
            for n, t, r in said
        ]
        more = "x" * 2 * HEAD_BYTES if form == "long" else ""
        wire = json.dumps({"choices": choices, "more": more}).encode()
    watched = Watched(is_stream=form == "stream", wants_json=True)
    for begin in range(0, len(wire), 4000):
        watched.take(wire[begin : begin + 4000])
    found = watched.conclude()
    if form == "long" and "length" in reasons:
        # Which of them was cut off is not known then.
        facts = replace(facts, is_invalid_json=False)
    assert found == facts


@pytest.mark.parametrize("choices", [["text"], [{"text": "a"}, {}], [{"text": "a"}, None]])
def test_an_answer_with_a_choice_that_is_none_is_an_error(choices: list[object]) -> None:
    watched = Watched(is_stream=False, wants_json=False)
    watched.take(json.dumps({"choices": choices}).encode())
    assert watched.conclude() == Facts(is_error=True)


@pytest.mark.parametrize("reason", ["stop", "length"])
@pytest.mark.parametrize(
    ("part", "facts"),
    [
        ({"message": {"role": "assistant", "content": '{"a": 1}'}}, Facts(**TOKENS)),
        (
            {"message": {"content": "I'm sorry, but I can't help with that."}},
            Facts(is_refusal=True, is_invalid_json=True, **TOKENS),
        ),
        ({"message": {"content": None, "refusal": "no"}}, Facts(is_refusal=True, **TOKENS)),
        ({"text": "no JSON"}, Facts(is_invalid_json=True, **TOKENS)),
        ({"text": "x" * 100_000}, Facts(**TOKENS)),
        ({"text": '"usage": {"prompt_tokens": 9}, "finish_reason": "length"'}, None),
    ],
)
def test_start_and_end_of_a_long_answer_tell_what_a_short_one_tells(
    part: dict[str, Any], facts: Facts | None, reason: str
) -> None:
    logprobs = {"content": [{"token": "usage", "logprob": -0.5}] * 5000}
    choice = {"index": 0, **part, "logprobs": logprobs, "finish_reason": reason}
    wire = json.dumps({"id": "1", "choices": [choice], "usage": USAGE, "more": None}).encode()
    watched = Watched(is_stream=False, wants_json=True)
    for begin in range(0, len(wire), 4000):
        watched.take(wire[begin : begin + 4000])
    wanted = Facts(is_invalid_json=True, **TOKENS) if facts is None else facts
    is_invalid = wanted.is_invalid_json and reason == "stop"
    assert watched.conclude() == replace(wanted, is_invalid_json=is_invalid)


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
