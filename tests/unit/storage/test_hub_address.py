"""``hf://`` URIs."""

from __future__ import annotations

import pytest

from finetune_trainer.errors import UserError
from finetune_trainer.storage.hub.address import parse_hub_uri


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("hf://org/name", ("model", "org/name", None, "")),
        ("hf://gpt2", ("model", "gpt2", None, "")),
        ("hf://models/org/name", ("model", "org/name", None, "")),
        ("hf://datasets/org/name@v1", ("dataset", "org/name", "v1", "")),
        ("hf://datasets/org/name@v1/data/a.jsonl", ("dataset", "org/name", "v1", "data/a.jsonl")),
        ("hf://org/name/sub/folder", ("model", "org/name", None, "sub/folder")),
        ("hf://org/name@refs/pr/3", ("model", "org/name", "refs/pr/3", "")),
        ("hf://org/name@refs/pr/3/sub", ("model", "org/name", "refs/pr/3", "sub")),
        ("hf://org/name@feature%2Fx/sub", ("model", "org/name", "feature/x", "sub")),
        (f"hf://org/name@{'a' * 40}", ("model", "org/name", "a" * 40, "")),
    ],
)
def test_the_parts_of_a_uri(uri, expected):
    address = parse_hub_uri(uri)
    assert (address.repo_type, address.repo_id, address.revision, address.folder) == expected


@pytest.mark.parametrize(
    "uri",
    [
        "hf://",
        "hf://org/name@",
        "hf://org/../name",
        "hf://org/name/../../other",
        "hf://o g/name",
        "hf://org/name@a b",
        "hf://org/name@..%2F..%2Fapi",
        "hf://org/name@x?y=1",
    ],
)
def test_other_strings_are_refused(uri):
    with pytest.raises(UserError):
        parse_hub_uri(uri)
