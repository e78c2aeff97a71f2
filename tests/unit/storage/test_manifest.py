"""Manifests: one text per content, and nothing hostile passes."""

from __future__ import annotations

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import StorageError
from finetune_trainer.storage.manifest import ManifestFile, make_manifest, parse_manifest

SHA = "a" * 64

names = st.text(
    st.characters(categories=["L", "N", "P", "Zs"], exclude_characters="/\\"),
    min_size=1,
    max_size=9,
).filter(lambda name: name not in (".", ".."))
paths = st.lists(names, min_size=1, max_size=3).map("/".join).filter(lambda p: p != "manifest.json")
files = st.builds(
    ManifestFile,
    path=paths,
    num_bytes=st.integers(0, 2**50),
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
)
manifests = st.builds(
    make_manifest,
    st.lists(files, max_size=6, unique_by=lambda file: file.path),
    created_by=st.text(max_size=20),
    inputs=st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
)


@pytest.mark.slow
@given(manifests)
def test_reading_what_was_written_gives_the_same_manifest(manifest):
    assert parse_manifest(manifest.to_bytes(), where="m") == manifest


@pytest.mark.slow
@given(manifests, st.randoms(use_true_random=False))
def test_the_order_of_files_changes_nothing(manifest, rng: random.Random):
    shuffled = list(manifest.files)
    rng.shuffle(shuffled)
    again = make_manifest(shuffled, created_by=manifest.created_by, inputs=manifest.inputs)
    assert again.to_bytes() == manifest.to_bytes()


def test_the_digest_is_of_the_content_only():
    one = make_manifest([ManifestFile(path="a", num_bytes=1, sha256=SHA)], created_by="x")
    moved = make_manifest(
        [ManifestFile(path="a", num_bytes=1, sha256=SHA, key="a.aaaa")],
        created_by="y",
        inputs={"data": "d"},
    )
    other = make_manifest([ManifestFile(path="b", num_bytes=1, sha256=SHA)], created_by="x")
    assert one.digest == moved.digest
    assert one.digest != other.digest
    # Pinned: a digest in a status or a job must mean the same in every later version.
    assert one.digest == "2311e80c1027f95b9ddf006a4fe755c772b12f84891b20b2c7d1c47d1e3037f9"


def entry(**change):
    return {"path": "a", "bytes": 1, "sha256": SHA} | change


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"\xff", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        ([], "no list 'files'"),
        ({"files": {}}, "no list 'files'"),
        ({"files": ["a"]}, "not an object"),
        ({"files": [entry(path=3)]}, "no string 'path'"),
        ({"files": [entry(path="../../etc/passwd")]}, "not a storage key"),
        ({"files": [entry(path="/etc/passwd")]}, "not a storage key"),
        ({"files": [entry(key="../other-run/adapter")]}, "not a storage key"),
        ({"files": [entry(path="manifest.json")]}, "lists itself"),
        ({"files": [entry(), entry()]}, "'a' occurs twice"),
        ({"files": [entry(), entry(path="b", key="a")]}, "'a' occurs twice"),
        ({"files": [entry(bytes=-1)]}, "not a size"),
        ({"files": [entry(bytes=True)]}, "not a size"),
        ({"files": [entry(bytes="1")]}, "not a size"),
        ({"files": [entry(sha256="A" * 64)]}, "not 64 hex digits"),
        ({"files": [entry(sha256=None)]}, "not 64 hex digits"),
        ({"files": [], "inputs": {"a": 1}}, "'inputs'"),
        ({"files": [], "createdBy": 1}, "'createdBy'"),
    ],
)
def test_what_is_no_manifest_is_refused_with_the_reason(body, problem):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(StorageError) as caught:
        parse_manifest(data, where="s3://b/p/manifest.json")
    assert caught.value.reason == "ManifestInvalid"
    assert problem in caught.value.message
    assert "s3://b/p/manifest.json" in caught.value.message
