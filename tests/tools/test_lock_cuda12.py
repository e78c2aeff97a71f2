"""A lock with torch for CUDA 12 is written whole and verified, or not at all."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
INDEX = "https://torch.example.org/cu126"
RESOLVER = """#!/usr/bin/env bash
# In place of uv: keeps what it was given and answers with a lock.
while [ $# -gt 0 ]; do
  case "$1" in
    --constraint) cp "$2" {kept}/versions.txt ;;
    --output-file) cp {kept}/answer.lock "$2" ;;
    */pyproject.toml) cp "$1" {kept}/pyproject.toml ;;
  esac
  shift
done
"""
HASHED = "torch==2.13.0+cu126 \\\n    --hash=sha256:00\n"


def lock(folder: Path, answer: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    for path in ("tools/lock_cuda12.sh", "pyproject.toml", "requirements/trainer.lock"):
        (folder / path).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / path, folder / path)
    (folder / "answer.lock").write_text(answer)
    (folder / "uv").write_text(RESOLVER.format(kept=folder))
    (folder / "uv").chmod(0o755)
    return subprocess.run(
        [folder / "tools" / "lock_cuda12.sh", *arguments],
        env={"PATH": f"{folder}:/usr/bin:/bin"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_torch_changes_and_all_but_cuda_keeps_its_version(tmp_path: Path) -> None:
    assert lock(tmp_path, HASHED, INDEX).returncode == 0
    assert (tmp_path / "requirements" / "trainer-cuda12.lock").read_text() == HASHED
    versions = (tmp_path / "versions.txt").read_text().splitlines()
    pinned = re.findall(
        r"^[\w.-]+==[^\s\\]+", (tmp_path / "requirements/trainer.lock").read_text(), re.M
    )
    free = re.compile("(torch|triton|cuda-.*|nvidia-.*)==.*")
    assert {line.split(" ")[0] for line in versions} == {
        *(pin for pin in pinned if not free.fullmatch(pin)),
        "torch==2.13.0+cu126",
    }
    project = (tmp_path / "pyproject.toml").read_text()
    assert f'url = "{INDEX}"\nexplicit = true' in project  # nothing but torch comes from there


@pytest.mark.parametrize(
    ("answer", "arguments", "message"),
    [
        (HASHED, [], "name the index"),
        (HASHED, [INDEX, "cu130"], "cu130 is not a build for CUDA 12"),
        (HASHED + "nvidia-cudnn-cu13==9.20.0.48 \\\n", [INDEX], "needs CUDA 13 (nvidia-cudnn-cu13"),
        (HASHED + "cuda-bindings==13.5.0 \\\n", [INDEX], "needs CUDA 13 (cuda-bindings==13.5.0"),
        ("torch==2.13.0+cu126\n", [INDEX], "no sha256 of torch 2.13.0+cu126"),
    ],
)
def test_no_lock_is_written_that_would_not_do(
    answer: str, arguments: list[str], message: str, tmp_path: Path
) -> None:
    ended = lock(tmp_path, answer, *arguments)
    assert ended.returncode != 0
    assert message in ended.stderr
    assert not (tmp_path / "requirements" / "trainer-cuda12.lock").exists()
