"""The page of a data set: complete, harmless whatever names say, and read by everybody."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.protocol.stage_results import RowCounts
from finetune_api.v1alpha1.spec.dataset import Dataset
from finetune_trainer.data.report import (
    CheckReport,
    InvalidRow,
    InvalidRows,
    LabelReport,
    SplitRows,
)
from finetune_trainer.prepare.report.card import render_card
from finetune_trainer.prepare.report.documents import explain_hidden_rows, find_lists
from finetune_trainer.prepare.report.page import list_findings, render_page, words_of
from finetune_trainer.prepare.report.samples import Sample
from kit.reports.data_reports import report, sample
from kit.reports.page_reading import Reading

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}</div>"


def page(*, samples: tuple[Sample, ...] = (), hidden: str = "", **change: Any) -> str:
    return render_page(report(**change), samples, reason_hidden=hidden)


def test_page_tells_what_came_in_what_was_changed_and_what_is_trained_on() -> None:
    text = Reading(page(samples=(sample(),))).text
    for words in (
        "2,000 rows : 750 to train on, 50 to watch the loss, 1,200 held out. 2 rows could not be",
        "sources[0] Split Csv columns text and category 1 2,000 2",
        "rows.csv 2.0 KiB Windows-1252: a sample 2,000 " + "a" * 64,
        "duplicate rows 1,234 12 1234 rows repeat another",
        "not csv rows.csv:7 1 1 m7",
        "train 750 30,000 40 90 131 1 0",
        "750 rows, of up to 131 tokens. Most, 649, have 50 to 99 tokens.",
        "2 labels. The most frequent, late, has 1,800 rows (90.0 %)",
        "late 700 0 1,100 90.0 %",
        "the template was changed",
        "Example 4, the longest: 20 tokens, 2 of them learned",
        "Where is it? learned: late<|end|>",
        "d" * 64,
    ):
        assert words in text, words


def test_text_of_rows_that_could_not_be_used_is_not_on_the_page() -> None:
    assert "SNIP" not in page()


def test_a_check_that_nobody_foresaw_tells_its_counts_and_places() -> None:
    class NewCheck(CheckReport):
        kinds: dict[str, int]
        pairs: list[dict[str, Any]]

    check = NewCheck.model_construct(
        name="personalData", flagged=3, removed=0, message="3 rows", kinds={"emailAddress": 4},
        pairs=[{"file": "a.csv", "line": 2, "otherFile": "b.csv", "otherLine": 5}],
    )  # fmt: skip
    first, second, *_ = list_findings(report(checks=[check]))
    assert (first.what, first.rows, first.message) == (
        "personal data",
        3,
        "3 rows: email address 4",
    )
    assert (second.where, second.left_out) == ("a.csv:2", "")
    assert second.message == "together with b.csv:5"


def test_personal_data_is_told_by_kind_and_side() -> None:
    sides = [
        SplitRows(side="train", rows=7, kinds={"Email": 5, "Phone": 3}),
        SplitRows(side="validation", rows=0),
        SplitRows(side="test", rows=1, kinds={"Email": 1}),
    ]
    check = CheckReport(name="personalData", flagged=8, removed=0, message="8 rows", sides=sides)
    text = Reading(page(checks=[check])).text
    told = " ".join(text.split())
    assert "Rows with personal data, by side" in told
    for words in ("Email 5 0 1", "Phone 3 0 0", "any of these 7 0 1"):
        assert words in told


@pytest.mark.parametrize(
    "change",
    [
        {"labels": [LabelReport(label=HOSTILE, train=2)]},
        {"remedies": [HOSTILE]},
        {"tokens": {HOSTILE: report().tokens["hf://example/tiny@main"]}},
        {"invalid_rows": InvalidRows(total=1, by_reason={HOSTILE: 1}, first=[InvalidRow(
            file=HOSTILE, line=1, reason=HOSTILE, message=HOSTILE, snippet="")])},
        {"samples": (sample(HOSTILE),)},
        {"hidden": HOSTILE},
    ],
)  # fmt: skip
def test_strange_text_is_shown_and_never_obeyed(change: dict[str, Any]) -> None:
    read = Reading(page(**change))
    assert read.tags.count("script") == 1  # the page's own
    assert "img" not in read.tags
    assert not [name for name, _ in read.attributes if name.startswith("on")]


def test_page_loads_nothing_and_runs_only_its_own_script() -> None:
    text = page(samples=(sample(),))
    read = Reading(text)
    assert not {"link", "img", "iframe", "object"} & set(read.tags)
    assert not {"src", "href"} & {name for name, _ in read.attributes}
    for address in ("http:", "https:", "url("):
        assert address not in text
    assert re.search(r"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-", text)


def test_a_screen_reader_finds_headings_in_order_captions_and_names() -> None:
    read = Reading(page(samples=(sample(),)))
    levels = [int(tag[1]) for tag in read.tags if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert read.tags.count("caption") == read.tags.count("table")
    assert {"main", "header", "section"} <= set(read.tags)
    attributes = read.attributes
    ids = {value for name, value in attributes if name == "id"}
    assert len([1 for name, _ in attributes if name == "id"]) == len(ids)
    for name, value in attributes:
        if name in ("for", "aria-labelledby", "aria-describedby", "aria-controls"):
            assert value in ids, (name, value)
    assert ("aria-live", "polite") in attributes
    assert ("lang", "en") in attributes
    labels = [value for name, value in attributes if name == "aria-label"]
    assert labels == ["750 rows, of up to 131 tokens. Most, 649, have 50 to 99 tokens."]


def test_same_report_gives_the_same_page_and_card() -> None:
    assert page() == page()
    assert render_card(report()) == render_card(report())


def test_page_of_plain_text_without_findings_stands_as_well() -> None:
    nothing = InvalidRows(total=0, by_reason={}, first=[])
    text = Reading(
        page(checks=[], labels=[], tokens={}, remedies=[], hidden="not shown", invalid_rows=nothing)
    ).text
    assert "No check had anything to say." in text
    assert "not shown" in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("duplicateRows", "duplicate rows"),
        ("NotUtf8", "not utf8"),
        ("apiKeyAWS", "api key AWS"),
        ("IBAN", "IBAN"),
        ("numRows", "number of rows"),
        ('"Yes"', '"Yes"'),
    ],
)
def test_names_are_written_as_words(name: str, words: str) -> None:
    assert words_of(name) == words


def test_card_names_the_files_of_the_sides_that_have_rows() -> None:
    card = render_card(report(rows=RowCounts(train=3, validation=0, test=1)))
    head = yaml.safe_load(card.split("---\n")[1])
    assert head["configs"] == [
        {
            "config_name": "default",
            "data_files": [
                {"split": "train", "path": "train.jsonl"},
                {"split": "test", "path": "test.jsonl"},
            ],
        }
    ]
    assert head["size_categories"] == ["n<1K"]
    assert "a" * 64 in card
    assert json.dumps("SNIP") not in card


@pytest.mark.parametrize("action", ["Redact", "Drop", "Refuse", "Report", "Off"])
def test_rows_are_shown_only_where_personal_data_was_taken_out(action: str) -> None:
    dataset = Dataset.model_validate(
        {"sources": [{"uri": "file:///rows.jsonl"}], "privacy": {"action": action}}
    )
    reason = explain_hidden_rows(dataset)
    assert bool(reason) == (action in ("Report", "Off"))
    assert not reason or f"dataset.privacy.action {action}" in reason


def test_files_that_list_rows_in_full_are_named_unless_they_are_empty(tmp_path: Path) -> None:
    for name, text in (("train.jsonl", "{}"), ("removed-rows.jsonl", "{}"), ("a.jsonl", "")):
        (tmp_path / name).write_text(text)
    assert find_lists(tmp_path) == ["removed-rows.jsonl"]
    page = render_page(report(), [], reason_hidden="", lists=find_lists(tmp_path))
    assert "beside it, removed-rows.jsonl holds all of them" in Reading(page).text
