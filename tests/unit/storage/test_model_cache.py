"""Base models: local ones are used in place, others cached; what is no model is refused."""

from __future__ import annotations

import hashlib
import json

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.storage import ObjectInfo, StorageAccess, open_store, publish_folder
from finetune_trainer.storage.models.cache import fetch_model
from finetune_trainer.storage.models.files import ModelSelection

ACCESS = StorageAccess()


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(bytes(3_000_000))
    return folder


@pytest.mark.parametrize("form", ["file://{}", "{}"])
def test_a_local_model_is_used_where_it_is(model, tmp_path, form):
    folder, revision = fetch_model(form.format(model), "main", ACCESS, tmp_path / "cache")
    assert folder == model
    assert revision.startswith("files:")
    assert not (tmp_path / "cache").exists()


def test_the_revision_of_a_local_model_follows_its_content(model, tmp_path):
    first = fetch_model(str(model), None, ACCESS, tmp_path)[1]
    assert fetch_model(str(model), first, ACCESS, tmp_path)[1] == first
    with (model / "model.safetensors").open("r+b") as file:
        file.write(b"changed header")
    with pytest.raises(UserError) as caught:
        fetch_model(str(model), first, ACCESS, tmp_path)
    assert caught.value.reason == "RevisionMismatch"
    assert first in caught.value.message


def test_a_local_model_with_a_manifest_is_known_by_it(model, tmp_path):
    manifest = publish_folder(open_store(str(tmp_path / "s")), "m", model, created_by="t")
    published = tmp_path / "s" / "m"
    assert fetch_model(str(published), None, ACCESS, tmp_path)[1] == f"sha256:{manifest.digest}"
    (published / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(UserError) as caught:
        fetch_model(str(published), None, ACCESS, tmp_path)
    assert caught.value.reason == "ModelUnusable"
    assert "has 3 bytes, its manifest says 3000000" in caught.value.message


def test_a_published_model_whose_bytes_changed_is_refused_whatever_its_size(model, tmp_path):
    publish_folder(open_store(str(tmp_path / "s")), "m", model, created_by="t")
    published = tmp_path / "s" / "m"
    damage(published / "model.safetensors", at=1_500_000)
    with pytest.raises(UserError, match=r"first model\.safetensors \(expected sha256") as caught:
        fetch_model(str(published), None, ACCESS, tmp_path)
    assert caught.value.reason == "ModelUnusable"
    assert fetch_model(str(published), None, ACCESS, tmp_path, include_weights=False)


def damage(path, *, at):
    """Change one byte; the size stays."""
    with path.open("r+b") as file:
        file.seek(at)
        before = file.read(1)
        file.seek(at)
        file.write(bytes([before[0] ^ 1]))


@pytest.mark.parametrize(
    ("files", "reason", "part"),
    [
        (None, "ModelNotFound", "no model folder"),
        ([], "ModelNotFound", "no file under"),
        (["model.safetensors"], "ModelNotFound", "no config.json. It holds model.safetensors"),
        (["config.json", "pytorch_model.bin"], "ModelUnusable", "safe_serialization"),
        (["config.json", "onnx/model.safetensors"], "ModelUnusable", "no .safetensors"),
    ],
)
def test_what_is_no_model_is_refused_with_what_is_there(tmp_path, files, reason, part):
    folder = tmp_path / "model"
    if files is not None:
        folder.mkdir()
        for name in files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(b"x")
    with pytest.raises(UserError) as caught:
        fetch_model(str(folder), None, ACCESS, tmp_path / "cache")
    assert caught.value.reason == reason
    assert part in caught.value.message


def test_only_a_tokenizer_may_do(model, tmp_path):
    (model / "model.safetensors").unlink()
    assert fetch_model(str(model), None, ACCESS, tmp_path, include_weights=False)[0] == model


@pytest.mark.parametrize(
    ("selection", "chosen"),
    [
        ({}, "config.json model.safetensors tokenizer.model"),
        ({"include_weights": False}, "config.json tokenizer.model"),
        ({"allow_code": True}, "config.json model.safetensors modeling.py tokenizer.model"),
    ],
)
def test_wanted_files_are_chosen(selection, chosen):
    names = (
        "config.json consolidated.safetensors model.safetensors modeling.py onnx/m.safetensors "
        "pytorch_model.bin tokenizer.model"
    )
    files = [ObjectInfo(key=name, num_bytes=1) for name in names.split()]
    got = ModelSelection(**selection).choose(files)
    assert " ".join(file.key for file in got) == chosen


def test_a_model_in_the_other_layout_only_keeps_it():
    files = [
        ObjectInfo(key=name, num_bytes=1) for name in ("config.json", "consolidated.safetensors")
    ]
    assert ModelSelection().choose(files) == files


def test_records_of_the_cache_are_json_without_secrets(tmp_path, model):
    # The folder store behaves as a remote one when it is reached by another scheme; here only the
    # record's shape is of interest, the rest is tested against real servers.
    from finetune_trainer.storage.models.cache import _Cache, _download_files

    store = open_store(str(model))
    files = list(store.list())
    seconds: list[float] = []
    cache = _Cache(
        folder=tmp_path / "cache",
        selection=ModelSelection(),
        tell=lambda _: None,
        on_download=seconds.append,
    )
    folder = cache.get("s3://b/m", "r1", files, lambda to: _download_files(store, files, to))
    record = json.loads(folder.with_name(folder.name + ".json").read_text())
    assert record == {
        "uri": "s3://b/m",
        "revision": "r1",
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in (("config.json", b"{}"), ("model.safetensors", bytes(3_000_000)))
        },
    }
    assert cache.find("s3://b/m", "r1") == folder
    (folder / "config.json").write_text("damaged by hand")
    assert cache.find("s3://b/m", "r1") is None
    again = cache.get("s3://b/m", "r1", files, lambda to: _download_files(store, files, to))
    assert again == folder
    assert (folder / "config.json").read_text() == "{}"
    assert len(seconds) == 2
