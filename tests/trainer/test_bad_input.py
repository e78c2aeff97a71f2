"""Bad input through whole stages and commands: code, value, remedy, and nothing half-published.

Data and settings that only one stage looks at are in ``test_stages``; here is what needs a server,
a damaged store or a full disk, and what is refused before any stage does anything.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.processes.cli import Cli
from kit.processes.disks import needs_root, small_disk
from kit.processes.stages import StageRun, Workbench
from kit.servers.seaweedfs import SeaweedS3


def ends_with(run: StageRun, exit_code: int, reason: str, *words: str) -> None:
    """Check how a stage ended, in the event as in the termination message."""
    assert (run.exit_code, run.termination.get("reason")) == (exit_code, reason), run.messages
    assert run.failure["exitCode"] == exit_code
    for word in words:
        assert word in run.termination["message"]


def on_s3(
    bench: Callable[..., Workbench], s3: SeaweedS3, uri: str, secret: str = "s3-read-write"
) -> Workbench:
    return bench(
        {
            "output": {"uri": uri, "credentialsRef": {"name": secret}},
            "s3": {"endpoint": s3.endpoint},
        },
        env={"FINETUNE_CREDENTIALS_DIR": str(s3.credentials_dir), "AWS_MAX_ATTEMPTS": "1"},
    )


def keys_below(s3: SeaweedS3, uri: str) -> list[str]:
    return [info.key for info in s3.open(uri, "admin").list()]


@pytest.fixture
def wrong_key(s3: SeaweedS3) -> str:
    """A Secret whose second half belongs to another key."""
    name = "s3-wrong-key"
    folder = s3.credentials_dir / name
    if not folder.exists():
        shutil.copytree(s3.credentials_dir / "s3-read-write", folder)
        (folder / "AWS_SECRET_ACCESS_KEY").write_text("not-the-secret-of-this-key")
    return name


@pytest.fixture
def half_a_secret(s3: SeaweedS3) -> str:
    """A Secret without the second key."""
    name = "s3-half"
    folder = s3.credentials_dir / name
    folder.mkdir(exist_ok=True)
    (folder / "AWS_ACCESS_KEY_ID").write_text("AKIAEXAMPLE")
    return name


def test_missing_bucket_is_named(bench: Callable[..., Workbench], s3: SeaweedS3) -> None:
    workbench = on_s3(bench, s3, "s3://no-such-bucket-here/models")
    ended = workbench.run("prepare")
    ends_with(ended, 64, "BucketNotFound", "'no-such-bucket-here'", s3.endpoint, "Create it")


def test_missing_bucket_of_a_source_is_named_and_nothing_written(
    bench: Callable[..., Workbench], s3: SeaweedS3
) -> None:
    uri = s3.new_uri()
    workbench = on_s3(bench, s3, uri)
    workbench.change["dataset"] = {"sources": [{"uri": "s3://no-such-bucket-here/rows.jsonl"}]}
    ends_with(workbench.run("prepare"), 64, "BucketNotFound", "'no-such-bucket-here'")
    assert keys_below(s3, uri) == []


@pytest.mark.parametrize(
    ("fixture", "reason", "words"),
    [
        ("wrong_key", "AccessDenied", ["'s3-wrong-key'", "belong together"]),
        ("half_a_secret", "CredentialsMissing", ["'s3-half'", "AWS_SECRET_ACCESS_KEY", "Add the"]),
    ],
)
def test_wrong_key_is_a_user_error_that_names_its_secret(
    bench: Callable[..., Workbench],
    s3: SeaweedS3,
    request: pytest.FixtureRequest,
    fixture: str,
    reason: str,
    words: list[str],
) -> None:
    uri = s3.new_uri()
    workbench = on_s3(bench, s3, uri, request.getfixturevalue(fixture))
    ended = workbench.run("prepare")
    ends_with(ended, 64, reason, *words)
    assert "not-the-secret-of-this-key" not in json.dumps(ended.termination) + ended.stderr
    assert keys_below(s3, uri) == []


def test_key_without_the_right_to_write_publishes_nothing(
    bench: Callable[..., Workbench], s3: SeaweedS3
) -> None:
    uri = s3.new_uri()
    ended = on_s3(bench, s3, uri, "s3-read-only").run("prepare")
    ends_with(ended, 64, "AccessDenied", "'s3-read-only'", "write")
    assert keys_below(s3, uri) == []


def test_key_that_went_bad_between_stages_leaves_no_adapter(
    bench: Callable[..., Workbench], s3: SeaweedS3, wrong_key: str, tmp_path: Path
) -> None:
    uri = s3.new_uri()
    workbench = on_s3(bench, s3, uri)
    workbench.run_to("prepare")
    before = sorted(keys_below(s3, uri))
    secrets = tmp_path / "secrets"
    shutil.copytree(s3.credentials_dir / wrong_key, secrets / "s3-read-write")
    workbench.env["FINETUNE_CREDENTIALS_DIR"] = str(secrets)
    workbench.env["FINETUNE_STORAGE_PATIENCE_SECONDS"] = (
        "5"  # it may be in the middle of a rotation
    )
    ends_with(workbench.run("train"), 73, "AccessDenied", "'s3-read-write'", "It stayed so")
    assert sorted(keys_below(s3, uri)) == before


def not_json(text: str) -> str:
    return text[: len(text) // 2]


def other_digest(text: str) -> str:
    body = json.loads(text)
    for file in body["files"]:
        file["sha256"] = "0" * 64
    return json.dumps(body)


def path_outside(text: str) -> str:
    body = json.loads(text)
    body["files"][0]["path"] = "../../escaped"
    return json.dumps(body)


@pytest.mark.parametrize(
    ("tamper", "reason", "words"),
    [
        (not_json, "ManifestInvalid", ["manifest.json", "not JSON", "tampered"]),
        (other_digest, "ChecksumMismatch", ["0" * 64, "Do not use"]),
        (path_outside, "ManifestInvalid", ["../../escaped", "tampered"]),
    ],
)
@pytest.mark.parametrize("folder", ["adapter", "datasets"])
def test_tampered_manifest_is_refused(
    undisturbed: tuple[Workbench, dict[str, Any]],
    tmp_path: Path,
    tamper: Callable[[str], str],
    reason: str,
    words: list[str],
    folder: str,
) -> None:
    workbench, _ = undisturbed
    copy = workbench.fork(tmp_path / "copy")
    for name in ("evaluation", *(["adapter"] if folder == "datasets" else [])):
        shutil.rmtree(copy.run_folder / name)
    parent = copy.run_folder if folder == "adapter" else copy.output
    (manifest,) = (parent / folder).rglob("manifest.json")
    manifest.write_text(tamper(manifest.read_text()))
    ended = copy.run("evaluate" if folder == "adapter" else "train")
    ends_with(ended, 73, reason, *words)
    assert not (tmp_path / "escaped").exists()
    assert not (copy.run_folder / "evaluation").exists()
    assert not (copy.output / "versions").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"hyperparameters": {"learningRate": "fast"}}, ["learningRate", "fast"]),
        ({"hyperparameters": {"epoch": "3"}}, ["epoch"]),
    ],
)
def test_job_file_with_a_bad_field_is_refused_by_the_stage(
    bench: Callable[..., Workbench], change: dict[str, Any], words: list[str]
) -> None:
    workbench = bench()
    path = workbench.folder / "job.json"
    path.parent.mkdir(parents=True)
    job = workbench.job().to_wire()
    for section, values in change.items():
        job["spec"][section] |= values
    workbench.job = lambda: FixedJob(job)  # type: ignore[method-assign]
    ended = workbench.run("prepare")
    ends_with(ended, 64, "InvalidJob", str(path), *words)
    assert list(workbench.output.iterdir()) == []


class FixedJob:
    """A job that no model would accept."""

    def __init__(self, body: dict[str, Any]) -> None:
        self._body = body

    def to_json(self) -> str:
        return json.dumps(self._body)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (
            {"hyperparameters": {"learningRate": "fast"}},
            ["spec.hyperparameters.learningRate", '"fast"'],
        ),
        ({"hyperparameters": {"epoch": "3"}}, ["epoch: unknown field; did you mean epochs?"]),
    ],
)
def test_run_refuses_a_bad_field_before_any_stage(
    bench: Callable[..., Workbench], tmp_path: Path, change: dict[str, Any], words: list[str]
) -> None:
    workbench = bench()
    spec = workbench.spec()
    for section, values in change.items():
        spec[section] |= values
    job = {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneJob",
        "metadata": {"name": "tiny"},
        "spec": spec,
    }
    (tmp_path / "job.yaml").write_text(yaml.safe_dump(job))
    done = Cli(tmp_path, use_fake_trainer=False)("run", "job.yaml")
    assert done.code == 64
    for word in words:
        assert word in done.err
    assert "Traceback" not in done.err
    assert not workbench.output.exists()


@needs_root
def test_output_that_fills_up_holds_nothing_half_published(
    bench: Callable[..., Workbench],
) -> None:
    workbench = bench(
        {
            "output": {"formats": ["Adapter", "Merged"]},
            "hyperparameters": {"maxSteps": 1},
        }
    )
    workbench.run_to("prepare")
    for place in ("adapter", "merged"):
        with small_disk(workbench.run_folder / place, "64k"):
            ended = workbench.run("train")
            ends_with(ended, 73, "DiskFull", str(workbench.run_folder / place), "Free space")
            assert not (workbench.run_folder / place / "manifest.json").exists()
    again = workbench.run_to("train")
    assert again.result["reused"]  # the adapter was published before the merged model failed
    assert (workbench.run_folder / "merged" / "manifest.json").exists()
