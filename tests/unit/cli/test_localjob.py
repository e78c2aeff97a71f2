"""Local runs: relative paths, overrides, identity."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.uris import URI_FIELDS, find_uris
from finetune_cli.errors import CliError
from finetune_cli.files.documents import Document, read_single
from finetune_cli.local.job import LocalRun, absolute_uri, find_local_uris, plan_run
from kit.cases.spec_cases import REMOVED, changed, job_with_uri, minimal_job


@pytest.fixture
def write(tmp_path: Path):
    def write(change: dict[str, Any] | None = None) -> Document:
        file = tmp_path / "job.yaml"
        file.write_text(yaml.safe_dump(changed(minimal_job(), change or {})))
        return read_single(str(file))

    return write


def plan(document: Document, **options: Any) -> LocalRun:
    return plan_run(document, namespace="default", **options)


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("file://./a/b", "file:///jobs/a/b"),
        ("file://../a", "file:///a"),
        ("file://.", "file:///jobs"),
        ("file:///a/b", "file:///a/b"),
        ("s3://bucket/a", "s3://bucket/a"),
        ("hf://a/b", "hf://a/b"),
    ],
)
def test_relative_files_count_from_the_job_file(uri: str, expected: str) -> None:
    assert absolute_uri(uri, Path("/jobs")) == expected


@pytest.mark.parametrize("field", URI_FIELDS, ids=".".join)
def test_every_relative_file_counts_from_the_job_file(
    field: tuple[str, ...], tmp_path: Path
) -> None:
    body = job_with_uri(field, "file://./mine/adapter")
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(body))
    found = [uri for _, uri in find_uris(plan(read_single(str(file))).job.to_wire()["spec"])]
    assert f"file://{tmp_path}/mine/adapter" in found
    assert "file://./mine/adapter" not in found


@pytest.mark.parametrize("field", URI_FIELDS, ids=".".join)
def test_a_relative_file_is_told_wherever_a_job_names_it(field: tuple[str, ...]) -> None:
    assert find_local_uris(job_with_uri(field, "file://../mine/adapter")) == [
        "file://../mine/adapter"
    ]
    assert find_local_uris(job_with_uri(field, "s3://data/adapter")) == []


def test_volume_claims_need_a_cluster(write) -> None:
    with pytest.raises(CliError, match="exists only on a cluster"):
        plan(write({"spec.model.uri": "pvc://models/a"}))


def test_a_claim_with_data_is_replaced_by_a_folder_for_one_run(write) -> None:
    job = write({"spec.dataset.sources.0.uri": "pvc://data/2026/*.jsonl"})
    with pytest.raises(CliError, match=r"--set dataset\.sources\.0\.uri=file:///folder"):
        plan(job)
    run = plan(job, overrides=["dataset.sources.0.uri=file:///mnt/data/2026/*.jsonl"])
    assert run.job.spec.dataset.sources[0].uri == "file:///mnt/data/2026/*.jsonl"


def test_job_without_output_writes_beside_its_file(write, tmp_path: Path) -> None:
    run = plan(write({"spec.output": REMOVED}))
    assert run.job.spec.output.uri == f"file://{tmp_path}/out"


def test_same_job_has_the_same_identity_and_a_changed_one_another(write) -> None:
    first = plan(write())
    assert plan(write()).job.uid == first.job.uid
    assert plan(write({"spec.suspend": True})).job.uid == first.job.uid
    assert plan(write({"spec.hyperparameters": {"epochs": 3}})).job.uid == first.job.uid
    assert plan(write(), overrides=["hyperparameters.seed=1"]).job.uid != first.job.uid
    assert plan(write(), is_fresh=True).job.uid.startswith(first.job.uid + "-")


@pytest.mark.parametrize(
    ("override", "read", "expected"),
    [
        ("hyperparameters.learningRate=1e-4", lambda s: s.hyperparameters.learning_rate, "1e-4"),
        ("hyperparameters.globalBatchSize=8", lambda s: s.hyperparameters.global_batch_size, 8),
        (
            "hyperparameters.globalBatchSize=auto",
            lambda s: s.hyperparameters.global_batch_size,
            "auto",
        ),
        (
            "method.adapter.targetModules=[q_proj]",
            lambda s: s.method.adapter.target_modules,
            ["q_proj"],
        ),
        ("spec.goal={metric: bleu, atLeast: '0.3'}", lambda s: s.goal.metric, "bleu"),
        ("spec.goal={metric: bleu, atLeast: 0.30}", lambda s: s.goal.at_least, "0.30"),
        ("model.trustRemoteCode=true", lambda s: s.model.trust_remote_code, True),
    ],
)
def test_overrides_are_typed_by_the_schema(write, override: str, read, expected) -> None:
    assert read(plan(write(), overrides=[override]).job.spec) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("hyperparameters.epochs", "write path=value"),
        ("=3", "write path=value"),
        ("dataset.sources.7.uri=s3://a/b", "'7' is no position in a list of 1 items"),
        ("model.uri.x=1", "it has no fields below it"),
        ("checkpoint.everySteps=[1", "the value [1 is not valid YAML: expected ',' or ']'"),
        ("checkpoint.everySteps=\x00", "is not valid YAML"),
        ("checkpoint.everySteps={a: 1", "is not valid YAML"),
        (
            "hyperparameters.epoch=1",
            "spec.hyperparameters.epoch: unknown field; did you mean epochs?",
        ),
    ],
)
def test_bad_overrides_are_explained(write, override: str, message: str) -> None:
    with pytest.raises(CliError) as caught:
        plan(write(), overrides=[override])
    assert message in caught.value.message


def test_answers_are_read_where_serve_has_stored_them(
    write: Callable[..., Document], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    document = write({"spec.dataset.sources": [{"uri": "traffic://b"}, {"uri": "traffic://a"}]})
    for capture, uri in {
        "kept here": f"file://{tmp_path}/kept%20here",
        "file://./kept": f"file://{tmp_path}/kept",
        "s3://bucket/kept": "s3://bucket/kept",
    }.items():
        run = plan(document, capture=capture)
        assert run.job.traffic is not None
        assert [each.to_wire() for each in run.job.traffic] == [
            {"endpoint": "a", "uri": uri},
            {"endpoint": "b", "uri": uri},
        ]
        assert run.job.uid == plan(document).job.uid
    assert plan(document).job.traffic is None


def test_a_place_of_answers_is_for_jobs_that_read_some(write: Callable[..., Document]) -> None:
    with pytest.raises(CliError, match="the job has none"):
        plan(write(), capture="kept")
