"""An option's name means one thing in all commands."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer.main
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.errors import CliError


def leaves(command: Any, *names: str) -> Iterator[tuple[tuple[str, ...], Any]]:
    children = getattr(command, "commands", None)
    if children is None:
        yield names, command
    else:
        for name, child in children.items():
            yield from leaves(child, *names, name)


COMMANDS = dict(leaves(typer.main.get_command(app)))
FLAGS = {
    names: [tuple(each.opts) for each in command.params if each.param_type_name == "option"]
    for names, command in COMMANDS.items()
}
PRINTING = [names for names, flags in FLAGS.items() if ("--output", "-o") in flags]
WRITING = [names for names, flags in FLAGS.items() if ("--output-dir",) in flags]


def arguments_of(names: tuple[str, ...], *options: str) -> list[str]:
    """Return a command line that gives whatever the command requires."""
    given = ["x" for each in COMMANDS[names].params if each.param_type_name == "argument"]
    return [*names, *given, *options]


def test_output_is_the_format_and_output_dir_the_folder_in_all_commands() -> None:
    assert len(PRINTING) > 20
    for names, flags in FLAGS.items():
        for flag in flags:
            is_output = "-o" in flag or "--output" in flag
            assert not is_output or flag == ("--output", "-o"), names
            assert not {"--json", "--results", "--folder"} & {*flag}, names
    for names in PRINTING:
        (option,) = [each for each in COMMANDS[names].params if "--output" in each.opts]
        assert option.default == "text"
        assert option.metavar.split("|")[:2] == ["text", "json"]
    assert {("init",), ("run",), ("report",), ("compare",), ("publish",)} < {*WRITING}


def test_an_option_has_the_same_short_name_everywhere() -> None:
    short: dict[str, set[tuple[str, ...]]] = {}
    for flags in FLAGS.values():
        for flag in flags:
            short.setdefault(flag[0], set()).add(flag)
    assert {name: found for name, found in short.items() if len(found) > 1} == {}


@pytest.mark.parametrize("names", PRINTING, ids=" ".join)
def test_a_format_that_does_not_exist_is_refused_with_those_that_do(names: tuple[str, ...]) -> None:
    for value in ("jsn", "./out"):
        error = CliRunner().invoke(app, arguments_of(names, "-o", value)).exception
        assert isinstance(error, CliError)
        assert error.exit_code == 64
        assert f"--output {value}: there is no such format; choose text" in error.message
        hint = f"--output-dir {value}" if names in WRITING else f"> {value}"
        assert (hint in error.message) == (value == "./out" or names in WRITING)


@pytest.mark.parametrize(
    ("arguments", "new"),
    [
        (("verify", "x", "--json"), "write -o json"),
        (("init", "-o", "job.yaml"), "write --file"),
        (("report", "x", "--output", "out"), "write --output-dir"),
        (("compare", "x", "--results", "out"), "write --output-dir"),
        (("review", "import", "x", "y", "--folder", "z"), "write --output-dir"),
        (("logs", "x", "--json"), "No such option: --json"),
    ],
)
def test_an_old_name_leads_to_the_new_one(arguments: tuple[str, ...], new: str) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert result.output.rstrip().endswith(new)
