"""Looks over a store: each answer counts once, and only those of the version that is watched."""

from __future__ import annotations

import random
import tracemalloc
from datetime import UTC, datetime, timedelta
from pathlib import Path

import orjson
import pytest

from finetune_api.protocol.monitoring import SETTLING
from finetune_trainer.errors import StorageError
from finetune_trainer.monitor.looking import Look, Settings
from finetune_trainer.monitor.material import rows_of_evaluation, rows_of_training
from finetune_trainer.monitor.reference import Reference, make_reference
from finetune_trainer.monitor.running import EVIDENCE_KEY, REPORT_KEY, look_once
from finetune_trainer.storage import ObjectStore
from finetune_trainer.traffic.places import segment_key
from finetune_trainer.traffic.reading import open_traffic
from finetune_trainer.traffic.rows import Exchange, write_exchange

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
SETTINGS = Settings(min_answers=20)
THINGS = ["coat", "hat", "glove", "scarf"]


def prompt(rng: random.Random) -> str:
    return f"a {rng.choice(THINGS)} of number {rng.randrange(50)}"


@pytest.fixture(scope="module")
def reference() -> Reference:
    rng = random.Random(1)
    trained = [
        {"prompt": prompt(rng), "completion": "Fine.", "metadata": {"group": f"g{number}"}}
        for number in range(400)
    ]
    samples = [
        orjson.dumps({"prompt": "a", "tuned": rng.choice(["good", "bad"]), "group": f"e{number}"})
        for number in range(200)
    ]
    return make_reference([*rows_of_training(trained), *rows_of_evaluation(samples)])


@pytest.fixture
def store(tmp_path: Path) -> ObjectStore:
    return open_traffic(tmp_path.as_uri(), "shop", "copy")


def capture(
    store: ObjectStore, hour: int, *, version: int = 1, answer: str = "", words: str = ""
) -> None:
    """Store 40 answers of 40 users, given in the first minutes of an hour."""
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
        for number in range(40)
    ]
    key = segment_key(
        rows[0].time, rows[-1].time, num_rows=len(rows), writer=f"w{version}", number=1
    )
    store.write_bytes(key, b"".join(map(write_exchange, rows)))


def look(store: ObjectStore, reference: Reference, hours: float, version: int = 1) -> Look | None:
    now = START + hours * HOUR + SETTLING
    return look_once(store, reference, SETTINGS, version=version, since=START, now=now)


def test_each_answer_of_the_version_counts_once(store: ObjectStore, reference: Reference) -> None:
    capture(store, 0)
    capture(store, 0, version=2)
    first = look(store, reference, 1)
    assert first is not None
    assert first.evidence.num_answers == 40
    assert look(store, reference, 1.5) is None
    capture(store, 1)
    second = look(store, reference, 2)
    assert second is not None
    assert (second.evidence.num_looks, second.evidence.num_answers) == (2, 80)
    assert {seen.num_users for seen in second.seen.values()} == {40}


def test_a_look_that_was_cut_off_is_made_again(store: ObjectStore, reference: Reference) -> None:
    capture(store, 0)
    look(store, reference, 1)
    evidence = store.read_bytes(EVIDENCE_KEY)
    store.delete(EVIDENCE_KEY)  # as if it had never been written
    look(store, reference, 1)
    assert store.read_bytes(EVIDENCE_KEY) == evidence


def test_few_answers_wait_for_the_next_look(store: ObjectStore, reference: Reference) -> None:
    few = Settings(min_answers=60)
    capture(store, 0)
    first = look_once(store, reference, few, version=1, since=START, now=START + HOUR + SETTLING)
    assert first is not None
    assert (first.num_waiting, first.evidence.num_looks) == (40, 0)
    capture(store, 1)
    second = look_once(
        store, reference, few, version=1, since=START, now=START + 2 * HOUR + SETTLING
    )
    assert second is not None
    assert second.evidence.num_answers == 80


def test_looks_after_an_outage_make_up_for_it_one_by_one(
    store: ObjectStore, reference: Reference
) -> None:
    for hour in range(10):
        capture(store, hour)
    some = Settings(min_answers=20, max_answers=130)
    for number in range(1, 4):
        now = START + 20 * HOUR + SETTLING
        found = look_once(store, reference, some, version=1, since=START, now=now)
        assert found is not None
        assert found.evidence.until == START + 3 * number * HOUR
        assert found.evidence.num_answers == 120 * number
    last = look_once(store, reference, some, version=1, since=START, now=now)
    assert last is not None
    assert (last.evidence.until, last.evidence.num_answers) == (START + 20 * HOUR, 400)


def test_a_look_keeps_no_texts(store: ObjectStore, reference: Reference) -> None:
    words = 1500 * " and"
    for hour in range(15):
        capture(store, hour, words=f" {hour}{words}")
    tracemalloc.start()
    found = look(store, reference, 15)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert found is not None
    assert found.evidence.num_answers == 600
    assert most < 600 * len(words) / 2


def test_the_report_says_what_moved(store: ObjectStore, reference: Reference) -> None:
    for hour in range(6):
        capture(store, hour, answer="bad")
        look(store, reference, hour + 1)
    report = orjson.loads(store.read_bytes(REPORT_KEY))
    (alarm, *_) = report["alarms"]
    assert alarm["signal"] == "Labels"
    assert alarm["part"] in {"Labels/bad", "Labels/good"}
    assert alarm["since"] == "2026-01-01T00:00:00.000Z"
    assert alarm["logE"] >= report["logBound"]
    assert {each["name"] for each in report["signals"]} == {
        "Errors", "ThumbsDown", "PromptLength", "Vocabulary", "Language", "AnswerLength",
        "Refusals", "Labels",
    }  # fmt: skip
    parts = {each["name"]: each for each in report["parts"]}
    assert parts["Labels/bad"]["mean"] == 1.0 > parts["Labels/bad"]["high"]
    assert parts["PromptLength"]["low"] < parts["PromptLength"]["mean"]


def test_evidence_that_cannot_be_read_is_named(store: ObjectStore, reference: Reference) -> None:
    store.write_bytes(EVIDENCE_KEY, b"{")
    with pytest.raises(StorageError, match=r"evidence\.json") as caught:
        look(store, reference, 1)
    assert caught.value.reason == "DamagedEvidence"


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
    assert (row.answered.prompt, row.answered.answer, row.group) == ("hello", None, "g")
    (sample,) = rows_of_evaluation([b'{"prompt": "hello", "tuned": "yes", "group": "g"}'])
    assert (sample.answered.prompt, sample.answered.answer, sample.group) == (None, "yes", "g")
    with pytest.raises(ValueError, match="line 2"):
        rows_of_evaluation([b'{"tuned": "yes", "group": "g"}', b"{}"])
