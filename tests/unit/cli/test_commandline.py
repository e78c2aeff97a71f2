"""Headings of the help, words of other tools, and durations."""

from __future__ import annotations

from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.commandline import HEADINGS, SYNONYMS

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
        (["evaluate", "a", "--step", "2"], "The command 'evaluate' was removed: the step with"),
        (["review", "ask", "a"], "The command 'review ask' was removed: judge on the page"),
        (["validat"], "Did you mean 'validate'"),
        (["list"], "The command 'list' was removed: `kubectl get ftj` lists jobs."),
        (["suspend", "a"], "The command 'suspend' was removed: set spec.suspend of the job"),
        (["sweep", "watch", "a"], "removed: `kubectl get fts NAME --watch` shows each change."),
        (["schedule", "resume", "a"], "set spec.suspend of the schedule"),
        (["endpoint", "describe", "a"], "removed: `finetune status endpoint/NAME` shows one."),
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
    assert run(app, ["help", "logs"]).output == run(app, ["logs", "--help"]).output
    assert run(app, ["version"]).output.startswith("finetune ")


def test_no_list_of_commands_cuts_a_summary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    groups = [(), ("data",), ("review",), ("sweep",), ("endpoint",), ("schedule",), ("feedback",)]
    for group in groups:
        text = CliRunner().invoke(app, [*group, "--help"]).output
        assert [line for line in text.splitlines() if line.endswith("...")][1:] == [], group
