"""The reference page of the commands says where each of them works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.errors import CliError
from kit.reports.reference import render_cli


def test_every_command_is_named_once_where_it_works() -> None:
    introduction = " ".join(render_cli().partition("\n## ")[0].split())
    told = introduction[introduction.index("too. ") : introduction.index("A cluster is asked")]
    commands = list(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
    assert sorted(re.findall(r"`(\w+)`", told)) == sorted(commands)


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "no-such-folder/", "no-such-other/"],
        ["report", "no-such-folder/"],
        ["publish", "no-such.yaml"],
        ["review", "open", "no-such-folder/"],
    ],
    ids=lambda arguments: arguments[0],
)
def test_commands_that_take_files_ask_no_cluster_for_them(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, CliError)
    assert "no-such" in result.exception.message
    assert "kubeconfig" not in result.exception.message.lower()
