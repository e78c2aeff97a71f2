"""Looks over a store: each answer counts once, and only those of the version that is watched."""

from __future__ import annotations

import random
import tracemalloc
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from finetune_api.protocol.monitoring import SETTLING
from finetune_trainer.errors import StorageError
from finetune_trainer.monitor.looking import Look, Settings
from finetune_trainer.monitor.material import rows_of_evaluation, rows_of_training
from finetune_trainer.monitor.running import REPORT_KEY, STATE_KEY, look_once
from finetune_trainer.monitor.signals import Signal, fit_signals
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import Exchange, write_exchange
from kit.serving.monitored import id_of

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = Settings(every=HOUR, window=HOUR, min_users=20)
THINGS = ["coat", "hat", "glove", "scarf"]


def prompt(rng: random.Random) -> str:
    return f"a {rng.choice(THINGS)} of number {rng.randrange(50)}"


@pytest.fixture(scope="module")
def signals() -> Mapping[str, Signal]:
    rng = random.Random(1)
    trained = [
        {"prompt": prompt(rng), "completion": "Fine.", "metadata": {"group": f"g{number}"}}
        for number in range(400)
    ]
    samples = [
        orjson.dumps({"prompt": "a", "tuned": rng.choice(["good", "bad"]), "group": f"e{number}"})
        for number in range(200)
    ]
    return fit_signals([*rows_of_training(trained), *rows_of_evaluation(samples)])


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_traffic(tmp_path.as_uri(), "shop", "copy")


def capture(
    store: ObjectStore, hour: int, *, version: int = 1, answer: str = "", words: str = ""
) -> None:
    """Store 100 answers of as many users, given in the first minutes of an hour."""
    rng = random.Random(hour)
    begin = START + hour * HOUR
    rows = [
        Exchange(
            id=f"{hour}-{version}-{number}",
            time=begin + timedelta(seconds=number),
            endpoint="copy",
            version=version,
            sha256="",
            request={"messages": [{"role": "user", "content": prompt(rng) + words}]},
            answer={"choices": [{"message": {"content": answer or rng.choice(["good", "bad"])}}]},
            latency_seconds=0.1,
            user=f"u{number}",
        )
        for number in range(100)
    ]
    key = segment_key(
        rows[0].time, rows[-1].time, num_rows=len(rows), writer=f"w{version}", number=1
    )
    store.write_bytes(key, b"".join(map(write_exchange, rows)))


def look(
    store: ObjectStore, signals: Mapping[str, Signal], hours: float, version: int = 1
) -> Look | None:
    now = START + hours * HOUR + SETTLING
    return look_once(store, signals, SETTINGS, version=version, since=START, now=now)


def test_only_answers_of_the_version_count(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    capture(store, 0)
    capture(store, 0, version=2)
    first = look(store, signals, 1)
    assert first is not None
    assert (first.state.num_answers, first.state.num_looks) == (100, 0)
    assert look(store, signals, 1.5) is None
    capture(store, 1)
    second = look(store, signals, 2)
    assert second is not None
    assert (second.state.num_looks, second.state.num_answers) == (1, 100)
    assert {len(part.now) for part in second.parts.values()} == {100}


def test_each_look_reads_its_whole_window(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    long = replace(SETTINGS, window=3 * HOUR)
    found = []
    for hour in range(7):
        capture(store, hour)
        now = START + (hour + 1) * HOUR + SETTLING
        told = look_once(store, signals, long, version=1, since=START, now=now)
        assert told is not None
        found.append((told.state.num_answers, told.state.num_looks))
    assert found == [(100, 0), (200, 0), (300, 0), (300, 0), (300, 0), (300, 1), (300, 2)]


def test_a_look_that_was_cut_off_is_made_again(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    capture(store, 0)
    look(store, signals, 1)
    state = store.read_bytes(STATE_KEY)
    store.delete(STATE_KEY)  # as if it had never been written
    look(store, signals, 1)
    assert store.read_bytes(STATE_KEY) == state


def test_the_reference_begins_with_the_first_captured_answer(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    long = replace(SETTINGS, window=3 * HOUR)
    capture(store, 5)
    ends = []
    for hour in range(6, 10):
        capture(store, hour)
        now = START + (hour + 1) * HOUR + SETTLING
        told = look_once(store, signals, long, version=1, since=START, now=now)
        assert told is not None
        ends.append(told.state.reference and told.state.reference.end)
    assert ends == [None, *[START + 8 * HOUR] * 3]


def test_another_version_gathers_a_reference_of_its_own(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    for hour in range(3):
        capture(store, hour)
        look(store, signals, hour + 1)
    capture(store, 3, version=2)
    since = START + 3 * HOUR
    now = START + 4 * HOUR + SETTLING
    told = look_once(store, signals, SETTINGS, version=2, of="2", since=since, now=now)
    assert told is not None
    assert told.state.reference is not None
    assert (told.state.reference.end, told.state.num_looks) == (START + 4 * HOUR, 0)


def test_a_reference_is_of_its_window_whatever_came_before(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    """Without a state the whole history is new, but only the window's share counts."""
    for hour in range(30):
        capture(store, hour)
    few = replace(SETTINGS, max_answers=100)
    now = START + 30 * HOUR + SETTLING
    told = look_once(store, signals, few, version=1, since=START, now=now)
    assert told is not None
    assert told.state.reference is not None
    assert (told.state.num_answers, told.state.reference.share) == (100, 1.0)


def test_windows_of_which_unequal_shares_were_read_are_not_compared(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    for hour in range(20):
        capture(store, hour)
    long = replace(SETTINGS, window=10 * HOUR)
    found = []
    for hours, most in ((10, 1000), (20, 500), (21, 900)):
        capture(store, hours)
        now = START + hours * HOUR + SETTLING
        settings = replace(long, max_answers=most)
        told = look_once(store, signals, settings, version=1, since=START, now=now)
        assert told is not None
        found.append((told.state.num_looks, "unequal" in told.state.note))
    assert found == [(0, False), (0, True), (1, False)]


def test_feedback_to_answers_before_the_window_is_not_read(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    long = replace(SETTINGS, window=60 * HOUR)
    capture(store, 99)
    store.write_bytes(f"feedback/{id_of(1, 0)}/1767230000000-ab12.json", b"damaged")
    now = START + 100 * HOUR + SETTLING
    told = look_once(store, signals, long, version=1, since=START, now=now)
    assert told is not None
    assert told.state.num_answers == 100


def test_a_look_keeps_no_texts(store: ObjectStore, signals: Mapping[str, Signal]) -> None:
    words = 60 * f" {99 * 'x'}"  # few and long: what is watched takes a time for each word
    for hour in range(15):
        capture(store, hour, words=f" {hour}{words}")
    tracemalloc.start()
    now = START + 15 * HOUR + SETTLING
    whole = replace(SETTINGS, window=15 * HOUR)
    found = look_once(store, signals, whole, version=1, since=START, now=now)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert found.state.num_answers == 1500
    assert most < 1500 * len(words) / 2


def test_the_report_says_what_moved(store: ObjectStore, signals: Mapping[str, Signal]) -> None:
    for hour in range(6):
        capture(store, hour, answer="bad" if hour > 3 else "")
        look(store, signals, hour + 1)
    report = orjson.loads(store.read_bytes(REPORT_KEY))
    (change, *_) = report["changes"]
    assert change["signal"] == "Labels"
    assert change["part"] in {"Labels/bad", "Labels/good"}
    assert (change["since"], change["until"]) == ("2026-01-01T05:00:00.000Z", None)
    assert {each["name"] for each in report["signals"]} == {
        "Errors", "ThumbsDown", "PromptLength", "Vocabulary", "Language", "AnswerLength",
        "Refusals", "Labels",
    }  # fmt: skip
    parts = {each["name"]: each for each in report["parts"]}
    assert parts["Labels/bad"]["mean"] == 1.0 > parts["Labels/bad"]["high"]
    assert parts["PromptLength"]["low"] < parts["PromptLength"]["mean"]


def test_a_state_that_cannot_be_read_is_named(
    store: ObjectStore, signals: Mapping[str, Signal]
) -> None:
    store.write_bytes(STATE_KEY, b"{")
    with pytest.raises(StorageError, match=r"state\.json") as caught:
        look(store, signals, 1)
    assert caught.value.reason == "DamagedState"


def test_training_gives_prompts_and_the_evaluation_gives_answers() -> None:
    chat = {
        "messages": [
            {"role": "system", "content": "be short"},
            {"role": "user", "content": "hello"},
            {"role": "assistant", "content": "good day"},
        ],
        "metadata": {"group": "g"},
    }
    (row,) = rows_of_training([chat, {"text": "a novel", "metadata": {"group": "n"}}])
    assert (row.prompt, row.answer) == ("hello", None)
    (sample,) = rows_of_evaluation([b'{"prompt": "hello", "tuned": "yes", "group": "g"}'])
    assert (sample.prompt, sample.answer) == (None, "yes")
    with pytest.raises(ValueError, match="line 2"):
        rows_of_evaluation([b'{"tuned": "yes"}', b"{}"])
