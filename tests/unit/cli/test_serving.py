"""`finetune serve`: which version it finds, what front and agent follow, and what it prints."""

from __future__ import annotations

import hashlib
import json
import socket
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.finetuneendpoint import FineTuneEndpoint
from finetune_cli.commands.serve import describe
from finetune_cli.errors import CliError
from finetune_cli.local.serving.engines import engine_command
from finetune_cli.local.serving.processes import Serving, check_port, endpoint_of
from finetune_cli.local.serving.version import PublishedVersion, find_version, read_first_prompt
from finetune_trainer.storage import StorageAccess, open_store, publish_folder

RUN = "runs/team/example/u1"
RECORD = {
    "model": "org/model",
    "modelUri": "file:///models/base",
    "revision": "files:1",
    "recipe": {"bfloat16": True},
    "quantization": None,
}


def publish(root: Path, *, number: int, run: str, record: dict[str, Any] = RECORD) -> bytes:
    """Write a version as the trainer does; returns its manifest."""
    folder = root.parent / f"made-{number}"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "run.json").write_text(json.dumps(record))
    store = open_store(f"file://{root}", StorageAccess())
    manifest = publish_folder(store, f"{run}/adapter", folder, created_by="test")
    files = [
        {
            "path": file.path,
            "bytes": file.num_bytes,
            "sha256": file.sha256,
            "key": f"{run}/adapter/{file.object_key}",
        }
        for file in manifest.files
    ]
    uid = run.rpartition("/")[2]
    body = {"files": files, "createdBy": "test", "inputs": {"run": run, "uid": uid}}
    text = json.dumps(body).encode()
    store.write_bytes(f"versions/team/example/{number}/manifest.json", text)
    return text


@pytest.fixture
def root(tmp_path: Path) -> Path:
    publish(tmp_path / "out", number=1, run=RUN)
    samples = tmp_path / "out" / RUN / "evaluation" / "samples.jsonl"
    samples.parent.mkdir()
    samples.write_text('{"prompt": [{"role": "user", "content": "What\'s it?"}]}\n{}\n')
    return tmp_path / "out"


def version_of(root: Path) -> PublishedVersion:
    return find_version(f"file://{root}/versions/team/example/1/manifest.json")


def test_a_version_is_found_by_its_uri(root: Path) -> None:
    version = version_of(root)
    manifest = root / "versions/team/example/1/manifest.json"
    assert (version.namespace, version.job, version.number) == ("team", "example", 1)
    assert version.sha256 == hashlib.sha256(manifest.read_bytes()).hexdigest()
    assert (version.run, version.uid, version.has_adapter) == (RUN, "u1", True)
    assert version.manifest_uri == f"file://{manifest}"
    assert version.record == RECORD


def test_a_run_that_publishes_under_another_name_is_found_by_that_name(root: Path) -> None:
    other = "runs/team/example-f0123456/u4"
    publish(root, number=2, run=other)
    found = find_version(f"file://{root}/{other}", published_as="example")
    assert (found.job, found.number) == ("example", 2)
    with pytest.raises(CliError, match="has published no version"):
        find_version(f"file://{root}/{other}")


def test_a_run_stands_for_the_newest_version_that_it_published(root: Path) -> None:
    publish(root, number=2, run="runs/team/example/u2")
    publish(root, number=10, run="runs/team/example/u3")
    assert find_version(str(root / RUN)).number == 1
    assert find_version(f"{root}/runs/team/example/u3/adapter").number == 10


def test_a_run_that_published_nothing_is_refused(root: Path) -> None:
    with pytest.raises(CliError, match="published no version") as refused:
        find_version(f"{root}/runs/team/example/other")
    assert refused.value.exit_code == 1


@pytest.mark.parametrize("target", ["somewhere", "s3://bucket/models"])
def test_what_is_neither_run_nor_version_is_refused(target: str) -> None:
    with pytest.raises(CliError, match="names no version and no run"):
        find_version(target)


def test_front_and_agent_follow_a_valid_endpoint(root: Path) -> None:
    version = version_of(root)
    before, after = (
        FineTuneEndpoint.from_stored(endpoint_of(version, is_verified=done)).status
        for done in (False, True)
    )
    assert before is not None
    assert after is not None
    assert before.active is None
    assert before.candidate is not None
    assert (before.candidate.adapter, before.candidate.weight) == ("team.example-v1", 0)
    assert after.candidate is None
    assert after.active is not None
    assert after.active.base_model == "file:///models/base"
    assert after.active.storage.uri == f"file://{root}"


def test_captured_answers_go_to_the_named_folder(root: Path, tmp_path: Path) -> None:
    made = endpoint_of(version_of(root), is_verified=True, capture=tmp_path / "kept")
    capture = FineTuneEndpoint.from_stored(made).spec.capture
    assert capture is not None
    assert (capture.share, capture.uri) == ("1", (tmp_path / "kept").as_uri())
    assert "capture" not in endpoint_of(version_of(root), is_verified=True)["spec"]


def test_the_engine_gets_the_base_in_the_type_of_training(root: Path, tmp_path: Path) -> None:
    command = " ".join(engine_command(version_of(root), "Transformers", 7000, tmp_path))
    assert "--model file:///models/base --revision files:1" in command
    assert "--dtype bfloat16" in command
    assert "--quantize" not in command


def test_vllm_that_is_not_installed_is_named(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(CliError, match="no program vllm"):
        engine_command(version_of(root), "vllm", 7000, tmp_path)


def test_code_of_the_model_is_not_run(tmp_path: Path) -> None:
    root = tmp_path / "out"
    publish(root, number=1, run=RUN, record={**RECORD, "trustRemoteCode": True})
    with pytest.raises(CliError, match="runs code that ships with it"):
        engine_command(version_of(root), "Transformers", 7000, tmp_path)


def test_a_port_in_use_is_named_with_its_option() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(CliError, match=f"--port {port}: .*give another --port"):
            check_port(port)


def test_the_printed_lines_ask_a_held_out_question(root: Path) -> None:
    version = version_of(root)
    assert read_first_prompt(version) == [{"role": "user", "content": "What's it?"}]
    serving = Serving(
        url="http://127.0.0.1:8080/v1",
        model="example",
        verification={"numAsked": 50, "numEqual": 49},
        processes={},
    )
    text = describe(serving, version)
    assert text.startswith("ready: version 1 of example answers at http://127.0.0.1:8080/v1\n")
    assert "49 of 50" in text
    assert "curl http://127.0.0.1:8080/v1/chat/completions" in text
    snippet = text[text.index("from openai") : text.index("Ctrl-C")]
    compile(snippet, "snippet", "exec")
    assert "model='example'" in snippet
    assert "answers go" not in text
    page = "http://127.0.0.1:8080/feedback/example"
    told = f"answers go to captured; rate and correct them at {page} (any key opens it)\n"
    assert told in describe(serving, version, Path("captured"))
