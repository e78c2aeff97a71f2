"""Fixtures of the storage tests: a real S3 server, and a Hub on loopback."""

from __future__ import annotations

import pytest

from finetune_trainer.storage import stream
from kit.servers.fake_hub import fake_hub
from kit.servers.seaweedfs import s3

__all__ = ["hub", "s3"]


@pytest.fixture
def hub(monkeypatch, tmp_path):
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    # The library reads its switch when it is first imported, which may be long ago.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr(stream, "_backoff_seconds", lambda failures: 0.0)
    with fake_hub() as running:
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running
    from huggingface_hub.utils import close_session

    close_session()
