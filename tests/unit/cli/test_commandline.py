"""Headings of the help, words of other tools, and durations."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.commandline import HEADINGS, SYNONYMS, read_duration

PROGRAM: Any = typer.main.get_command(app)


def test_every_command_stands_under_one_heading() -> None:
    listed = [name for names in HEADINGS.values() for name in names]
    assert sorted(listed) == sorted(PROGRAM.commands)
    told = CliRunner().invoke(app, ["--help"]).output
    places = [told.index(f"\n{heading}:\n") for heading in HEADINGS]
    assert places == sorted(places)
    assert "Others:" not in told
    assert told.count("\n  validate ") == 1


@pytest.mark.parametrize("word", SYNONYMS)
def test_words_of_other_tools_are_no_commands_and_name_one(word: str) -> None:
    assert word not in PROGRAM.commands
    group = PROGRAM
    for part in SYNONYMS[word].split():
        group = group.commands[part]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["train", "job.yaml"], "No such command 'train'. Did you mean 'finetune run'?"),
        (["inspect", "a.csv"], "No such command 'inspect'. Did you mean 'finetune data inspect'?"),
        (["validat"], "Did you mean 'validate'"),
        (["wait", "a", "--timeout", "soon"], "'soon' is no duration; write for example 30s, 5m"),
        (["sweep", "watch", "a", "--timeout", "5 minutes"], "'5 minutes' is no duration"),
    ],
)
def test_a_slip_is_told_with_what_to_write(arguments: list[str], told: str) -> None:
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code not in (0, 1)
    assert told in " ".join(done.output.split())


def test_version_and_help_are_answered_as_commands() -> None:
    run = CliRunner().invoke
    assert run(app, ["version"]).output == run(app, ["--version"]).output
    assert run(app, ["help"]).output.strip() == run(app, ["--help"]).output.strip()
    assert run(app, ["help", "wait"]).output == run(app, ["wait", "--help"]).output
    assert run(app, ["version"]).output.startswith("finetune ")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("30s", 30), ("5m", 300), ("1h", 3600), ("2d", 172800), ("1.5 h", 5400)],
)
def test_durations_are_read_with_their_unit(text: str, seconds: float) -> None:
    assert read_duration(text) == seconds


def test_no_list_of_commands_cuts_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    groups = [(), ("data",), ("review",), ("sweep",), ("endpoint",), ("schedule",), ("feedback",)]
    for group in groups:
        text = CliRunner().invoke(app, [*group, "--help"]).output
        assert [line for line in text.splitlines() if line.endswith("...")][1:] == [], group
