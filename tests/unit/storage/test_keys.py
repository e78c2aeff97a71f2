"""Keys and URIs: nothing a tenant writes leads out of a store."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from finetune_trainer.errors import UserError
from finetune_trainer.storage import join_key, local_path, open_store
from finetune_trainer.storage.store import check_key


@pytest.mark.parametrize(
    "key", ["a", "a/b.json", "with space", "a..b", "...", "\u00e4/\u4e2d", ".hidden"]
)
def test_relative_paths_are_keys(key):
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "/a", "a/", "a//b", "..", "a/../b", "./a", "a\\b", "a\nb", "a\x00", "a\x7f", "x" * 1025],
)
def test_other_strings_are_refused(key):
    with pytest.raises(UserError) as caught:
        check_key(key)
    assert caught.value.reason == "InvalidKey"


@given(st.text(max_size=60) | st.lists(st.sampled_from(["..", ".", "", "a", "b"])).map("/".join))
def test_an_accepted_key_stays_below_the_root(key):
    try:
        check_key(key)
    except UserError:
        return
    root = "/root/of/store"
    path = os.path.normpath(f"{root}/{key}")
    assert path.startswith(f"{root}/")
    assert path == f"{root}/{key}"


@pytest.mark.parametrize(
    ("parts", "key"),
    [(("", "a"), "a"), (("a/", "/b"), "a/b"), (("a/b", "c/d"), "a/b/c/d"), (("a", ""), "a")],
)
def test_join_key_joins_what_is_there(parts, key):
    assert join_key(*parts) == key


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("file:///models/a", Path("/models/a")),
        ("file://localhost/models/a", Path("/models/a")),
        ("file:///with%20space", Path("/with space")),
        ("/plain", Path("/plain")),
        ("relative/folder", Path.cwd() / "relative/folder"),
    ],
)
def test_local_uris_are_absolute_paths(uri, path):
    assert local_path(uri) == path


@pytest.mark.parametrize(
    ("uri", "hint"),
    [
        ("file://models/a", "three slashes"),
        ("", "empty"),
        ("ftp://host/a", "supported are"),
        ("pvc://claim/a", "mounted as a folder"),
        ("s3:///prefix", "s3://bucket"),
        ("s3://bucket/a/../b", "relative path"),
        ("hf://", "hf://org/name"),
        ("hf://a/b@", "hf://org/name"),
        ("hf://../b", "hf://org/name"),
    ],
)
def test_a_bad_uri_is_refused_with_the_right_form(uri, hint):
    with pytest.raises(UserError) as caught:
        open_store(uri)
    assert hint in caught.value.message
