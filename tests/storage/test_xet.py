"""Large files of ``hf://`` come from Xet storage, by the real hf-xet; its server is a folder."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from finetune_trainer.storage import StorageAccess, open_store, stream
from finetune_trainer.storage.hub import xet
from finetune_trainer.storage.models.cache import fetch_model

WEIGHTS = os.urandom(300_000)
FILES = {"config.json": b"{}", "model.safetensors": WEIGHTS}
URI = "hf://org/model"


@pytest.fixture
def storage(hub, tmp_path, monkeypatch):
    """The folder of Xet storage, with the weights of a model of the Hub."""
    folder = tmp_path / "storage"
    folder.mkdir()
    monkeypatch.setenv("HF_XET_CACHE", str(tmp_path / "xet"))
    monkeypatch.setattr(xet, "_made", None)
    monkeypatch.setattr(xet, "MIN_BYTES", len(WEIGHTS))
    hub.add("org/model", FILES)
    hub.add_xet_storage(folder, WEIGHTS)
    return folder


def test_weights_come_from_xet_storage_and_small_files_do_not(hub, storage, tmp_path):
    told = []
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path / "cache", tell=told.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b"{}"
    assert hub.downloads("model.safetensors") == []
    assert told == []


def test_a_download_of_a_killed_process_goes_on_where_it_broke_off(hub, storage, tmp_path):
    path = tmp_path / "model.safetensors"
    store = open_store(URI)
    (version,) = (info.version for info in store.list("model"))
    stream.partial_path(path).write_bytes(WEIGHTS[:100_001])
    stream._note_version(path, version)
    body = store.open_range("model.safetensors", 100_001, version)
    assert body.offset == 100_001
    assert b"".join(body.chunks) == WEIGHTS[100_001:]
    store.download_file("model.safetensors", path)
    assert path.read_bytes() == WEIGHTS
    assert hub.downloads("model.safetensors") == []


def test_plain_http_goes_on_when_xet_storage_cannot_be_reached(hub, storage, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_XET_CLIENT_RETRY_MAX_ATTEMPTS", "0")
    hub.xet_url = "http://127.0.0.1:9"
    told = []
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path / "cache", tell=told.append)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert len(hub.downloads("model.safetensors")) == 1
    assert len(told) == 1
    assert "Allow *.hf.co" in told[0]


def test_it_can_be_switched_off(hub, storage, tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
    fetch_model(URI, None, StorageAccess(), tmp_path / "cache")
    assert len(hub.downloads("model.safetensors")) == 1


PROGRAM = f"""
from pathlib import Path
from finetune_trainer.storage import StorageAccess
from finetune_trainer.storage.hub import xet
from finetune_trainer.storage.models.cache import fetch_model
from hf_xet import XetConfig
xet.MIN_BYTES = {len(WEIGHTS)}
assert not XetConfig().get("telemetry.enabled")
fetch_model({URI!r}, None, StorageAccess(), Path("cache"))
"""


def test_hf_xet_writes_below_home_alone(hub, storage, tmp_path):
    """A pod's HOME is /tmp, and its root file system may be read-only."""
    home, folder = tmp_path / "home", tmp_path / "folder"
    home.mkdir()
    folder.mkdir()
    places = ("HF_HOME", "HF_XET_CACHE", "XDG_CACHE_HOME")
    environment = {k: v for k, v in os.environ.items() if k not in places}
    environment |= {"HOME": str(home), "PYTHONPATH": ":".join(sys.path), "DO_NOT_TRACK": "1"}
    subprocess.run([sys.executable, "-c", PROGRAM], cwd=folder, env=environment, check=True)
    assert hub.downloads("model.safetensors") == []
    assert [path.name for path in folder.iterdir()] == ["cache"]
    written = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert {path.parts[:3] for path in written} == {(".cache", "huggingface", "xet")}
