"""Each look at a held-out side counts once, over all jobs, and what it may doubt adds up."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from finetune_api.protocol.evaluation_result import LookResult
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.data.looks import digest_rows
from finetune_trainer.errors import StorageError
from finetune_trainer.evaluate import looks
from finetune_trainer.evaluate.looks import (
    count_look,
    look_words,
    name_look,
    take_look,
)
from finetune_trainer.statistics.claims import share_of_look
from finetune_trainer.storage import AlreadyExists, Manifest, ManifestFile, open_store
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
            (job_with(**{"spec.evaluation": {"looks": "Correct"}}), adapter("a"), "base"),
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


def test_looks_are_counted_per_side_and_each_once(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    numbers = [count_look(store, "side", name, {"job": name}) for name in "abacb"]
    assert numbers == [1, 2, 1, 3, 2]
    assert count_look(store, "other side", "a", {}) == 1


def test_looks_at_once_get_numbers_of_their_own(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    names = [str(i % 8) for i in range(24)]
    with ThreadPoolExecutor(24) as pool:
        numbers = list(pool.map(lambda name: count_look(store, "side", name, {}), names))
    assert sorted(set(numbers)) == list(range(1, 9))
    assert numbers == numbers[:8] * 3


def test_a_damaged_record_is_a_look_all_the_same(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    count_look(store, "side", "a", {})
    store.write_bytes("looks/side/1.json", b"{")
    store.write_bytes("looks/side/notes.txt", b"of somebody else")
    assert count_look(store, "side", "b", {}) == 2


def test_a_side_that_others_keep_counting_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(str(tmp_path))

    def refuse(key: str, data: bytes, *, if_absent: bool = False) -> None:
        raise AlreadyExists(key)

    monkeypatch.setattr(looks, "MAX_TRIES", 3)
    monkeypatch.setattr(store, "write_bytes", refuse)
    with pytest.raises(StorageError) as failed:
        count_look(store, "side", "a", {})
    assert failed.value.reason == "LooksContended"


def test_words_tell_the_number_and_what_follows() -> None:
    first = "This is the 1st evaluation against this held-out side"
    assert look_words(1, is_corrected=False) == first
    told = [look_words(number, is_corrected=False) for number in (2, 3, 4, 11, 22, 112)]
    assert [words.split()[3] for words in told] == ["2nd", "3rd", "4th", "11th", "22nd", "112th"]
    assert all("pass by luck" not in words and "passes by luck" in words for words in told)
    raised = look_words(2, "0.992", is_corrected=True)
    assert "certainty was raised to 99.2 %" in raised
    assert len(look_words(2**53, "0.99999999", is_corrected=True)) <= 300


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
