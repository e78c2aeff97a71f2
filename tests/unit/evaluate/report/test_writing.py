"""The files of a report: for people and for machines, from the same numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from finetune_api.evaluation_result import EvaluateResult
from finetune_trainer.evaluate.report.writing import write_report
from support.page_reading import Reading
from support.report_cases import CASES, report_page


def test_labels_are_held_against_the_base_asked_in_the_way_that_counts() -> None:
    text = Reading(report_page(CASES["4 labels"])).text
    assert "The base model's are its answers with a prompt" in text
    made = CASES["4 labels"]()
    prompted = [sample.prompted in sample.references for sample in made.samples]
    as_is = [sample.base in sample.references for sample in made.samples]
    assert sum(prompted) != sum(as_is)
    label = made.samples[0].references[0]
    hits = [right for right, each in zip(prompted, made.samples, strict=True)
            if each.references[0] == label]  # fmt: skip
    assert f"{label} {len(hits)} {sum(hits) / len(hits):.3f}" in text


@pytest.mark.parametrize("name", ["4 labels", "JSON", "three rows"])
def test_page_card_and_file_for_machines_tell_the_same(tmp_path: Path, name: str) -> None:
    made = CASES[name]()
    write_report(tmp_path, made)
    body = json.loads((tmp_path / "report.json").read_text())
    assert EvaluateResult.model_validate(body["result"]) == made.result
    page, card = ((tmp_path / file).read_text() for file in ("report.html", "README.md"))
    for score in made.result.scores:
        for text in (score.tuned, score.base):
            assert text in page
            assert text in card
    assert len((tmp_path / "samples.jsonl").read_text().splitlines()) == len(made.samples)


def test_machines_read_nothing_that_differs_between_equal_runs(tmp_path: Path) -> None:
    write_report(tmp_path, CASES["4 labels"]())
    assert "21.5" not in (tmp_path / "report.json").read_text()
    assert "Time of the steps" in (tmp_path / "report.html").read_text()
