"""What ``finetune compare`` takes for a run, and what it reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from finetune_cli.errors import CliError
from finetune_cli.reports.run_files import Asking, name_apart, read_runs
from finetune_cli.views.comparison import bars, describe_comparison
from finetune_trainer.experiments.comparison import compare_runs
from kit.cases.spec_cases import minimal_job
from kit.reports.experiment_runs import Made, write_run


class FakeCluster:
    """Knows one job."""

    def __init__(self, job: dict[str, Any]) -> None:
        self.job = job

    def get_job(self, name: str) -> dict[str, Any]:
        assert name == self.job["metadata"]["name"]
        return self.job


def no_cluster() -> Any:
    raise AssertionError("no name was to be looked up")


def asking(**changes: Any) -> Asking:
    return Asking(**{"connect": no_cluster, **changes})


@pytest.fixture
def output(tmp_path: Path) -> Path:
    for made in (Made(name="a", accuracy=0.7), Made(name="b", accuracy=0.9, num_questions=120)):
        write_run(tmp_path, made)
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize(
    "below",
    ["", "runs", "runs/default/a", "runs/default/a/u-a", "runs/default/a/u-a/evaluation",
     "runs/default/a/u-a/job.json", "runs/default/a/u-a/evaluation/report.json"],
)  # fmt: skip
def test_any_folder_or_file_of_a_run_stands_for_it(output: Path, below: str) -> None:
    found = read_runs([str(output / below)], asking())
    assert [run.name for run in found] == (["a", "b"] if below in ("", "runs") else ["a"])
    assert len(found[0].rows) == 120
    assert found[0].validation_loss is not None


@pytest.mark.slow
def test_a_run_that_is_named_twice_is_one(output: Path) -> None:
    one = str(output / "runs/default/a/u-a")
    assert len(read_runs([one, f"file://{one}/adapter", str(output)], asking())) == 2


def test_a_result_file_tells_the_whole_time(output: Path, tmp_path: Path) -> None:
    uri = f"file://{output}/runs/default/a/u-a/evaluation/report.json"
    result = {"name": "a", "seconds": 2400.5, "results": {"evaluate": {"reportUri": uri}}}
    file = tmp_path / "result.json"
    file.write_text(json.dumps(result))
    (run,) = read_runs([str(file)], asking(hour_price=2.0))
    assert (run.effort.seconds, run.effort.is_training_only) == (2400.5, False)
    assert (run.effort.gpu_hours, run.effort.cost) == (1.0, 2.0)


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("empty/x", None, "no such file or folder"),
        ("empty", None, "no run lies here: name the folder of a run"),
        ("r.json", '{"name": "a", "results": {}}', "has not trained, there is nothing to compare"),
        ("r.json", "{", "no JSON that can be read"),
        ("j.yaml", "kind: Pod", "kind"),
    ],
)
def test_what_is_no_run_is_refused(tmp_path: Path, name: str, content: str, why: str) -> None:
    (tmp_path / "empty").mkdir()
    if content:
        (tmp_path / name).write_text(content)
    with pytest.raises(CliError, match=why):
        read_runs([str(tmp_path / name)], asking())


def test_a_damaged_evaluation_is_refused(output: Path) -> None:
    folder = output / "runs/default/a/u-a"
    (folder / "evaluation/samples.jsonl").write_text("{}\n")
    with pytest.raises(CliError, match="samples"):
        read_runs([str(folder)], asking())


@pytest.mark.slow
def test_a_job_whose_storage_cannot_be_reached_is_compared_by_its_status(output: Path) -> None:
    body = minimal_job("headlines")
    body["metadata"] |= {"namespace": "team-a", "uid": "u1"}
    body["spec"]["output"] = {"uri": f"ftp://{output}"}
    body["status"] = {
        "phase": "Succeeded",
        "startTime": "2026-01-01T00:00:00Z",
        "completionTime": "2026-01-01T01:00:00Z",
        "dataset": {"digest": "d" * 64, "rows": {"train": 9}, "numTokens": 5},
        "selection": {"step": 8, "lastStep": 10, "plannedSteps": 20},
        "evaluation": {"scores": [{"name": "exactMatch", "base": "0.1", "tuned": "0.7"}]},
        "cost": {"gpuHours": "2.000", "amount": "5.00"},
        "artifact": {"version": 3},
    }
    cluster: Any = FakeCluster(body)
    targets = ["headlines", str(output / "runs/default/a/u-a")]
    found = read_runs(targets, asking(connect=lambda: cluster))
    job = found[0]
    assert (job.state, job.step, job.last_step, job.version) == ("Succeeded", 8, 10, 3)
    assert (job.effort.seconds, job.effort.gpu_hours, job.effort.cost) == (3600.0, 2.0, 5.0)
    assert "its files could not be read" in job.notes[0]
    text = describe_comparison(compare_runs(found))
    assert "not judged" in text
    assert "the answers of headlines are not stored or could not be read" in text
    assert f"note: headlines: {job.notes[0]}" in text


def test_names_are_told_apart_by_the_end_of_the_uid() -> None:
    named = [("a", "s3://x/a/local-123456"), ("a", "s3://x/a/local-abcdef"), ("b", "s3://x/b/u")]
    assert name_apart(named) == ["a-123456", "a-abcdef", "b"]
    assert name_apart([("a", "s3://x/123456"), ("a", "s3://y/123456")]) == ["a-1", "a-2"]


@pytest.mark.slow
def test_a_terminal_is_told_what_differs(output: Path) -> None:
    text = describe_comparison(compare_runs(read_runs([str(output)], asking())))
    assert "data: the same version" in text
    assert "recipe: no setting differs" in text
    assert "b - a" in text
    assert "b is better" in text
    assert "paired over 120 rows" in text


@pytest.mark.slow
def test_a_score_on_validation_rows_is_read_and_shown(tmp_path: Path) -> None:
    for made in (Made(name="a", num_questions=0, num_validation=80), Made(name="b")):
        write_run(tmp_path, made)
    scored, other = read_runs([str(tmp_path)], asking())
    assert len(scored.validation_rows) == 80
    assert scored.validation_text.startswith("exactMatch 0.")
    assert (other.validation_text, list(other.validation_rows)) == ("", [])
    text = describe_comparison(compare_runs([scored, other]))
    assert "ON VALIDATION ROWS" in text
    assert scored.validation_text in text
    assert "ON VALIDATION ROWS" not in describe_comparison(compare_runs([other, other]))


def test_a_curve_is_bars_on_one_scale() -> None:
    assert bars([(1, 2.0), (2, 1.0), (3, 1.5)], 1.0, 2.0) == "█▁▅"
    assert bars([(1, 1.0)], 1.0, 1.0) == "▁"
    assert len(bars([(i, float(i)) for i in range(500)], 0.0, 499.0)) == 24
