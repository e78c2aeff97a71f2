"""Judging in the terminal."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_cli.reports.review_terminal import judge_in_terminal
from finetune_trainer.evaluate.sources.review.blinding import Blind
from finetune_trainer.evaluate.sources.review.verdicts import ReviewFile, read_verdicts
from kit.reports.reviews import RUBRIC, review

HIDDEN, KEY = review(2)
EMPTY = ReviewFile(review=HIDDEN.digest, reviewer="Ann", items={})


def judge(
    keys: str, file: Path, *, verdicts: ReviewFile = EMPTY, blind: Blind = HIDDEN
) -> tuple[ReviewFile, str]:
    said: list[str] = []
    pressed: Iterator[str] = iter(keys)
    done = judge_in_terminal(
        blind,
        verdicts,
        file,
        read_key=lambda: next(pressed, ""),
        read_line=lambda: "a remark",
        write=said.append,
    )
    return done, "\n".join(said)


def voices(verdicts: ReviewFile) -> list[str]:
    return [each.choices["voice"] for each in verdicts.items.values()]


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ("111333", ["left", "right"]),
        ("abs" + "bsa", ["left", "right"]),
        ("1x?1 1" + "222", ["left", "same"]),
        ("111" + "u" + "333" + "222", ["right", "same"]),
        ("111" + "22q", ["left"]),
        ("111" + "2", ["left"]),
        ("q", []),
    ],
)
def test_each_key_is_one_choice_and_what_is_whole_is_kept(
    tmp_path: Path, keys: str, expected: list[str]
) -> None:
    file = tmp_path / "ann.json"
    done, _ = judge(keys, file)
    assert voices(done) == expected
    stored = read_verdicts(
        file.read_bytes(), name="f", review=HIDDEN.digest, items=list(KEY), rubric=RUBRIC
    )
    assert stored == done
    assert [path.name for path in tmp_path.iterdir()] == ["ann.json"]


def test_a_comment_is_kept_and_the_second_go_begins_where_the_first_ended(tmp_path: Path) -> None:
    done, _ = judge("1c11", tmp_path / "ann.json")
    assert next(iter(done.items.values())).comment == "a remark"
    again, said = judge("222", tmp_path / "ann.json", verdicts=done)
    assert "question 2 of 2" in said
    assert "question 1 of 2" not in said
    assert voices(again) == ["left", "same"]


def test_an_answer_cannot_move_the_cursor_or_hide(tmp_path: Path) -> None:
    item = replace(HIDDEN.items[0], left="\x1b[2Jgone\x07", right="")
    _, said = judge("q", tmp_path / "ann.json", blind=replace(HIDDEN, items=(item,)))
    assert "\x1b" not in said
    assert "\\x1b[2Jgone\\x07" in said
    assert "(nothing)" in said
