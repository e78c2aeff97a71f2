"""Each look at held-out prompts counts once, over all jobs, and what it may doubt adds up."""

from __future__ import annotations

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.protocol.evaluation_result import LookResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_api.v1alpha1.evaluation.spec import share_of_look
from finetune_trainer.data import looks as records
from finetune_trainer.data.looks import (
    MAX_DIGESTS,
    LookCount,
    digest_rows,
    next_look,
    read_held_out_prompts,
    share_seen,
)
from finetune_trainer.errors import StorageError
from finetune_trainer.evaluate import looks
from finetune_trainer.evaluate.looks import (
    count_look,
    look_words,
    name_look,
    take_look,
)
from finetune_trainer.storage import (
    AlreadyExists,
    Manifest,
    ManifestFile,
    ObjectStore,
    open_store,
)
from kit.cases.spec_cases import ANCHOR, changed, minimal_job

GOAL = {"metric": "exactMatch", "atLeast": "0.8"}


def job_with(**change: Any) -> ResolvedJob:
    spec = changed(minimal_job(), {"spec.goal": GOAL, **change})["spec"]
    return ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})


def adapter(weights: str, run: str = "r") -> Manifest:
    files = [
        ManifestFile(path="model.safetensors", num_bytes=1, sha256=weights * 64),
        ManifestFile(path="run.json", num_bytes=1, sha256=run * 64),
    ]
    return Manifest(files=tuple(files), created_by="a test", inputs={})


@pytest.mark.parametrize(
    ("one", "other", "is_same"),
    [
        ((job_with(), adapter("a"), "base"), (job_with(), adapter("a", "s"), "base"), True),
        ((job_with(), adapter("a"), "base"), (job_with(), adapter("b"), "base"), False),
        ((job_with(), adapter("a"), "base"), (job_with(), adapter("a"), "other"), False),
        (
            (job_with(), adapter("a"), "base"),
            (job_with(**{"spec.goal": {**GOAL, "atLeast": "0.7"}}), adapter("a"), "base"),
            False,
        ),
        (
            (job_with(), adapter("a"), "base"),
            (job_with(**{"spec.evaluation": {"minPrompts": 5}}), adapter("a"), "base"),
            False,
        ),
        (
            (job_with(), adapter("a"), "base"),
            (job_with(**{"spec.evaluation": {"looks": "Report"}}), adapter("a"), "base"),
            True,
        ),
    ],
    ids=["another run", "weights", "base", "goal", "evaluation", "what follows from the count"],
)
def test_a_look_is_one_candidate_against_one_goal_and_evaluation(
    one: tuple[ResolvedJob, Manifest, str], other: tuple[ResolvedJob, Manifest, str], is_same: bool
) -> None:
    names = [name_look(job, files, base=base) for job, files, base in (one, other)]
    assert (names[0] == names[1]) is is_same


def test_another_scoring_file_or_seed_is_another_look() -> None:
    known = name_look(job_with(), adapter("a"), base="base", rules=("1" * 64,))
    assert name_look(job_with(), adapter("a"), base="base", rules=("1" * 64,)) == known
    assert name_look(job_with(), adapter("a"), base="base", rules=("2" * 64,)) != known
    seeded = job_with(**{"spec.dataset.split": {"seed": 14}})
    assert name_look(seeded, adapter("a"), base="base", rules=("1" * 64,)) != known


def test_a_held_out_side_is_what_its_rows_say() -> None:
    rows = [{"prompt": str(i), "completion": "a", "metadata": {"line": i}} for i in range(3)]
    moved = [{**row, "metadata": {"line": 9}} for row in reversed(rows)]
    assert digest_rows(rows) == digest_rows(moved)
    assert digest_rows(rows) != digest_rows(rows[:2])
    assert digest_rows(rows) != digest_rows([*rows, rows[0]])


def rows_of(first: int, last: int) -> list[dict[str, Any]]:
    """Return held-out rows with these numbers, each with another question."""
    return [
        {
            "messages": [
                {"role": "user", "content": f"Which colour has item {n}?"},
                {"role": "assistant", "content": "blue" if n % 2 else "red"},
            ],
            "metadata": {"source": "f", "line": n},
        }
        for n in range(first, last)
    ]


ROWS = rows_of(0, 100)


def look(store: ObjectStore, rows: list[dict[str, Any]], name: str) -> int:
    return count_look(store, read_held_out_prompts(rows), name, {"job": name}).number


def edited(
    change: Callable[[list[dict[str, Any]]], object], rows: list[dict[str, Any]] = ROWS
) -> list[dict[str, Any]]:
    """Return the rows with the messages of each changed."""
    copied = copy.deepcopy(rows)
    for row in copied:
        change(row["messages"])
    return copied


def test_each_look_counts_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    assert [look(store, ROWS, name) for name in "abacb"] == [1, 2, 1, 3, 2]
    assert look(store, rows_of(100, 200), "a") == 1


@pytest.mark.parametrize(
    "rows",
    [
        ROWS[::-1],
        rows_of(0, 101),
        rows_of(1, 100),
        rows_of(1, 101),
        rows_of(90, 190),
        edited(lambda m: m[1].update(content="green")),
        edited(lambda m: m[0].update(content=m[0]["content"] + "  ")),
        edited(lambda m: m[0].update(content=m[0]["content"].upper())),
        edited(lambda m: m[0].update(content=m[0]["content"].replace("?", "."))),
        edited(lambda m: m[0].update(content=m[0]["content"].replace(" ", "\u00a0"))),
        edited(lambda m: m[0].update(content="Now answer: " + m[0]["content"] + " One word.")),
        edited(lambda m: m[1].update(weight=1)),
        edited(lambda m: m.insert(0, {"role": "system", "content": "You sort."})),
        edited(lambda m: m.insert(0, {"role": "user", "content": "Hello"})),
        [{"prompt": r["messages"][0]["content"], "completion": "a"} for r in ROWS],
    ],
    ids=[
        *("order", "a row more", "a row less", "a row exchanged", "nine tenths exchanged"),
        *("labels", "a blank", "case", "punctuation", "another blank", "template"),
        *("weight", "system message", "a turn before", "another shape"),
    ],
)
def test_a_changed_held_out_side_does_not_begin_the_count_anew(
    tmp_path: Path, rows: list[dict[str, Any]]
) -> None:
    store = open_store(str(tmp_path))
    for number in range(9):
        assert look(store, ROWS, f"w{number}") == number + 1
    assert look(store, rows, "new") == 10


def test_a_side_of_which_less_than_a_tenth_was_seen_is_counted_anew(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    look(store, ROWS, "a")
    assert look(store, rows_of(91, 191), "b") == 1
    assert look(store, rows_of(200, 300), "c") == 1
    assert look(store, rows_of(185, 285), "d") == 2  # 15 rows of c, 6 of b


def test_one_question_to_different_texts_is_no_common_prompt(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))

    def summaries(first: int) -> list[dict[str, Any]]:
        return edited(
            lambda m: m.insert(1, {"role": "user", "content": "Sum it up."}),
            rows_of(first, first + 100),
        )

    look(store, summaries(0), "a")
    assert look(store, summaries(100), "b") == 1
    assert look(store, summaries(50), "c") == 3


def test_what_earlier_looks_saw_is_told(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    for number in range(9):
        look(store, rows_of(number % 2, 98 + number % 2), f"w{number}")
    count = count_look(store, read_held_out_prompts(ROWS), "new", {})
    assert count == LookCount(number=10, num_seen=99, num_prompts=100)
    words = look_words(count, is_corrected=False)
    assert "the 10th evaluation" in words
    assert "9 earlier evaluations saw 99 of these 100 prompts" in words


@pytest.mark.parametrize("overlap", [0, 300, 3000, 6000])
def test_shares_of_large_sides_are_estimated_from_what_is_kept(overlap: int) -> None:
    old, new = (
        read_held_out_prompts(rows_of(first, first + 6000)) for first in (0, 6000 - overlap)
    )
    assert len(new.digests) == MAX_DIGESTS
    assert share_seen(new, old) == pytest.approx(overlap / 6000, abs=0.05)


def test_looks_in_the_earlier_form_count_at_the_same_side(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    prefix = f"looks/{digest_rows(ROWS)}"
    for number in (1, 2, 3):
        store.write_bytes(f"{prefix}/{number}.json", f'{{"look": "w{number}"}}'.encode())
    store.write_bytes(f"{prefix}/notes.txt", b"of somebody else")
    assert look(store, ROWS, "w2") == 2
    assert look(store, ROWS, "new") == 4
    assert look(store, ROWS, "new") == 4
    # One row less, and the look before tells of the three at its side.
    assert look(store, rows_of(0, 99), "newer") == 5


def test_looks_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    sides = [rows_of(n % 8, n % 8 + 60) for n in range(24)]
    with ThreadPoolExecutor(24) as pool:
        numbers = list(pool.map(lambda rows: look(store, rows, "w"), sides))
    assert sorted(set(numbers)) == list(range(1, 9))
    assert numbers == numbers[:8] * 3


def test_a_damaged_record_is_a_look_all_the_same(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    look(store, ROWS, "a")
    whole = store.read_bytes("looks/all/1.json")
    for damaged in (b"{", b"[" * 100_000, whole.replace(b'"prompts": "', b'"prompts": "?')):
        store.write_bytes("looks/all/1.json", damaged)
        assert next_look(store, read_held_out_prompts(ROWS), uid="of another") == 2
    store.write_bytes("looks/all/notes.txt", b"of somebody else")
    assert look(store, ROWS, "b") == 2


def test_full_blocks_of_records_are_read_as_one_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(records, "BLOCK_RECORDS", 4)
    store = open_store(str(tmp_path))
    numbers = [look(store, ROWS, f"w{n}") for n in range(14)]
    assert numbers == list(range(1, 15))
    read = []

    def note(key: str) -> bytes:
        read.append(key)
        return (tmp_path / key).read_bytes()

    monkeypatch.setattr(store, "read_bytes", note)
    assert next_look(store, read_held_out_prompts(ROWS), uid="of another") == 15
    assert read == [
        *(f"looks/all/block-{n}.json" for n in range(3)),
        *(f"looks/all/{n}.json" for n in (12, 13, 14)),
    ]
    (tmp_path / "looks/all/block-1.json").write_bytes(b"[")
    assert next_look(store, read_held_out_prompts(ROWS), uid="of another") == 15


def test_a_job_expects_the_look_that_follows_those_of_others(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    held_out = read_held_out_prompts(ROWS)
    count_look(store, held_out, "a", {}, uid="of another")
    count_look(store, held_out, "b", {}, uid="own")
    assert next_look(store, held_out, uid="own") == 2
    assert next_look(store, held_out, uid="a third") == 3


def test_a_side_that_others_keep_counting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))

    def refuse(key: str, data: bytes, *, if_absent: bool = False) -> None:
        raise AlreadyExists(key)

    monkeypatch.setattr(looks, "MAX_TRIES", 3)
    monkeypatch.setattr(store, "write_bytes", refuse)
    with pytest.raises(StorageError) as failed:
        look(store, ROWS, "a")
    assert failed.value.reason == "LooksContended"


def test_words_tell_the_number_and_what_follows() -> None:
    def told(number: int, certainty: str = "", *, is_corrected: bool = False) -> str:
        count = LookCount(number=number, num_seen=98, num_prompts=100)
        return look_words(count, certainty, is_corrected=is_corrected)

    first = "This is the 1st evaluation against this held-out side"
    assert told(1) == first
    numbers = (2, 3, 4, 11, 22, 112)
    ordinals = ["2nd", "3rd", "4th", "11th", "22nd", "112th"]
    assert [told(number).split()[3] for number in numbers] == ordinals
    assert "1 earlier evaluation saw 98 of these 100 prompts. Each one more" in told(2)
    assert "2 earlier evaluations saw" in told(3)
    raised = told(2, "0.992", is_corrected=True)
    assert "saw 98 of these 100 prompts, and certainty was raised to 99.2 %" in raised
    most = LookCount(number=2**53, num_seen=10**8, num_prompts=10**8)
    assert len(look_words(most, "0.99999999", is_corrected=True)) <= 300


def look_at(
    store: Any, weights: str, test: list[dict[str, Any]], anchor: str = ""
) -> tuple[LookResult, ResolvedJob]:
    job = job_with(
        **{"spec.evaluation": {"looks": "Correct"}},
        **({"spec.dataset.anchor": ANCHOR} if anchor else {}),
    )
    task = SimpleNamespace(
        job=job,
        adapter=adapter(weights),
        prepared=SimpleNamespace(test=test, report=SimpleNamespace(anchor_digest=anchor)),
        settings=SimpleNamespace(scorer_digest=""),
    )
    storage = SimpleNamespace(output=store, say=lambda _: None)
    return take_look(task, storage, base="base")  # type: ignore[arg-type]


def test_rows_added_beside_sealed_ones_do_not_begin_the_count_anew(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    rows = [{"prompt": str(i), "completion": "a", "metadata": {}} for i in range(3)]
    sealed = [{**row, "metadata": {"sealed": True, "line": 9}} for row in reversed(rows)]
    told, _ = look_at(store, "a", rows)
    assert told.number == 1
    # In the third cycle one of the sealed rows is gone: somebody had it deleted.
    for number, weights, left in ((2, "b", sealed), (3, "c", sealed[1:])):
        new = {"prompt": f"new {number}", "completion": "a", "metadata": {}}
        told, judged = look_at(store, weights, [*left, new], digest_rows(rows))
        assert told.number == number
        words = f"against the {len(left)} sealed of {len(left) + 1} held-out rows"
        assert words in told.message
        assert judged.spec.goal is not None
        doubt = 1 - float(judged.spec.goal.certainty)
        assert doubt == pytest.approx(0.05 * share_of_look(number), abs=1e-7)
