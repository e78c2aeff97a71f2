"""What is recorded of a real Kueue replaces a committed file, so nothing starts by mistake."""

from __future__ import annotations

import pytest

from devcluster import starting
from record_workloads import main


@pytest.mark.parametrize(("argument", "code"), [("--help", 0), ("--dry-run", 2)])
def test_help_and_unknown_arguments_start_nothing(
    argument: str, code: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(starting, "start_control_plane", lambda **_: pytest.fail("started"))
    with pytest.raises(SystemExit) as ended:
        main([argument])
    assert ended.value.code == code
    assert "usage: " in "".join(capsys.readouterr())
