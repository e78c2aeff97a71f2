"""Which files of reviewers are taken, and what is said of those that are not."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.evaluate.sources.review.verdicts import (
    ReviewFile,
    ReviewFileError,
    Verdict,
    read_verdicts,
    require_panel,
)
from kit.reports.reviews import RUBRIC, review, verdicts_of

HIDDEN, KEY = review()
NAMES = [item.id for item in HIDDEN.items]


def read(body: Any, name: str = "ann.json") -> ReviewFile:
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_verdicts(data, name=name, review=HIDDEN.digest, items=NAMES, rubric=RUBRIC)


def wire(**change: Any) -> dict[str, Any]:
    return {**json.loads(verdicts_of("Ann", HIDDEN, KEY).to_json()), **change}


def test_a_file_is_read_as_it_was_written() -> None:
    file = verdicts_of("Ann Müller", HIDDEN, KEY)
    assert read(file.to_json().encode()) == file
    assert read(b"\xef\xbb\xbf" + file.to_json().encode()) == file  # saved by Windows' editor


def test_a_file_in_progress_is_read_too() -> None:
    file = read(wire(verdicts={NAMES[0]: {"choices": {"voice": "left"}}}))
    assert file.items == {NAMES[0]: Verdict(choices={"voice": "left"})}
    assert file.count_missing(NAMES, RUBRIC) == len(NAMES)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "ann.json is damaged, it is no JSON"),
        (b'{"kind": "ReviewVer', "ann.json is damaged"),
        (b"\xff\xfe\x00", "ann.json is damaged"),
        (b"[" * 100_000, "ann.json is damaged"),
        (b"[]", "ann.json is no file of verdicts"),
        ({"kind": "ReviewKey"}, "is no file of verdicts .kind ReviewVerdicts"),
        (wire(review="0" * 64), "is about another review .000000000000..., this one is"),
        (wire(review=None), "is about another review"),
        (wire(reviewer=" "), "does not say who judged"),
        (wire(reviewer=7), "does not say who judged"),
        (wire(reviewer="x" * 65), "does not say who judged"),
        (wire(verdicts=[]), "has no verdicts"),
        (wire(verdicts={"nobody": {}}), "judges 1 item.s. that this review does not have"),
        (wire(verdicts={NAMES[0]: 3}), f"item {NAMES[0]} is damaged"),
        (
            wire(verdicts={NAMES[0]: {"choices": {"tone": "left"}}}),
            "is judged by tone; this",
        ),
        (wire(verdicts={NAMES[0]: {"choices": {"voice": "A"}}}), "voice is A, it must be left"),
        (wire(verdicts={NAMES[0]: {"choices": {"voice": ["left"]}}}), "it must be left, same"),
    ],
)
def test_what_is_no_file_of_this_review_is_refused_by_name(body: Any, said: str) -> None:
    with pytest.raises(ReviewFileError, match=said):
        read(body)


@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_whatever_the_bytes_the_refusal_is_a_sentence(data: bytes) -> None:
    with pytest.raises(ReviewFileError):
        read(data)


@given(st.integers(0, 400), st.binary(min_size=1, max_size=3))
def test_a_damaged_file_is_refused_or_read_and_never_breaks(place: int, patch: bytes) -> None:
    whole = verdicts_of("Ann", HIDDEN, KEY).to_json().encode()
    try:
        found = read(whole[:place] + patch + whole[place + len(patch) :])
    except ReviewFileError:
        return
    assert found.review == HIDDEN.digest


def test_all_that_keeps_a_panel_from_being_whole_is_told_at_once() -> None:
    whole = verdicts_of("Ann", HIDDEN, KEY)
    half = ReviewFile(
        review=HIDDEN.digest, reviewer="Ben", items=dict(list(whole.items.items())[:2])
    )
    files = {"a.json": whole, "b.json": half, "c.json": verdicts_of("ann", HIDDEN, KEY)}
    with pytest.raises(ReviewFileError) as caught:
        require_panel(files, items=NAMES, rubric=RUBRIC, reviewers=3)
    for said in (
        "b.json: Ben has not judged 4 of 6 items",
        "a.json and c.json are both by ann",
        "2 reviewer(s) of the 3 that evaluation.review.reviewers asks for",
    ):
        assert said in str(caught.value), said


def test_a_whole_panel_passes() -> None:
    files = {name: verdicts_of(name, HIDDEN, KEY) for name in ("Ann", "Ben", "Cat")}
    require_panel(files, items=NAMES, rubric=RUBRIC, reviewers=2)


def test_verdicts_of_no_reviewer_hold_the_name_of_a_model() -> None:
    assert not re.search("tuned|base", verdicts_of("Ann", HIDDEN, KEY).to_json())
