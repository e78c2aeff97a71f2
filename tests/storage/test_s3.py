"""S3 as users meet it: wrong keys, missing buckets, cut lines, full disks, rivals."""

from __future__ import annotations

import os
import subprocess
from concurrent.futures import ThreadPoolExecutor

import pytest

from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.storage import (
    ChecksumMismatch,
    IncompleteFolder,
    OtherWriterWon,
    StorageAccess,
    fetch_folder,
    open_store,
    publish_folder,
    stream,
    verify_folder,
)
from finetune_trainer.storage.models.cache import fetch_model
from finetune_trainer.storage.s3 import store as s3_module
from finetune_trainer.storage.stream import partial_path
from kit.servers.cutting_proxy import cutting_proxy

MIB = 1024 * 1024


def make_folder(path, files):
    for key, data in files.items():
        (path / key).parent.mkdir(parents=True, exist_ok=True)
        (path / key).write_bytes(data)
    return path


def test_of_16_publishers_with_other_content_one_wins_whole(s3, tmp_path):
    store = s3.open(s3.new_uri())

    def publish(number):
        folder = make_folder(
            tmp_path / f"{number}",
            {"a.json": b"%d" % number, "sub/b": os.urandom(1000), "same": b"same"},
        )
        try:
            publish_folder(store, "adapter", folder, created_by=f"writer-{number}")
        except OtherWriterWon:
            return None
        return number

    with ThreadPoolExecutor(16) as pool:
        winners = [number for number in pool.map(publish, range(16)) if number is not None]
    assert len(winners) == 1
    manifest = fetch_folder(store, "adapter", tmp_path / "in")
    assert manifest.created_by == f"writer-{winners[0]}"
    for name in ("a.json", "sub/b", "same"):
        published = tmp_path / f"{winners[0]}" / name
        assert (tmp_path / "in" / name).read_bytes() == published.read_bytes()


def test_publishers_of_the_same_content_all_succeed(s3, tmp_path):
    store = s3.open(s3.new_uri())
    folder = make_folder(tmp_path / "out", {"a": b"1", "large": os.urandom(9 * MIB)})
    with ThreadPoolExecutor(16) as pool:
        manifests = list(
            pool.map(
                lambda number: publish_folder(store, "d", folder, created_by=f"{number}"), range(6)
            )
        )
    assert len({manifest.created_by for manifest in manifests}) == 1
    assert verify_folder(store, "d").extra_files == ()


def test_a_tampered_object_is_named_by_fetch_and_verify(s3, tmp_path):
    bucket = s3.new_bucket()
    store = s3.open(f"s3://{bucket}/p")
    folder = make_folder(tmp_path / "out", {"weights": b"w" * 100, "config.json": b"{}"})
    publish_folder(store, "adapter", folder, created_by="t")
    s3.client().put_object(Bucket=bucket, Key="p/adapter/weights", Body=b"v" * 100)
    for read in (
        lambda: fetch_folder(store, "adapter", tmp_path / "in"),
        lambda: verify_folder(store, "adapter"),
    ):
        with pytest.raises(ChecksumMismatch, match="weights"):
            read()
    assert not (tmp_path / "in" / "weights").exists()


def test_a_folder_without_manifest_is_refused(s3, tmp_path):
    store = s3.open(s3.new_uri())
    store.write_bytes("adapter/weights", b"1")
    with pytest.raises(IncompleteFolder, match=r"/adapter has no manifest\.json.*weights"):
        fetch_folder(store, "adapter", tmp_path / "in")


def test_a_missing_bucket_is_named_with_endpoint_and_remedy(s3, tmp_path):
    store = s3.open("s3://no-such-bucket/p")
    (tmp_path / "large").write_bytes(bytes(9 * MIB))
    for act in (
        lambda: store.write_bytes("a", b"1"),
        lambda: store.write_bytes("a", b"1", if_absent=True),
        lambda: store.upload_file(tmp_path / "large", "a"),
        lambda: store.read_bytes("a"),
        lambda: list(store.list()),
    ):
        with pytest.raises(UserError) as caught:
            act()
        assert caught.value.reason == "BucketNotFound"
        for part in ("'no-such-bucket'", s3.endpoint, "Create it"):
            assert part in caught.value.message


@pytest.mark.parametrize("wrong", ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"])
def test_a_wrong_key_names_the_secret_and_never_shows_it(s3, tmp_path, wrong):
    s3.server.write_credentials(tmp_path, "broken")
    (tmp_path / "broken" / wrong).write_text("WRONGWRONGWRONGWRONG")
    secret = (tmp_path / "broken" / "AWS_SECRET_ACCESS_KEY").read_text()
    access = StorageAccess(
        endpoint=s3.endpoint, credentials_dir=tmp_path, credentials_name="broken"
    )
    store = open_store(s3.new_uri(), access)
    for act in (lambda: store.write_bytes("a", b"1"), lambda: store.exists("a")):
        with pytest.raises(UserError) as caught:
            act()
        assert caught.value.reason == "AccessDenied"
        assert "Secret 'broken'" in caught.value.message
        assert "****" in caught.value.message
        assert secret not in caught.value.message


def test_a_secret_without_the_key_is_named(s3, tmp_path):
    s3.server.write_credentials(tmp_path, "half")
    (tmp_path / "half" / "AWS_SECRET_ACCESS_KEY").unlink()
    access = StorageAccess(endpoint=s3.endpoint, credentials_dir=tmp_path, credentials_name="half")
    with pytest.raises(UserError) as caught:
        open_store("s3://bucket", access).exists("a")
    assert caught.value.reason == "CredentialsMissing"
    assert "'half' has no key 'AWS_SECRET_ACCESS_KEY'" in caught.value.message


def test_no_credentials_at_all_is_a_user_error(s3, monkeypatch, tmp_path):
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(UserError) as caught:
        open_store("s3://bucket", StorageAccess(endpoint=s3.endpoint)).exists("a")
    assert caught.value.reason == "CredentialsMissing"


def test_a_read_only_key_reads_but_may_not_write(s3, tmp_path):
    uri = s3.new_uri()
    s3.open(uri).write_bytes("a", b"1")
    (tmp_path / "large").write_bytes(bytes(9 * MIB))
    store = s3.open(uri, "read-only")
    assert store.read_bytes("a") == b"1"
    for act in (
        lambda: store.write_bytes("b", b"1"),
        lambda: store.upload_file(tmp_path / "large", "b"),
        lambda: store.delete("a"),
    ):
        with pytest.raises(UserError) as caught:
            act()
        assert caught.value.reason == "AccessDenied"
        assert "'s3-read-only'" in caught.value.message


def test_a_tenant_cannot_reach_the_bucket_of_another(s3):
    uri = s3.new_uri()
    s3.open(uri).write_bytes("a", b"1")
    stranger = s3.open(uri, "tenant-b")
    for act in (lambda: stranger.read_bytes("a"), lambda: stranger.write_bytes("b", b"1")):
        with pytest.raises(UserError, match="AccessDenied"):
            act()
    own = s3.open("s3://tenant-b/p", "tenant-b")
    own.write_bytes("a", b"2")
    assert own.read_bytes("a") == b"2"


def test_a_server_that_does_not_answer_is_a_storage_error(s3, monkeypatch):
    monkeypatch.setattr(s3_module, "MAX_ATTEMPTS", 2)
    store = s3.open("s3://bucket/p", endpoint="http://127.0.0.1:9")
    for act in (lambda: store.write_bytes("a", b"1"), lambda: store.read_bytes("a")):
        with pytest.raises(StorageError) as caught:
            act()
        assert caught.value.reason == "Unreachable"
        assert caught.value.exit_code == 73
        assert "http://127.0.0.1:9" in caught.value.message


def test_a_listing_goes_on_behind_its_first_page(s3):
    store = s3.open(s3.new_uri())
    keys = [f"checkpoints/{number:04}" for number in range(1005)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda key: store.write_bytes(key, b""), keys))
    assert [info.key for info in store.list("checkpoints/")] == keys


def test_a_cut_download_goes_on_within_one_call(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_backoff_seconds", lambda failures: 0.0)
    uri, data = s3.new_uri(), os.urandom(12 * MIB)
    s3.open(uri).write_bytes("f", data)
    with cutting_proxy(s3.endpoint, limit_bytes=3 * MIB, num_cuts=3) as proxy:
        store = s3.open(uri, endpoint=proxy.endpoint)
        store.download_file("f", tmp_path / "f")
        assert proxy.num_cut == 3
    assert (tmp_path / "f").read_bytes() == data


def test_a_download_that_was_given_up_goes_on_from_its_partial_file(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "_backoff_seconds", lambda failures: 0.0)
    monkeypatch.setattr(stream, "MAX_ATTEMPTS", 1)
    uri, data = s3.new_uri(), os.urandom(12 * MIB)
    s3.open(uri).write_bytes("f", data)
    with cutting_proxy(s3.endpoint, limit_bytes=5 * MIB, num_cuts=99) as proxy:
        store = s3.open(uri, endpoint=proxy.endpoint)
        with pytest.raises(StorageError, match="broke off at byte"):
            store.download_file("f", tmp_path / "f")
        got = partial_path(tmp_path / "f").stat().st_size
        assert 0 < got < len(data)
    # The second call asks only for the rest: it gets through a proxy that lets no more pass.
    rest = len(data) - got
    with cutting_proxy(s3.endpoint, limit_bytes=rest + 100_000, num_cuts=99) as proxy:
        store = s3.open(uri, endpoint=proxy.endpoint)
        store.download_file("f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == data


def test_a_download_starts_over_when_the_object_was_replaced(s3, tmp_path, monkeypatch):
    monkeypatch.setattr(stream, "MAX_ATTEMPTS", 1)
    uri = s3.new_uri()
    direct = s3.open(uri)
    direct.write_bytes("f", b"old" * 4 * MIB)
    with cutting_proxy(s3.endpoint, limit_bytes=5 * MIB, num_cuts=99) as proxy:
        with pytest.raises(StorageError):
            s3.open(uri, endpoint=proxy.endpoint).download_file("f", tmp_path / "f")
        assert partial_path(tmp_path / "f").exists()
    monkeypatch.undo()
    direct.write_bytes("f", b"new" * 4 * MIB)
    direct.download_file("f", tmp_path / "f")
    assert (tmp_path / "f").read_bytes() == b"new" * 4 * MIB


def test_an_upload_that_fails_leaves_no_parts_behind(s3, tmp_path, monkeypatch):
    bucket = s3.new_bucket()
    store = s3.open(f"s3://{bucket}")
    (tmp_path / "f").write_bytes(bytes(20 * MIB))
    client = store.client
    monkeypatch.setattr(client, "complete_multipart_upload", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        store.upload_file(tmp_path / "f", "f")
    assert s3.client().list_multipart_uploads(Bucket=bucket).get("Uploads", []) == []
    assert not store.exists("f")


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode != 0:
        pytest.skip("mounting a small file system needs root")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


@pytest.mark.parametrize("when", ["seen before", "found while writing"])
def test_a_full_disk_is_named_with_what_is_needed(s3, small_disk, monkeypatch, when):
    if when == "found while writing":
        monkeypatch.setattr(stream, "_check_disk_space", lambda path, missing: None)
    store = s3.open(s3.new_uri())
    store.write_bytes("f", os.urandom(6 * MIB))
    with pytest.raises(StorageError) as caught:
        store.download_file("f", small_disk / "f")
    assert caught.value.reason == "DiskFull"
    assert f"{small_disk}/f" in caught.value.message
    assert f"{6 * MIB} bytes needed" in caught.value.message
    assert not (small_disk / "f").exists()


def test_a_full_disk_leaves_no_half_publication(s3, small_disk, tmp_path):
    store = open_store(str(small_disk))
    folder = make_folder(tmp_path / "out", {"a": b"1", "weights": os.urandom(6 * MIB)})
    with pytest.raises(StorageError) as caught:
        publish_folder(store, "adapter", folder, created_by="t")
    assert caught.value.reason == "DiskFull"
    with pytest.raises(IncompleteFolder):
        verify_folder(store, "adapter")


@pytest.fixture
def model_files():
    return {
        "config.json": b"{}",
        "model.safetensors": os.urandom(9 * MIB),
        "pytorch_model.bin": b"pickle",
        "tokenizer.json": b"{}",
    }


def test_a_model_with_a_manifest_is_verified_and_cached(s3, tmp_path, model_files):
    uri = s3.new_uri()
    store = s3.open(uri)
    manifest = publish_folder(store, "m", make_folder(tmp_path / "m", model_files), created_by="t")
    uri, cache = f"{uri}/m", tmp_path / "cache"
    folder, revision = fetch_model(uri, None, s3.access("read-only"), cache)
    assert revision == f"sha256:{manifest.digest}"
    assert sorted(os.listdir(folder)) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert (folder / "model.safetensors").read_bytes() == model_files["model.safetensors"]
    before = (folder / "model.safetensors").stat().st_mtime_ns
    assert fetch_model(uri, revision, s3.access("read-only"), cache) == (folder, revision)
    assert (folder / "model.safetensors").stat().st_mtime_ns == before

    store.write_bytes("m/model.safetensors", os.urandom(9 * MIB))
    with pytest.raises(ChecksumMismatch, match=r"model\.safetensors"):
        fetch_model(uri, None, s3.access(), tmp_path / "other-cache")


def test_a_model_without_manifest_is_refetched_when_it_changed(s3, tmp_path, model_files):
    uri = s3.new_uri()
    store = s3.open(f"{uri}/m")
    for key, data in model_files.items():
        store.write_bytes(key, data)
    uri = f"{uri}/m"
    folder, revision = fetch_model(uri, "main", s3.access(), tmp_path)
    assert revision.startswith("files:")
    store.write_bytes("config.json", b"[]")
    changed, other = fetch_model(uri, "main", s3.access(), tmp_path)
    assert (changed / "config.json").read_bytes() == b"[]"
    assert other != revision
    assert folder != changed
    with pytest.raises(UserError) as caught:
        fetch_model(uri, revision, s3.access(), tmp_path)
    assert caught.value.reason == "RevisionMismatch"


def test_a_tokenizer_is_fetched_without_its_weights(s3, tmp_path, model_files):
    uri = s3.new_uri()
    for key, data in model_files.items():
        s3.open(uri).write_bytes(key, data)
    small, _ = fetch_model(uri, None, s3.access(), tmp_path, include_weights=False)
    assert sorted(os.listdir(small)) == ["config.json", "tokenizer.json"]
    whole, _ = fetch_model(uri, None, s3.access(), tmp_path)
    assert (whole / "model.safetensors").exists()


def test_a_missing_model_says_what_to_check(s3, tmp_path):
    with pytest.raises(UserError) as caught:
        fetch_model(f"{s3.new_uri()}/models/x", None, s3.access(), tmp_path)
    assert caught.value.reason == "ModelNotFound"
    assert "/models/x" in caught.value.message
