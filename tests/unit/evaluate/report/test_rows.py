"""Which rows a page shows: those that a reader must see first, within bounds that are told."""

from __future__ import annotations

from dataclasses import replace

import pytest

from finetune_trainer.evaluate.report import rows as rows_module
from finetune_trainer.evaluate.report.evidence import Sample
from finetune_trainer.evaluate.report.rows import MAX_TEXT, Fate, show_rows
from kit.reports.page_reading import Reading
from kit.reports.report_cases import CASES, report_page


def asked(base: float, tuned: float, *, metric: str = "exactMatch", text: str = "b") -> Sample:
    return Sample(
        prompt="q", references=("a",), base="a", tuned=text, scores={metric: (base, tuned)}
    )


def test_regressions_come_first_then_errors_then_improvements() -> None:
    samples = [asked(1, 1), asked(0, 1), asked(0, 0), asked(1, 0)]
    shown = show_rows(samples, metric="exactMatch", has_labels=True)
    fates = [Fate.REGRESSION, Fate.WRONG, Fate.IMPROVEMENT, Fate.SAME]
    assert [(row.number, row.fate) for row in shown.rows] == list(
        zip((4, 3, 2, 1), fates, strict=True)
    )
    assert shown.counts == dict.fromkeys(fates, 1)
    assert [answer.is_right for answer in shown.rows[0].answers] == [True, False]


def test_the_greatest_loss_comes_first_and_a_lower_loss_is_an_improvement() -> None:
    graded = [asked(0.5, 0.4, metric="rougeL"), asked(0.9, 0.1, metric="rougeL")]
    assert [row.number for row in show_rows(graded, metric="rougeL", has_labels=False).rows] == [
        2,
        1,
    ]
    losses = [asked(2.0, 1.0, metric="loss"), asked(1.0, 2.0, metric="loss")]
    shown = show_rows(losses, metric="loss", has_labels=False)
    fates = [(row.number, row.fate) for row in shown.rows]
    assert fates == [(2, Fate.REGRESSION), (1, Fate.IMPROVEMENT)]
    assert shown.rows[0].answers[0].is_right is None


@pytest.mark.parametrize("metric", ["exactMatch", "perplexity"])
def test_rows_go_by_the_goals_metric_and_by_the_first_where_it_scored_none(metric: str) -> None:
    shown = show_rows([asked(1, 0)], metric=metric, has_labels=True)
    assert (shown.metric, shown.rows[0].fate) == ("exactMatch", Fate.REGRESSION)


def test_rows_that_nothing_scored_are_shown_as_they_are() -> None:
    shown = show_rows(
        [Sample(prompt="q", references=(), base="", tuned="")], metric="", has_labels=False
    )
    assert (shown.metric, shown.rows[0].fate, shown.rows[0].scored) == ("", Fate.SAME, "")
    assert show_rows([], metric="loss", has_labels=False).rows == []


def test_of_too_many_rows_none_of_a_kind_keeps_the_others_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "MAX_ROWS", 16)
    samples = [*[asked(1, 1)] * 40, *[asked(1, 0)] * 40, *[asked(0, 0)] * 40, asked(0, 1)]
    shown = show_rows(samples, metric="exactMatch", has_labels=True)
    fates = [row.fate for row in shown.rows]
    assert len(fates) == 16
    assert (fates.count(Fate.REGRESSION), fates.count(Fate.WRONG)) == (8, 4)
    assert (fates.count(Fate.IMPROVEMENT), fates.count(Fate.SAME)) == (1, 3)
    assert (shown.total, shown.counts[Fate.REGRESSION]) == (121, 40)


def test_long_texts_are_cut_and_say_so_and_bound_the_number_of_rows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(rows_module, "MAX_CHARACTERS", 3 * MAX_TEXT)
    long = "x" * (MAX_TEXT + 5)
    shown = show_rows([asked(1, 0, text=long)] * 9, metric="exactMatch", has_labels=True)
    assert len(shown.rows) == 2
    assert shown.rows[0].answers[-1].text.endswith("(the first 4,000 of 4,005 characters)")


def test_an_answer_that_was_cut_is_marked() -> None:
    sample = replace(asked(1, 0), cut=("tuned",))
    (row,) = show_rows([sample], metric="exactMatch", has_labels=True).rows
    assert [(answer.label, answer.is_cut) for answer in row.answers] == [
        ("base", False),
        ("tuned", True),
    ]


@pytest.mark.slow
def test_a_page_of_twenty_thousand_rows_is_small_and_tells_what_it_leaves_out() -> None:
    page = report_page(CASES["20,000 rows"])
    assert len(page) < 2_000_000
    text = Reading(page).text
    assert "By chrF, of 20,000 questions: 10 regressions, 19,990 improvements." in text
    assert "1,000 of them are on this page" in text
    assert "all 20,000 are in samples.jsonl" in text
    assert "regression row 20,000: chrF base 0.3, tuned 0.1" in text
