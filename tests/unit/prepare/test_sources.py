"""A source URI names a file or a folder in some store, and its files come with checksums."""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.files.encodings import TextEncoding
from finetune_trainer.prepare.reading.sources import (
    Location,
    SourceFile,
    fetch_source,
    find_files,
    find_skipped,
    is_captured,
    locate,
)
from finetune_trainer.prepare.version import compute_version
from finetune_trainer.storage import ObjectInfo, StorageAccess, open_store
from kit.serving.traffic import Recorded


@pytest.mark.parametrize(
    ("uri", "root", "key"),
    [
        ("file:///data/rows.jsonl", "file:///data", "rows.jsonl"),
        ("file:///data/my%20rows.CSV", "file:///data", "my rows.CSV"),
        ("file:///data/rows.ndjson", "file:///data", "rows.ndjson"),
        ("file:///data/rows.tsv", "file:///data", "rows.tsv"),
        ("file:///data/", "file:///data", ""),
        ("file:///data/v1.2", "file:///data/v1.2", ""),
        ("s3://bucket/rows.parquet", "s3://bucket", "rows.parquet"),
        ("s3://bucket/a/b/rows.json", "s3://bucket/a/b", "rows.json"),
        ("s3://bucket.json", "s3://bucket.json", ""),
        ("s3://bucket/a/rows.jsonl.gz", "s3://bucket/a", "rows.jsonl.gz"),
        ("s3://bucket/a/rows.gz", "s3://bucket/a/rows.gz", ""),
        ("s3://bucket/a/rows.csv.ZST", "s3://bucket/a", "rows.csv.ZST"),
        ("file:///data/Book.xlsx", "file:///data", "Book.xlsx"),
        ("s3://bucket/a/b", "s3://bucket/a/b", ""),
        ("hf://org/name", "hf://datasets/org/name", ""),
        ("hf://datasets/org/name@v1", "hf://datasets/org/name@v1", ""),
        ("hf://org/name@v1/data/a.jsonl", "hf://datasets/org/name@v1/data", "a.jsonl"),
        (
            "hf://datasets/org/name@refs/convert/parquet/default",
            "hf://datasets/org/name@refs/convert/parquet/default",
            "",
        ),
    ],
)
def test_a_uri_is_split_into_store_and_key(uri: str, root: str, key: str) -> None:
    assert locate(uri) == Location(root=root, key=key)


@pytest.mark.parametrize(
    ("uri", "root", "pattern"),
    [
        ("s3://bucket/2026/*.jsonl", "s3://bucket/2026", "*.jsonl"),
        ("s3://bucket/20*/a?/rows.csv", "s3://bucket", "20*/a?/rows.csv"),
        ("file:///data/**/a%20b-*", "file:///data", "**/a b-*"),
        ("hf://org/name@v1/data/*.parquet", "hf://datasets/org/name@v1/data", "*.parquet"),
    ],
)
def test_a_uri_with_wildcards_is_split_before_the_first(uri: str, root: str, pattern: str) -> None:
    assert locate(uri) == Location(root=root, key="", pattern=pattern)


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.jsonl", ["a.jsonl", "b.jsonl"]),
        ("?.jsonl", ["a.jsonl", "b.jsonl"]),
        ("**/*.jsonl", ["a.jsonl", "b.jsonl", "sub/deep/d.jsonl", "sub/e.jsonl"]),
        ("**", ["a.jsonl", "b.jsonl", "sub/c.csv", "sub/deep/d.jsonl", "sub/e.jsonl"]),
        ("s*/*", ["sub/c.csv", "sub/e.jsonl"]),
        ("sub/*.csv", ["c.csv"]),
        ("a*", ["a.jsonl"]),
    ],
)
def test_a_pattern_gives_the_files_that_match_it(
    pattern: str, expected: list[str], tmp_path: Path
) -> None:
    names = ["b.jsonl", "a.jsonl", "a.txt", "sub/c.csv", "sub/deep/d.jsonl", "sub/e.jsonl"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("{}")
    files = fetch(f"file://{tmp_path}/in/{pattern}", tmp_path / "work")
    assert [file.name for file in files] == expected


def test_a_pattern_that_nothing_matches_tells_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}")
    with pytest.raises(UserError) as caught:
        fetch(f"file://{tmp_path}/x*.jsonl", tmp_path / "work")
    assert caught.value.reason == "DatasetNotFound"
    assert "holds rows.jsonl" in caught.value.message


@pytest.mark.parametrize(
    ("name", "settings", "field"),
    [
        ("a.csv", {"sheet": "S"}, "sheet"),
        ("a.jsonl.gz", {"header": "Absent"}, "header"),
        ("a.parquet", {"header": "Present"}, "header"),
        ("a.xlsx", {"encoding": "UTF-8"}, "encoding"),
        ("a.csv", {"header": "Absent", "encoding": "UTF-8"}, None),
        ("a.xlsx", {"sheet": "S", "header": "Absent"}, None),
    ],
)
def test_a_setting_for_files_of_another_kind_is_refused_and_not_ignored(
    name: str, settings: dict[str, str], field: str | None, tmp_path: Path
) -> None:
    body = gzip.compress(b"{}") if name.endswith(".gz") else b"x"
    (tmp_path / name).write_bytes(body)
    source = Source.model_validate({"uri": f"file://{tmp_path}/{name}", **settings})
    location = locate(source.uri)
    store = open_store(location.root, StorageAccess())
    if field is None:
        assert len(fetch_source(source, store, location, tmp_path / "work")) == 1
        return
    with pytest.raises(UserError, match=f"{field} of file://") as caught:
        fetch_source(source, store, location, tmp_path / "work")
    assert caught.value.reason == "SettingNotApplicable"


def fetch(uri: str, folder: Path) -> list[SourceFile]:
    location = locate(uri)
    store = open_store(location.root, StorageAccess())
    return fetch_source(Source(uri=uri), store, location, folder)


def test_a_folder_gives_its_data_files_in_order_with_checksums(tmp_path: Path) -> None:
    names = ["b.jsonl", "a.csv", "sub/c.json", "manifest.json", ".d.csv", ".git/e.csv", "f.txt"]
    names += ["d.tsv", "e.ndjson"]
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text(name)
    files = fetch(f"file://{tmp_path}/in", tmp_path / "work")
    assert [file.name for file in files] == [
        "a.csv",
        "b.jsonl",
        "d.tsv",
        "e.ndjson",
        "sub/c.json",
    ]
    for file in files:
        assert file.path.read_text() == file.name
        assert file.sha256 == hashlib.sha256(file.name.encode()).hexdigest()
        assert file.num_bytes == len(file.name)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b.txt", "a.md", "sub/c.txt"], ["a.md", "b.txt", "sub/c.txt"]),
        (["README.md", "LICENSE.txt", "a.txt"], ["a.txt"]),
        (["card.md", "classes.txt", "rows.jsonl"], ["rows.jsonl"]),
        (
            [".venv/a.txt", ".git/b.txt", "node_modules/c.md", "x/__pycache__/d.txt", "e.txt"],
            ["e.txt"],
        ),
        (["venv/rows.csv", "site-packages/data/rows.json", "rows.csv"], ["rows.csv"]),
    ],
)
def test_texts_of_a_folder_are_data_where_nothing_else_is(
    names: list[str], expected: list[str], tmp_path: Path
) -> None:
    for name in names:
        (tmp_path / "in" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "in" / name).write_text("some text")
    files = fetch(f"file://{tmp_path}/in", tmp_path / "work")
    assert [file.name for file in files] == expected


def test_a_text_that_is_named_is_read_whatever_lies_beside_it(tmp_path: Path) -> None:
    for name in ("README.md", "rows.jsonl"):
        (tmp_path / name).write_text("some text")
    files = fetch(f"file://{tmp_path}/README.md", tmp_path / "work")
    assert [file.name for file in files] == ["README.md"]


def test_a_folder_may_be_named_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").mkdir()
    (tmp_path / "rows.jsonl" / "part-0.jsonl").write_text("{}")
    files = fetch(f"file://{tmp_path}/rows.jsonl", tmp_path / "work")
    assert [file.name for file in files] == ["part-0.jsonl"]


def test_a_missing_source_tells_what_is_there_but_not_all_of_it(tmp_path: Path) -> None:
    for number in range(50):
        (tmp_path / f"{number:02}.jsonl").write_text("{}")
    with pytest.raises(UserError) as caught:
        fetch(f"file://{tmp_path}/rows.jsonl", tmp_path / "work")
    assert caught.value.reason == "DatasetNotFound"
    assert "holds 00.jsonl, 01.jsonl, 02.jsonl, 03.jsonl, 04.jsonl, ..." in caught.value.message


def test_a_repository_missing_on_the_hub_is_a_missing_data_set(tmp_path: Path) -> None:
    class Hub:
        uri = "hf://datasets/org/name@main"

        def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
            raise UserError("ModelNotFound", "There is no repository")

    location = Location(root="hf://datasets/org/name", key="")
    hub: Any = Hub()
    with pytest.raises(UserError) as caught:
        fetch_source(Source(uri="hf://org/name"), hub, location, tmp_path)
    assert caught.value.reason == "DatasetNotFound"


LATIN = TextEncoding(name="Windows-1252", codec="cp1252", reason="a test says so")


def version_of(
    files: list[SourceFile],
    model_revision: str = "c" * 40,
    chat_template: str | None = None,
    **spec: Any,
) -> str:
    body = {
        "model": {"uri": "hf://org/model"},
        "dataset": {"sources": [{"uri": "s3://bucket/rows.jsonl"}]},
        "output": {"uri": "s3://bucket"},
    }
    return compute_version(
        FineTuneJobSpec.model_validate({**body, **spec}),
        [files],
        model_revision=model_revision,
        chat_template=chat_template,
    )


def make_file(name: str = "rows.jsonl", sha256: str = "a" * 64) -> SourceFile:
    return SourceFile(name=name, path=Path("/x") / name, num_bytes=1, sha256=sha256)


def sources(**fields: Any) -> dict[str, Any]:
    return {"sources": [{"uri": "s3://bucket/rows.jsonl", **fields}]}


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": sources(uri="s3://elsewhere/rows.jsonl")},
        {"dataset": sources(credentialsRef={"name": "other"})},
        {"dataset": sources(provenance={"licence": "CC-BY-4.0"})},
        {"output": {"uri": "s3://b", "card": {"limits": "Knows no medicine."}}},
        {"output": {"uri": "s3://elsewhere"}},
        {"method": {"adapter": {"rank": 8}}},
        {"hyperparameters": {"seed": 1}},
        {"goal": {"metric": "exactMatch", "atLeast": "0.5"}},
    ],
)
def test_what_does_not_shape_the_data_leaves_its_version(spec: dict[str, Any]) -> None:
    assert version_of([make_file()], **spec) == version_of([make_file()])


@pytest.mark.parametrize(
    "spec",
    [
        {"dataset": sources(template="{{ x }}")},
        {"dataset": sources(format="Text")},
        {"dataset": sources(system="Be brief.")},
        {"dataset": sources(side="Train")},
        {"dataset": sources(header="Absent")},
        {"dataset": sources(sheet="Rows")},
        {"dataset": sources(columns={"group": "x"})},
        {"dataset": {**sources(), "maxRows": 10}},
        {"dataset": {**sources(), "maxInvalidRows": 1}},
        {"dataset": {**sources(), "split": {"testPercent": 10}}},
        {"model": {"uri": "hf://org/other"}},
        {"model": {"uri": "hf://org/model", "chatTemplateArguments": {"x": "true"}}},
        {"method": {"loss": "Completion"}},
        {"hyperparameters": {"maxSequenceLength": 64}},
    ],
)
def test_what_shapes_the_data_changes_its_version(spec: dict[str, Any]) -> None:
    assert version_of([make_file()], **spec) != version_of([make_file()])


def test_content_and_name_of_files_change_the_version() -> None:
    versions = [
        version_of([make_file()]),
        version_of([make_file()], model_revision="e" * 40),
        version_of([make_file()], chat_template="{{ messages }}"),
        version_of([make_file(sha256="b" * 64)]),
        version_of([make_file(name="other.jsonl")]),
        version_of([replace(make_file(), encoding=LATIN)]),
        version_of([make_file(), make_file(name="other.jsonl")]),
        version_of([make_file(name="other.jsonl"), make_file()]),
    ]
    assert len(set(versions)) == len(versions)
    assert all(len(version) == 64 for version in versions)


def test_folders_of_programs_are_not_looked_into_and_named(tmp_path: Path) -> None:
    for folder in (".git", ".venv/lib", "node_modules/x", "cache", "parts/__pycache__", "parts"):
        (tmp_path / folder).mkdir(parents=True, exist_ok=True)
        (tmp_path / folder / "a.jsonl").write_text("{}")
    location = locate(f"file://{tmp_path}")
    store = open_store(location.root, StorageAccess())
    assert list(find_files("file:///x", store, location)) == ["parts/a.jsonl"]
    skipped = [".git", ".venv", "cache", "node_modules", "parts/__pycache__"]
    assert find_skipped(location) == skipped
    named = locate(f"file://{tmp_path}/cache")
    assert list(find_files("file:///x", open_store(named.root), named)) == ["a.jsonl"]
    matched = locate(f"file://{tmp_path}/cache/*.jsonl")
    assert list(find_files("file:///x", open_store(matched.root), matched)) == ["a.jsonl"]


@pytest.fixture
def captured(tmp_path: Path) -> Path:
    recorded = Recorded(folder=tmp_path / "shared", namespace="victim")
    recorded.say(recorded.answer("A secret?", "Yes"), rating="up")
    (tmp_path / "shared" / "rows.jsonl").write_text("{}\n")
    return tmp_path


@pytest.mark.parametrize(
    "path",
    [
        "shared/traffic",
        "shared/traffic/victim",
        "shared/traffic/victim/headlines/segments",
        "shared/traffic/victim/headlines/segments/2026-11-30/04/*",
        "shared/t*c/**/*.jsonl",
        "shared/%74raffic/victim",
        "shared/traffic/victim/headlines/feedback",
        "link",
        "link/headlines/segments/2026-11-30",
    ],
)
def test_captured_traffic_is_read_by_no_path(captured: Path, path: str) -> None:
    (captured / "link").symlink_to(captured / "shared" / "traffic" / "victim")
    uri = f"file://{captured}/{path}"
    location = locate(uri)
    with pytest.raises(UserError) as caught:
        find_files(uri, open_store(location.root, StorageAccess()), location)
    assert caught.value.reason == "CapturedTraffic"


def test_one_captured_segment_is_not_read_by_its_name(captured: Path) -> None:
    (segment,) = (captured / "shared").rglob("segments/**/*.jsonl")
    location = locate(segment.as_uri())
    with pytest.raises(UserError) as caught:
        find_files(segment.as_uri(), open_store(location.root, StorageAccess()), location)
    assert caught.value.reason == "CapturedTraffic"


def test_rows_beside_captured_traffic_are_read(captured: Path) -> None:
    uri = f"file://{captured}/shared"
    location = locate(uri)
    found = find_files(uri, open_store(location.root, StorageAccess()), location)
    assert list(found) == ["rows.jsonl"]


def test_buckets_are_held_to_the_same_rule() -> None:
    key = "ab/headlines/segments/2026-11-30/04/0029-0044-17-w-1.jsonl"
    assert is_captured("s3://bucket/out/traffic", key)
    assert is_captured("s3://bucket/out/%74raffic/ab", key.removeprefix("ab/"))
    assert is_captured("s3://bucket/", f"traffic/{key}")
    assert not is_captured("s3://bucket/traffic/2026/eu", "segments/rows.jsonl")
