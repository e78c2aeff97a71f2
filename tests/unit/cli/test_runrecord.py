"""A run that was made with ``--set`` is found again by the name of its file alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_cli.app import app
from finetune_cli.cluster.options import ClusterOptions
from finetune_cli.commands.review import find_anywhere
from finetune_cli.files.documents import read_single
from finetune_cli.local.job import LocalRun
from finetune_cli.local.record import MAX_RECORDS, find_run, note_run
from finetune_cli.reports.run_files import Asking, find_runs
from kit.cases.spec_cases import changed, minimal_job

SETTING = ("--set", "hyperparameters.epochs=9")
Run = Callable[..., LocalRun]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "job.yaml"
    path.write_text(yaml.safe_dump(minimal_job()))
    return path


@pytest.fixture
def run(file: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the file up to where its stages would begin."""
    planned: list[LocalRun] = []

    def pretend(run: LocalRun, **_: Any) -> None:
        planned.append(run)
        run.work_dir.mkdir(parents=True, exist_ok=True)
        run.job_file.write_text(run.job.to_json())

    monkeypatch.setattr("finetune_cli.commands.running.run_planned", pretend)

    def call(*options: str) -> LocalRun:
        app(["run", "job.yaml", *options], standalone_mode=False)
        return planned[-1]

    return call


def found(**options: Any) -> LocalRun:
    return find_run(read_single("job.yaml"), **options)


def test_the_last_run_stands_for_a_file_that_was_not_run_as_it_stands(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(*SETTING, "--output-dir", "elsewhere", "--work-dir", "scratch", "-n", "team")
    assert found() == made
    assert capsys.readouterr().err == (
        "note: job.yaml was not run as it stands; this is its last run, with --set "
        "hyperparameters.epochs=9 --output-dir elsewhere --namespace team\n"
    )


def test_the_run_of_the_file_as_it_stands_comes_before_a_later_one(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    plain, changed_run = run(), run(*SETTING)
    assert found() == plain
    told = capsys.readouterr().err
    assert "was last run with --set hyperparameters.epochs=9 (" in told
    assert f"{changed_run.job.run_prefix})" in told
    assert found(overrides=[SETTING[1]]) == changed_run
    assert capsys.readouterr().err == ""


def test_the_last_fresh_run_is_found(run: Run) -> None:
    plain, fresh = run(), run("--fresh")
    assert fresh.job.uid != plain.job.uid
    assert found() == fresh
    assert run() == plain == found()


def test_what_cannot_be_undone_takes_no_other_run(
    run: Run, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made = run(*SETTING)
    assert found(is_exact=True).job.uid != made.job.uid
    assert found(overrides=["hyperparameters.epochs=8"]).job.uid != made.job.uid
    assert capsys.readouterr().err.count("this is another run of it") == 2
    file.write_text(yaml.safe_dump(changed(minimal_job(), {"spec.suspend": True})))
    assert found(overrides=[SETTING[1]]) == made


def test_a_run_whose_folder_was_deleted_is_no_longer_taken(run: Run) -> None:
    made = run(*SETTING)
    made.job_file.unlink()
    assert found().job.uid != made.job.uid


def test_a_list_of_runs_stays_short_and_may_be_damaged(run: Run, tmp_path: Path) -> None:
    made = run(*SETTING)
    for _ in range(MAX_RECORDS + 1):
        note_run("job.yaml", made)
    (record,) = (tmp_path / "cache/finetune/files").iterdir()
    assert len(yaml.safe_load(record.read_text())) == 1
    record.write_text("[{")
    assert found().job.uid != made.job.uid


def test_commands_that_read_a_run_find_it_by_its_file(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = run(*SETTING).job
    place = f"{job.spec.output.uri}/{job.run_prefix}"
    (compared,) = find_runs("job.yaml", Asking(connect=lambda: pytest.fail("no cluster")))
    assert compared.uri == place
    reviewed = find_anywhere("job.yaml", ClusterOptions(), None, None)
    assert reviewed.run_uri == place
