"""What a job declares stands in card and report, and cannot become markup there."""

from __future__ import annotations

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.publish.declared import (
    NOT_STATED,
    declared_section,
    plain_text,
    provenance_rows,
    use_facts,
)
from kit.cases.spec_cases import changed, minimal_job

PROVENANCE = {"licence": "CC-BY-4.0", "origin": "help desk", "collected": "2026-01 to 2026-06"}


def make_job(**changes: object) -> ResolvedJob:
    spec = changed(minimal_job(), changes)["spec"]
    return ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})


def test_use_and_limits_stand_in_the_card() -> None:
    card = {"intendedUse": "Sorts mail of our shop.", "limits": "Knows no medicine."}
    text = declared_section(make_job(**{"spec.output.card": card}))
    assert "## Intended use\n\nSorts mail of our shop." in text
    assert "## Limits\n\nKnows no medicine." in text


def test_a_job_that_declares_nothing_says_so() -> None:
    assert set(use_facts(make_job()).values()) == {"Not stated by the job."}
    assert provenance_rows(make_job()) == []


def test_every_source_has_a_row_where_one_states_its_provenance() -> None:
    sources = [
        {"uri": "s3://data/a.jsonl", "provenance": PROVENANCE},
        {"uri": "s3://data/b.jsonl"},
    ]
    job = make_job(**{"spec.dataset.sources": sources})
    assert provenance_rows(job) == [
        ["s3://data/a.jsonl", "CC-BY-4.0", NOT_STATED, "help desk", "2026-01 to 2026-06"],
        ["s3://data/b.jsonl", *[NOT_STATED] * 4],
    ]


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "[free prizes](https://evil.example)",
        "![x](https://evil.example/pixel.png)",
        "https://evil.example",
        "# A heading\n\n## Limits\n\nNone.",
        "a | b | c",
        "`code` **bold** _soft_ ~gone~",
        "&lt;script&gt;",
    ],
)
def test_declared_text_is_shown_as_it_stands(text: str) -> None:
    from markdown_it import MarkdownIt

    rendered = MarkdownIt("commonmark").enable("table").render(plain_text(text))
    assert rendered.count("<") == 2  # one paragraph, and nothing else
    assert rendered.startswith("<p>")
    assert "://" not in plain_text(text)
