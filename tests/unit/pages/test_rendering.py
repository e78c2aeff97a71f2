"""What all pages share: names that narrow columns break between words, and text that is escaped."""

from __future__ import annotations

import pytest

from finetune_trainer.pages.rendering import break_at_seams, render


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("redTeam.dan.AutoDANCached", "red<wbr>Team.<wbr>dan.<wbr>Auto<wbr>DANCached"),
        ("safety.overRefusal", "safety.<wbr>over<wbr>Refusal"),
        ("macroF1", "macro<wbr>F1"),
        ("red-team-dan", "red-team-dan"),
        ("s3://bucket/a_b.csv", "s3://<wbr>bucket/<wbr>a_<wbr>b.<wbr>csv"),
        ("тестИмя", "тестИмя"),
        ("a.<b>&", "a.&lt;b&gt;&amp;"),
        ("", ""),
    ],
)
def test_names_break_between_their_words_and_are_escaped(name, expected):
    assert str(break_at_seams(name)) == expected


@pytest.mark.parametrize("value", [7, 0.5, None])
def test_what_is_no_name_is_left_as_it_is(value):
    assert break_at_seams(value) is value


def test_a_table_keeps_a_verdict_whole_and_breaks_names(tmp_path):
    (tmp_path / "page.j2").write_text(
        '{% import "parts.html.j2" as parts %}{{ parts.table("c", columns, rows) }}'
    )
    columns = [{"label": "gate"}, {"label": "verdict", "whole": True}, {"label": "n", "number": 1}]
    text = render("page.j2", folder=tmp_path, columns=columns, rows=[["a.b", "MISSED", 1000]])
    assert '<th scope="row" role="rowheader">a.<wbr>b</th>' in text
    assert 'data-label="verdict" class="whole">MISSED</td>' in text
    assert 'data-label="n" class="number">1,000</td>' in text
