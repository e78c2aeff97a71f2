"""`finetune verify` on published folders and versions in a local store."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from finetune_cli.errors import CliError
from finetune_cli.local.verify import fetch_uri, find_adapter, verify_uri
from finetune_trainer.storage import StorageAccess, open_store, publish_folder

RUN = "runs/default/example/u1"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "made"
    folder.mkdir()
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    (folder / "adapter_config.json").write_text("{}")
    store = open_store(f"file://{tmp_path}/out", StorageAccess())
    manifest = publish_folder(store, f"{RUN}/adapter", folder, created_by="test")
    version = {
        "files": [
            {
                "path": file.path,
                "bytes": file.num_bytes,
                "sha256": file.sha256,
                "key": f"{RUN}/adapter/{file.object_key}",
            }
            for file in manifest.files
        ],
        "createdBy": "test",
        "inputs": {"run": RUN, "uid": "u1"},
    }
    key = "versions/default/example/1/manifest.json"
    store.write_bytes(key, json.dumps(version).encode())
    return tmp_path / "out"


def test_whole_folder_is_verified(root: Path) -> None:
    verified = verify_uri(f"file://{root}/{RUN}/adapter")
    assert [file.path for file in verified.files] == [
        "adapter_config.json",
        "adapter_model.safetensors",
    ]
    assert verified.num_bytes == 9


@pytest.mark.parametrize("suffix", ["", "/", "/manifest.json"])
def test_version_leads_to_its_files(root: Path, suffix: str) -> None:
    uri = f"file://{root}/versions/default/example/1{suffix}"
    assert verify_uri(uri).folder_uri == f"file://{root}/{RUN}/adapter"
    assert find_adapter(uri) == f"file://{root}/{RUN}/adapter"


def test_changed_file_is_named(root: Path) -> None:
    (root / RUN / "adapter" / "adapter_config.json").write_text("[]")
    for uri in (f"file://{root}/{RUN}/adapter", f"file://{root}/versions/default/example/1"):
        with pytest.raises(CliError, match=r"adapter_config\.json") as caught:
            verify_uri(uri)
        assert caught.value.exit_code == 1


def test_folder_without_manifest_is_refused(root: Path) -> None:
    (root / RUN / "adapter" / "manifest.json").unlink()
    with pytest.raises(CliError, match=r"has no manifest\.json") as caught:
        verify_uri(f"file://{root}/{RUN}/adapter")
    assert caught.value.exit_code == 1


def test_output_root_is_no_folder_to_delete_but_tells_what_to_verify(root: Path) -> None:
    for place in (f"file://{root}", str(root)):
        with pytest.raises(CliError) as caught:
            verify_uri(place)
        assert caught.value.exit_code == 1
        assert f"file://{root}/{RUN}/adapter, " in caught.value.message
        assert f"file://{root}/versions/default/example/1. " in caught.value.message
        assert "delete" not in caught.value.message


def test_version_that_was_retrained_is_refused(root: Path) -> None:
    path = root / "versions/default/example/1/manifest.json"
    body = json.loads(path.read_text())
    body["files"][0]["sha256"] = "0" * 64
    path.write_text(json.dumps(body))
    with pytest.raises(CliError, match=r"adapter_config\.json expected .* 0000") as caught:
        verify_uri(f"file://{root}/versions/default/example/1")
    assert caught.value.exit_code == 1


def test_version_may_point_at_files_of_two_folders(root: Path, tmp_path: Path) -> None:
    card = b"# scores"
    (root / RUN / "evaluation").mkdir()
    (root / RUN / "evaluation" / "README.md").write_bytes(card)
    path = root / "versions/default/example/1/manifest.json"
    body = json.loads(path.read_text())
    body["files"].append(
        {
            "path": "README.md",
            "bytes": len(card),
            "sha256": hashlib.sha256(card).hexdigest(),
            "key": f"{RUN}/evaluation/README.md",
        }
    )
    path.write_text(json.dumps(body))
    uri = f"file://{path}"
    assert verify_uri(uri).files[0].path == "README.md"
    assert fetch_uri(uri, tmp_path / "copy") == (3, 9 + len(card))
    assert (tmp_path / "copy" / "README.md").read_bytes() == card
    (root / RUN / "evaluation" / "README.md").write_bytes(b"# SCORES")
    for read in (verify_uri, lambda uri: fetch_uri(uri, tmp_path / "other")):
        with pytest.raises(CliError, match=r"README\.md"):
            read(uri)


def test_unknown_scheme_is_a_user_error() -> None:
    with pytest.raises(CliError) as caught:
        verify_uri("ftp://a/b")
    assert caught.value.exit_code == 64
