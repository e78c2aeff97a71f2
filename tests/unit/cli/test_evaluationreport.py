"""`finetune report`: by job file, folder or job of a cluster; never an unverified page."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.protocol.trainer import local_uid
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_cli.cluster.client import Cluster
from finetune_cli.errors import CliError
from finetune_cli.reports.evaluation import find_report, is_job_file, source_of_file
from finetune_cli.reports.reviews import Source, find_source
from finetune_trainer.storage import StorageAccess, open_store, publish_folder
from kit.cases.spec_cases import changed, minimal_job

DIGEST = "d" * 64


def store_run(root: Path, run: str) -> None:
    """Put the pages of an evaluation and of its data set where stages put them."""
    store = open_store(f"file://{root}")
    made = root.parent / "made"
    made.mkdir()
    for key, text in ((f"{run}/evaluation", "the page"), (f"datasets/{DIGEST}", "of the data")):
        (made / "report.html").write_text(text)
        publish_folder(store, key, made, created_by="a test")
    uri = f"file://{root}/datasets/{DIGEST}"
    pointer = {"prefix": f"datasets/{DIGEST}", "uri": uri}
    (root / run / "dataset.json").write_text(json.dumps(pointer))


def find(target: str) -> Source:
    return find_source(target, None, endpoint=None, region=None)


def test_report_of_a_job_file_is_where_its_run_here_puts_it(tmp_path: Path) -> None:
    body = changed(minimal_job(), {"spec.output": {"uri": f"file://{tmp_path}/out"}})
    file = tmp_path / "job.yaml"
    file.write_text(yaml.safe_dump(body))
    job = FineTuneJob.model_validate(body)
    run = f"runs/team/{job.metadata.name}/{local_uid(job, namespace='team')}"
    assert is_job_file(str(file))
    settings: dict[str, Any] = {
        "output": None, "overrides": None, "endpoint": None, "region": None,
    }  # fmt: skip
    source = source_of_file(str(file), namespace="team", **settings)
    with pytest.raises(CliError, match="give the --set and --output-dir of its run"):
        find_report(source, target="job.yaml")
    store_run(tmp_path / "out", run)
    found = find_report(source, target="job.yaml")
    assert found.page == tmp_path / "out" / run / "evaluation/report.html"
    assert found.told == []


@pytest.mark.parametrize("tail", ["", "/evaluation", "/evaluation/report.html"])
def test_report_of_a_folder_is_found_from_any_part_of_it(tmp_path: Path, tail: str) -> None:
    store_run(tmp_path / "out", "runs/n/j/u")
    folder = tmp_path / "out/runs/n/j/u"
    assert not is_job_file(f"{folder}{tail}")
    assert find_report(find(f"{folder}{tail}"), target="x").page.read_text() == "the page"


def test_folder_without_an_evaluation_is_named(tmp_path: Path) -> None:
    with pytest.raises(CliError, match=f"the report of x would be file://{tmp_path}/evaluation"):
        find_report(find(str(tmp_path)), target="x")


def test_page_from_afar_is_kept_beside_its_data_sets_so_that_its_link_holds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_run(tmp_path / "out", "runs/n/j/u")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr("finetune_trainer.storage.is_local", lambda uri: False)
    job = {"status": {"phase": "Complete", "cost": {"gpuHours": "1.5", "amount": "4.20"},
                      "artifact": {"version": 3}}}  # fmt: skip
    monkeypatch.setattr("finetune_cli.reports.evaluation.REMOTE", "file://")
    uri = f"file://{tmp_path}/out/runs/n/j/u/evaluation"
    found = find_report(Source(uri=uri, access=StorageAccess(), job=job), target="j")
    assert found.page.is_relative_to(tmp_path / "cache")
    assert found.page.read_text() == "the page"
    link = f"../../../../../datasets/{DIGEST}/report.html"
    assert (found.page.parent / link).read_text() == "of the data"
    assert found.told == [
        "phase    Complete",
        "version  3",
        "cost     1.5 GPU hours, 4.20 at the operator's price",
    ]


def test_a_page_that_was_changed_is_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store_run(tmp_path / "out", "runs/n/j/u")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "out/runs/n/j/u/evaluation/report.html").write_text("another page")
    with pytest.raises(CliError, match=r"report\.html"):
        find_report(find(str(tmp_path / "out/runs/n/j/u")), target="x")


def test_report_in_a_volume_of_the_cluster_is_told_and_never_looked_for_here(
    tmp_path: Path,
) -> None:
    store_run(tmp_path / "out", "runs/n/j/u")
    source = Source(
        uri=f"file://{tmp_path}/out/runs/n/j/u/evaluation", access=StorageAccess(), job={}
    )
    with pytest.raises(CliError, match="in a volume of the cluster"):
        find_report(source, target="j")


def test_job_without_an_evaluation_says_how_far_it_is() -> None:
    class Jobs:
        def get_job(self, name: str) -> dict[str, Any]:
            return {"status": {"phase": "Training"}}

    cluster: Cluster = Jobs()  # type: ignore[assignment]
    with pytest.raises(CliError, match="FineTuneJob j has no evaluation yet; it is Training"):
        find_source("j", cluster, endpoint=None, region=None)
