"""The files of a report: for people and for machines, from the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_trainer.evaluate.report.writing import write_report
from kit.reports.page_reading import Reading
from kit.reports.report_cases import CASES, report_page


def test_labels_are_held_against_the_base_asked_in_the_way_that_counts() -> None:
    text = Reading(report_page(CASES["4 labels"])).text
    assert "The base model's figures are of its answers with a prompt" in text
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


def test_settings_that_the_folder_ships_are_told_beside_how_it_was_asked(tmp_path: Path) -> None:
    made = CASES["4 labels"]()
    made = replace(made, record={**made.record, "generation": {"repetition_penalty": 1.05}})
    write_report(tmp_path, made)
    page, card = (tmp_path / "report.html").read_text(), (tmp_path / "README.md").read_text()
    for text in (Reading(page).text, card):
        assert "answers are greedy" in text
        assert "repetition_penalty: 1.05" in text
    body = json.loads((tmp_path / "report.json").read_text())
    assert body["generation"] == {"repetition_penalty": 1.05}


def test_machines_read_nothing_that_differs_between_equal_runs(tmp_path: Path) -> None:
    write_report(tmp_path, CASES["4 labels"]())
    assert "21.5" not in (tmp_path / "report.json").read_text()
    assert "Time of the steps" in (tmp_path / "report.html").read_text()


def test_machines_are_told_of_the_same_answers_of_the_base_as_people(tmp_path: Path) -> None:
    made = CASES["4 labels"]()
    # The lowest loss is that of the question alone, and says nothing of answers.
    by_loss = [made.result.scores[-1], *made.result.scores[:-1]]
    made = replace(made, result=made.result.model_copy(update={"scores": by_loss}))
    write_report(tmp_path, made)
    labels = json.loads((tmp_path / "report.json").read_text())["labels"]
    assert labels["baseline"] == "Prompted"
    right = sum(sample.prompted in sample.references for sample in made.samples)
    rows = {each["label"]: each["numRows"] for each in labels["base"]["labels"]}
    hits = sum(each["recall"] * rows[each["label"]] for each in labels["base"]["labels"])
    assert hits == pytest.approx(right, abs=0.05)
    assert "answers with a prompt" in Reading((tmp_path / "report.html").read_text()).text


def test_the_limit_of_answers_is_stored_to_ask_again(tmp_path: Path) -> None:
    write_report(tmp_path, replace(CASES["JSON"](), answer_tokens=48))
    assert json.loads((tmp_path / "report.json").read_text())["answerTokens"] == 48


def test_answers_that_were_cut_are_told(tmp_path: Path) -> None:
    made = replace(CASES["JSON"](), cut_words="9 of 10 references are longer than an answer may be")
    write_report(tmp_path, made)
    assert json.loads((tmp_path / "report.json").read_text())["cutAnswers"] == made.cut_words
    page = Reading((tmp_path / "report.html").read_text()).text
    assert "Answers were cut. 9 of 10 references are longer than an answer may be." in page
