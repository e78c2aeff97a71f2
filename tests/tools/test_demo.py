"""Two demos of one user: the second is told of the first and harms nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from folder_lock import LOCK_NAME, FolderInUse, empty_folder, hold_folder

TOOLS = Path(__file__).parents[2] / "tools"
HOLD = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from folder_lock import hold_folder
with hold_folder(Path(sys.argv[2])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The demo's folder, in use: something of it lies there."""
    folder = tmp_path / "finetune-operator" / "demo"
    (folder / "s3" / "data").mkdir(parents=True)
    (folder / "s3" / "identities.json").write_text("{}")
    return folder


@pytest.fixture
def holder(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that holds the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(TOOLS), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


@pytest.mark.parametrize("options", [[], ["--clean"]])
def test_second_demo_names_the_first_and_leaves_its_files(
    holder: subprocess.Popen[str], folder: Path, tmp_path: Path, options: list[str]
) -> None:
    done = subprocess.run(
        [sys.executable, str(TOOLS / "demo.py"), *options],
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 1
    assert f"process {holder.pid} is using {folder}" in done.stderr
    assert "XDG_CACHE_HOME" in done.stderr
    assert "Traceback" not in done.stderr
    assert (folder / "s3" / "identities.json").exists()


def test_killed_holder_leaves_the_folder_free(holder: subprocess.Popen[str], folder: Path) -> None:
    with pytest.raises(FolderInUse), hold_folder(folder):
        pass
    holder.kill()
    holder.wait()
    with hold_folder(folder):
        assert (folder / LOCK_NAME).read_text() == f"{os.getpid()}\n"


def test_emptied_folder_keeps_its_lock(folder: Path) -> None:
    with hold_folder(folder):
        empty_folder(folder)
        assert [path.name for path in folder.iterdir()] == [LOCK_NAME]
        with pytest.raises(FolderInUse), hold_folder(folder):
            pass
