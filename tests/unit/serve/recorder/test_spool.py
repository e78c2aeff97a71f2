"""Rows in the recorder's folder, where the disk or another task is in the way."""

from __future__ import annotations

from pathlib import Path

import pytest

from finetune_trainer.serve.recorder.spool import Spool
from kit.serving.traffic import Recorded


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    made = Spool(tmp_path / "spool")
    made.load()
    return made


def test_a_row_that_the_disk_tore_spoils_no_later_row(
    spool: Spool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = Recorded(folder=tmp_path)
    first, second = recorded.answer("first"), recorded.answer("second")
    opened = Path.open

    class FullDisk:
        def __init__(self, path: Path) -> None:
            self._file = opened(path, "ab")

        def __enter__(self) -> FullDisk:
            return self

        def __exit__(self, *_: object) -> None:
            self._file.close()

        def write(self, line: bytes) -> None:
            self._file.write(line[:10])
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", lambda path, mode="r": FullDisk(path))
        with pytest.raises(OSError, match="No space"):
            spool.add([first], 0.0)
    assert spool.add([first, second], 0.0) == 2
    assert [row.id for row in spool.rows_of("headlines")] == [first.id, second.id]
