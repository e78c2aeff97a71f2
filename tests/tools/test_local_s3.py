"""The local S3 server as a program: the demo starts it this way."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster.process import start_ticks
from finetune_trainer.storage import StorageAccess, open_store
from kit.processes.eventually import eventually

SCRIPT = Path(__file__).parents[2] / "tools" / "local_s3.py"


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_the_server_serves_and_is_gone_with_its_parent(tmp_path, end):
    command = [sys.executable, str(SCRIPT), "--dir", str(tmp_path / "s3"), "--bucket", "demo"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        try:
            answer = json.loads(parent.stdout.readline())
            secret = tmp_path / "secrets" / "s3"
            secret.mkdir(parents=True)
            for key, value in answer["identities"]["read-write"].items():
                (secret / f"AWS_{key.upper()}").write_text(value)
            access = StorageAccess(
                endpoint=answer["endpoint"],
                credentials_dir=tmp_path / "secrets",
                credentials_name="s3",
            )
            store = open_store("s3://demo/p", access)
            store.write_bytes("a", b"1")
            assert store.read_bytes("a") == b"1"
        finally:
            os.kill(parent.pid, end)
    eventually(lambda: start_ticks(answer["pid"]) is None, timeout=15)
