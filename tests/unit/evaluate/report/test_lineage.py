"""Where a model comes from and how it is served: commands that are true of this very run."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from finetune_api.protocol.trainer import ResolvedJob
from finetune_cli.app import app
from finetune_trainer.evaluate.report.lineage import (
    describe_data,
    licence_words,
    serving_commands,
)
from finetune_trainer.evaluate.sources.review.source import review_words
from kit.cases.spec_cases import changed, minimal_job
from kit.reports.data_reports import report
from kit.reports.report_cases import RUN

S3 = "s3://models/tuned/runs/n/j/u/adapter"


def make_job(change: dict[str, Any] | None = None) -> ResolvedJob:
    spec = changed(minimal_job(), change or {})["spec"]
    return ResolvedJob.model_validate({"namespace": "n", "name": "j", "uid": "u", "spec": spec})


def commands(uri: str = S3, change: dict[str, Any] | None = None) -> list[str]:
    made = serving_commands(make_job(change), model_name="org/base", record=RUN, adapter_uri=uri)
    return [command.text for command in made]


@pytest.mark.parametrize("uri", [S3, "file:///data/out/runs/n/j/u/adapter"])
def test_every_command_of_ours_exists_and_takes_its_options(uri: str) -> None:
    import typer

    known = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    for text in commands(uri):
        program, name, *rest = shlex.split(text)
        if program == "finetune":
            known[name].make_context(name, rest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"spec.model.uri": "hf://org/base"}, f"vllm serve org/base --revision {'a' * 40} "),
        ({"spec.model.uri": "file:///models/base"}, "vllm serve /models/base "),
        ({"spec.model.uri": "s3://models/base"}, "vllm serve ./base "),
        ({"spec.method": {"adapter": {"rank": 24}}}, "--max-lora-rank 32 "),
        ({"spec.method": {"adapter": {"type": "Full"}}}, "vllm serve ./adapter "),
    ],
)
def test_the_server_is_told_which_base_and_how_large_an_adapter(
    change: dict[str, Any], words: str
) -> None:
    assert words in commands(change=change)[-1]


def test_what_lies_in_a_volume_of_the_cluster_is_served_once_it_was_copied() -> None:
    uri = "pvc://models/out/runs/n/j/u/adapter"
    made = serving_commands(make_job(), model_name="b", record=RUN, adapter_uri=uri)
    assert [command.what for command in made] == [f"Serve it with vLLM, {uri} copied to ./adapter"]
    assert describe_data(make_job(), report(), uri="pvc://models/out/datasets/d").command == ""


def test_a_licence_that_nobody_states_is_to_be_looked_up() -> None:
    assert "look it up" in licence_words({"license": None})
    assert "apache-2.0" in licence_words(RUN)
    declared = licence_words({"license": "mit", "licenseIsStated": False})
    assert "states no licence; the job states the licence mit" in declared


def test_the_data_sets_own_page_is_found_from_this_one() -> None:
    section = describe_data(make_job(), report(), uri=f"s3://models/tuned/datasets/{'d' * 64}")
    assert section.page == f"../../../../../datasets/{'d' * 64}/report.html"
    assert section.told == ["1234 rows repeat another"]
    assert "14 rows were left out" in section.words


def test_review_is_told_with_what_opens_it() -> None:
    assert "asks for no review" in review_words(make_job(), "s3://e")
    words = review_words(make_job({"spec.evaluation": {"review": {"required": True}}}), "s3://e")
    assert words.startswith("Nothing is published before 2 reviewer(s) judge 50 questions")
    assert words.endswith("finetune review open s3://e.")
