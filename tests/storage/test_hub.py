"""``hf://`` and the base-model cache against a Hub on loopback."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pyarrow as pa
import pytest

from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.prepare.reading.sources import fetch_source, locate
from finetune_trainer.storage import (
    ChecksumMismatch,
    ObjectNotFound,
    StorageAccess,
    open_store,
    stream,
)
from finetune_trainer.storage.models.cache import fetch_model
from kit.processes.eventually import patient

WEIGHTS = os.urandom(300_000)
FILES = {
    "config.json": b"{}",
    "model.safetensors": WEIGHTS,
    "tokenizer.json": b'{"a": 1}',
    "modeling.py": b"print()",
    "pytorch_model.bin": b"pickle",
    "README.md": b"# card",
    "LICENSE": b"Apache-2.0",
    "onnx/model.safetensors": b"other",
}
URI = "hf://org/model"


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://org/rows", ["data/test.csv", "data/train-0.jsonl.zst", "data/train-1.ndjson"]),
        ("hf://datasets/org/rows@main/data/test.csv", ["test.csv"]),
        ("hf://datasets/org/rows/data/train-*", ["train-0.jsonl.zst", "train-1.ndjson"]),
        ("hf://org/rows@main/**/*.csv", ["data/test.csv"]),
    ],
)
def test_a_data_set_is_fetched_whole_by_path_and_by_pattern(hub, tmp_path, uri, expected):
    rows = b'{"text": "a"}\n' * 200
    packed = pa.Codec("zstd").compress(rows, asbytes=True)
    hub.add(
        "datasets/org/rows",
        {
            "data/train-0.jsonl.zst": packed,
            "data/train-1.ndjson": rows,
            "data/test.csv": b"text\na\n",
            "data/script.py": b"print()",
            "README.md": b"# card",
        },
    )
    location = locate(uri)
    files = fetch_source(Source(uri=uri), open_store(location.root), location, tmp_path)
    assert [file.name for file in files] == expected


@pytest.fixture
def access(tmp_path):
    """Access with the right token in a Secret."""
    secret = tmp_path / "secrets" / "hub"
    secret.mkdir(parents=True)
    (secret / "HF_TOKEN").write_text("hf_good\n")
    return StorageAccess(credentials_dir=tmp_path / "secrets", credentials_name="hub")


def test_a_revision_is_resolved_to_a_commit_and_safe_files_are_read(hub):
    commit = hub.add("org/model", FILES)
    store = open_store(f"{URI}@main")
    assert store.commit == commit
    hub.add("org/model", {"config.json": b"[]"})
    assert [info.key for info in store.list()] == [
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
        "onnx/model.safetensors",
        "tokenizer.json",
    ]
    assert store.read_bytes("config.json") == b"{}"
    assert b"".join(store.read_chunks("model.safetensors")) == WEIGHTS


def test_pickles_code_and_absent_files_are_not_read(hub):
    hub.add("org/model", FILES)
    store = open_store(URI)
    for name in ("pytorch_model.bin", "modeling.py"):
        with pytest.raises(UserError) as caught:
            store.read_bytes(name)
        assert caught.value.reason == "UnsafeFile"
    with pytest.raises(ObjectNotFound):
        store.read_bytes("absent.json")


def test_the_hub_is_read_only(hub, tmp_path):
    store = open_store(URI)
    for act in (
        lambda: store.write_bytes("a", b""),
        lambda: store.upload_file(tmp_path / "a", "a"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(UserError, match="read-only"):
            act()


def test_the_token_goes_to_the_hub_and_not_to_its_cdn(hub, access, tmp_path):
    hub.add("org/model", FILES, private=True)
    fetch_model(URI, None, access, tmp_path / "cache")
    assert {request.token for request in hub.requests if not request.on_cdn} == {"hf_good"}
    assert {request.token for request in hub.requests if request.on_cdn} == {None}


def test_a_fetched_model_is_whole_and_served_from_the_cache(hub, tmp_path):
    commit = hub.add("org/model", FILES)
    folder, revision = fetch_model(URI, "main", StorageAccess(), tmp_path)
    assert revision == commit
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert sorted(os.listdir(folder)) == [
        "LICENSE",
        "README.md",
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    hub.requests.clear()
    assert fetch_model(URI, "main", StorageAccess(), tmp_path) == (folder, commit)
    assert [request.path for request in hub.requests] == ["/api/models/org/model/revision/main"]
    hub.requests.clear()
    assert fetch_model(URI, commit, StorageAccess(), tmp_path) == (folder, commit)
    assert fetch_model(f"{URI}@{commit}", None, StorageAccess(), tmp_path) == (folder, commit)
    assert hub.requests == []


def test_a_run_stays_at_the_commit_it_began_with(hub, tmp_path):
    commit = hub.add("org/model", FILES)
    first = fetch_model(f"{URI}@main", None, StorageAccess(), tmp_path)
    hub.add("org/model", FILES | {"config.json": b"[]"})
    again = fetch_model(f"{URI}@main", None, StorageAccess(), tmp_path, pinned=commit)
    assert again == first
    elsewhere = fetch_model(f"{URI}@main", None, StorageAccess(), tmp_path / "new", pinned=commit)
    assert elsewhere[1] == commit
    assert (elsewhere[0] / "config.json").read_bytes() == FILES["config.json"]


def test_a_moved_branch_is_another_model(hub, tmp_path):
    hub.add("org/model", FILES)
    first = fetch_model(URI, None, StorageAccess(), tmp_path)
    commit = hub.add("org/model", FILES | {"config.json": b"[]"})
    folder, revision = fetch_model(URI, None, StorageAccess(), tmp_path)
    assert revision == commit
    assert folder != first[0]
    assert (folder / "config.json").read_bytes() == b"[]"


def test_code_is_fetched_only_when_asked_for(hub, tmp_path):
    hub.add("org/model", FILES)
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path, allow_code=True)
    assert (folder / "modeling.py").exists()
    assert not (folder / "pytorch_model.bin").exists()


def test_a_cut_download_resumes_within_a_call(hub, tmp_path):
    hub.add("org/model", FILES)
    hub.cut_bytes = 100_000
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [request.range for request in hub.downloads("model.safetensors")] == [
        None,
        "bytes=100000-",
        "bytes=200000-",
    ]


def test_a_download_of_a_killed_process_resumes_in_the_next(hub, tmp_path, monkeypatch):
    hub.add("org/model", FILES)
    hub.cut_bytes = 100_000
    monkeypatch.setattr(stream, "MAX_ATTEMPTS", 1)
    with pytest.raises(StorageError) as caught:
        fetch_model(URI, None, StorageAccess(), tmp_path)
    assert caught.value.reason == "Unreachable"
    hub.cut_bytes = None
    hub.requests.clear()
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [request.range for request in hub.downloads("model.safetensors")] == ["bytes=100000-"]


def test_damaged_bytes_are_refused_and_not_kept(hub, tmp_path):
    hub.add("org/model", FILES)
    hub.damage = True
    with pytest.raises(ChecksumMismatch, match="arrived damaged"):
        fetch_model(URI, None, StorageAccess(), tmp_path)
    hub.damage = False
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "config.json").read_bytes() == b"{}"


def flip(path):
    """Change one byte in the middle; the size stays."""
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("harm", [flip, cut, os.unlink])
def test_a_cached_file_that_changed_is_told_and_alone_fetched_again(hub, tmp_path, harm):
    hub.add("org/model", FILES)
    folder, commit = fetch_model(URI, None, StorageAccess(), tmp_path)
    harm(folder / "model.safetensors")
    hub.requests.clear()
    told = []
    assert fetch_model(URI, commit, StorageAccess(), tmp_path, tell=told.append) == (folder, commit)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert [len(hub.downloads(name)) for name in ("model.safetensors", "config.json")] == [1, 0]
    assert len(told) == 1
    assert f"1 of 5 cached files of {URI} at {commit}" in told[0]
    assert "first model.safetensors (expected" in told[0]
    hub.requests.clear()
    fetch_model(URI, commit, StorageAccess(), tmp_path, tell=told.append)
    assert len(told) == 1
    assert hub.requests == []


def test_what_a_killed_process_left_is_kept_only_if_it_has_its_digest(hub, tmp_path, monkeypatch):
    files = FILES | {"model-2.safetensors": os.urandom(300_000)}
    hub.add("org/model", files)
    hub.cut_bytes = 290_000
    monkeypatch.setattr(stream, "MAX_ATTEMPTS", 1)
    with pytest.raises(StorageError):
        fetch_model(URI, None, StorageAccess(), tmp_path)
    hub.cut_bytes = None
    [partial] = (tmp_path / "models").glob("*.partial")
    (partial / "model.safetensors").write_bytes(os.urandom(300_000))
    (partial / "model-2.safetensors").write_bytes(files["model-2.safetensors"])
    hub.requests.clear()
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path)
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert (folder / "model-2.safetensors").read_bytes() == files["model-2.safetensors"]
    assert hub.downloads("model-2.safetensors") == []


@pytest.mark.parametrize(
    ("uri", "options", "reason", "part"),
    [
        ("hf://org/absent", {}, "ModelNotFound", "hf://org/absent"),
        (URI, {"private": True}, "ModelNotFound", "HF_TOKEN"),
        (URI, {"gated": True}, "ModelGated", "Accept its terms"),
        (f"{URI}@v9", {}, "RevisionNotFound", "@v9"),
    ],
)
def test_what_the_hub_refuses_says_what_to_check(hub, tmp_path, uri, options, reason, part):
    hub.add("org/model", FILES, **options)
    with pytest.raises(UserError) as caught:
        fetch_model(uri, None, StorageAccess(), tmp_path)
    assert caught.value.reason == reason
    assert part in caught.value.message


def test_a_secret_without_a_token_is_named(hub, tmp_path):
    hub.add("org/model", FILES, gated=True)
    (tmp_path / "s3").mkdir()
    access = StorageAccess(credentials_dir=tmp_path, credentials_name="s3")
    with pytest.raises(UserError, match="Secret 's3' has no key 'HF_TOKEN'"):
        fetch_model(URI, None, access, tmp_path / "cache")


def test_two_revisions_for_one_model_are_refused(hub, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch_model(f"{URI}@v1", "v2", StorageAccess(), tmp_path)
    assert caught.value.reason == "RevisionMismatch"


def test_a_repository_without_safetensors_is_refused_before_any_download(hub, tmp_path):
    hub.add("org/model", {"config.json": b"{}", "pytorch_model.bin": WEIGHTS})
    with pytest.raises(UserError) as caught:
        fetch_model(URI, None, StorageAccess(), tmp_path)
    assert caught.value.reason == "ModelUnusable"
    assert not any("resolve" in request.path for request in hub.requests)


def test_an_unreachable_hub_is_a_storage_error(hub, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(StorageError) as caught:
        fetch_model(URI, None, StorageAccess(), tmp_path)
    assert caught.value.reason == "Unreachable"
    assert "HF_ENDPOINT" in caught.value.message


PROGRAM = """
import json, sys
from pathlib import Path
from finetune_trainer.errors import TrainerError
from finetune_trainer.storage import StorageAccess
from finetune_trainer.storage.models.cache import fetch_model
try:
    folder, revision = fetch_model(sys.argv[1], None, StorageAccess(), Path(sys.argv[2]))
    print(json.dumps([str(folder), revision]))
except TrainerError as error:
    print(json.dumps([error.reason, error.message]))
"""


def start_fetch(uri, cache, **environment):
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, uri, str(cache)],
        env={**os.environ, "PYTHONPATH": ":".join(sys.path), **environment},
        stdout=subprocess.PIPE,
        text=True,
    )


def finish(process):
    return json.loads(process.communicate(timeout=patient(60))[0])


def test_processes_of_one_node_share_one_download(hub, tmp_path):
    commit = hub.add("org/model", FILES)
    processes = [start_fetch(URI, tmp_path) for _ in range(3)]
    results = [finish(process) for process in processes]
    assert results == [results[0]] * 3
    assert results[0][1] == commit
    assert len(hub.downloads("model.safetensors")) == 1
    assert len(hub.downloads("config.json")) == 1


def test_an_offline_node_uses_what_it_has(hub, tmp_path):
    commit = hub.add("org/model", FILES)
    folder, _ = fetch_model(URI, None, StorageAccess(), tmp_path)
    hub.add("org/model", FILES | {"config.json": b"[]"})
    hub.requests.clear()
    offline = start_fetch(URI, tmp_path, HF_HUB_OFFLINE="1")
    assert finish(offline) == [str(folder), commit]
    absent = start_fetch("hf://org/absent", tmp_path, HF_HUB_OFFLINE="1")
    reason, message = finish(absent)
    assert reason == "ModelNotFound"
    assert "HF_HUB_OFFLINE" in message
    assert hub.requests == []


def test_an_offline_node_uses_the_cache_of_huggingface_hub(hub, tmp_path):
    commit = "a" * 40
    repository = tmp_path / "hub" / "models--org--cached"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for key in ("config.json", "model.safetensors"):
        (snapshot / key).write_bytes(FILES[key])
    process = start_fetch(
        "hf://org/cached", tmp_path / "cache", HF_HUB_OFFLINE="1", HF_HOME=str(tmp_path)
    )
    assert finish(process) == [str(snapshot), commit]
    # Its files are links to blobs that are named by their digest.
    blobs = repository / "blobs"
    blobs.mkdir()
    blob = blobs / hashlib.sha256(WEIGHTS).hexdigest()
    blob.write_bytes(WEIGHTS)
    (snapshot / "model.safetensors").unlink()
    (snapshot / "model.safetensors").symlink_to(blob)
    start = ("hf://org/cached", tmp_path / "cache")
    environment = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    assert finish(start_fetch(*start, **environment)) == [str(snapshot), commit]
    flip(blob)
    reason, message = finish(start_fetch(*start, **environment))
    assert reason == "ModelUnusable"
    assert str(blob) in message
