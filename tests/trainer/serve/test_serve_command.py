"""`finetune serve` from the first line to the last: engine, agent and front as real processes."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kit.processes.cli import Cli
from kit.processes.stages import Workbench
from kit.servers.ports import free_port

pytestmark = pytest.mark.timeout(900)


def start(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    folder.mkdir(exist_ok=True)
    cli = Cli(folder, use_fake_trainer=False)
    cli.environment["OMP_NUM_THREADS"] = "1"
    return cli.start("serve", *arguments)


def post(url: str, body: dict[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    request = urllib.request.Request(
        url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"}
    )
    with urllib.request.urlopen(request, timeout=120) as reply:
        return json.load(reply), {key.lower(): value for key, value in reply.headers.items()}


@pytest.fixture
def version(learned: Workbench) -> str:
    return f"file://{learned.output}/versions/default/tiny/1"


def children_of(pid: int) -> Iterator[str]:
    for each in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = each.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if int(fields[1]) == pid:
            yield each.parent.name


def test_a_version_answers_as_it_was_evaluated_until_ctrl_c(
    learned: Workbench, version: str, tmp_path: Path
) -> None:
    port = free_port()
    process = start(tmp_path / "cli", version, "--port", str(port))
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        ready = process.stdout.readline()
        assert ready.startswith("ready: version 1 of tiny"), process.stderr.read()
        lines = (learned.run_folder / "evaluation" / "samples.jsonl").read_text().splitlines()
        samples = [json.loads(line) for line in lines]
        _, equal, _, asked, *_ = process.stdout.readline().split()
        # Answers that the limit cut before any text are not asked again.
        assert 0 < int(asked) <= len(samples)
        assert equal == asked
        for sample in samples[:3]:
            body = {"model": "tiny", "messages": sample["prompt"], "temperature": 0}
            answer, headers = post(
                f"http://127.0.0.1:{port}/v1/chat/completions", {**body, "max_tokens": 8}
            )
            assert answer["choices"][0]["message"]["content"] == sample["tuned"]
            assert headers["x-finetune-version"] == "1"
        with pytest.raises(urllib.error.HTTPError) as refused:
            post(f"http://127.0.0.1:{port}/v1/load_lora_adapter", {"lora_name": "x"})
        with refused.value as error:
            assert error.code == 404
        children = list(children_of(process.pid))
        assert len(children) == 3
    finally:
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors
    assert not [pid for pid in children if Path("/proc", pid).exists()]


def test_a_version_whose_evaluation_was_changed_is_not_served(
    learned: Workbench, tmp_path: Path
) -> None:
    copy = shutil.copytree(learned.output, tmp_path / "out")
    samples = copy / learned.run_folder.relative_to(learned.output) / "evaluation/samples.jsonl"
    # The manifest still names the file that the evaluation wrote.
    samples.write_bytes(samples.read_bytes().replace(b'"tuned": "', b'"tuned": "not '))
    version = f"file://{copy}/versions/default/tiny/1"
    process = start(tmp_path / "cli", version, "--port", str(free_port()))
    out, errors = process.communicate(timeout=600)
    assert (process.returncode, out) == (1, ""), errors
    assert "version 1 of tiny is not served: FilesDamaged" in errors
