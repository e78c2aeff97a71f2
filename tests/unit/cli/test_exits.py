"""Exit codes mean in all commands what the reference says."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from finetune_cli.app import app
from finetune_cli.errors import CliError


@pytest.mark.parametrize(
    "line",
    [
        "init --data nosuch.csv",
        "validate nosuch.yaml",
        "run nosuch.yaml",
        "plan nosuch.yaml",
        "advise nosuch.yaml",
        "verify nosuch",
        "verify nosuch/versions/default/x/1",
        "chat nosuch -p x",
        "chat nosuch/versions/default/x/1 -p x",
        "compare nosuch/ other/",
        "compare file:///nosuch",
        "report nosuch/ --no-open",
        "report nosuch.yaml --no-open",
        "data inspect nosuch",
        "data prepare nosuch.yaml",
        "data report nosuch",
        "data diff nosuch other",
        "review open nosuch/ --no-open",
        "review submit nosuch/ me.json",
        "review export nosuch/ me.json",
        "review import nosuch/ me.json --from argilla",
        "submit nosuch.yaml",
        "publish nosuch.yaml",
    ],
)
def test_an_input_that_is_not_there_is_a_wrong_name(
    line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    monkeypatch.setattr("finetune_cli.extras.require_trainer", lambda *_, **__: None)
    result = CliRunner().invoke(app, line.split())
    code = result.exit_code
    if isinstance(result.exception, CliError):
        code = result.exception.exit_code
        assert "nosuch" in result.exception.message
        assert "kubeconfig" not in result.exception.message
    assert code == 64
