"""``pvc://`` becomes a folder in the pod, for every place that may name a claim."""

from __future__ import annotations

import json

import pytest

from finetune_api.names import Owner
from finetune_api.uris import OUTPUT_FIELD, URI_FIELDS, find_uris
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_operator.finetunejob.render.claims import CLAIMS_DIR, claims_of, to_claim_uri
from finetune_operator.finetunejob.render.config import JOB_FILE, render_config_map
from kit.cases.spec_cases import changed, job_with_uri, minimal_job

OWNER = Owner(namespace="team-a", name="example", uid="u")


def uris_in_the_pod(job: FineTuneJob) -> list[str]:
    told = json.loads(render_config_map(job, OWNER)["data"][JOB_FILE])
    return [uri for _, uri in find_uris(told["spec"])]


@pytest.mark.parametrize(
    ("uri", "path"),
    [
        ("pvc://data/rows.jsonl", "data/rows.jsonl"),
        ("pvc://data", "data"),
        ("pvc://data/2026/", "data/2026"),
        ("pvc://data/2026/**/part-?.csv.gz", "data/2026/**/part-?.csv.gz"),
    ],
)
def test_a_source_on_a_claim_is_mounted_for_reading(uri: str, path: str) -> None:
    sources = [{"uri": "s3://data/a.jsonl"}, {"uri": uri}]
    change = {"spec.dataset.sources": sources, "spec.output.uri": "pvc://results/a"}
    job = FineTuneJob.from_wire(changed(minimal_job(), change))
    assert claims_of(job.spec) == {"data": True, "results": False}
    _, first, second, _ = uris_in_the_pod(job)
    assert first == "s3://data/a.jsonl"
    assert second == f"file://{CLAIMS_DIR}/{path}"
    assert to_claim_uri(second) == uri.rstrip("/")


@pytest.mark.parametrize("field", URI_FIELDS, ids=".".join)
def test_every_claim_is_mounted_and_only_results_are_written(field: tuple[str, ...]) -> None:
    job = FineTuneJob.from_wire(job_with_uri(field, "pvc://mine/a/adapter"))
    assert claims_of(job.spec) == {"mine": field != OUTPUT_FIELD}
    assert f"file://{CLAIMS_DIR}/mine/a/adapter" in uris_in_the_pod(job)


def test_a_claim_that_is_read_and_written_is_mounted_for_writing() -> None:
    change = {"spec.model.uri": "pvc://mine/model", "spec.output.uri": "pvc://mine/out"}
    job = FineTuneJob.from_wire(changed(minimal_job(), change))
    assert claims_of(job.spec) == {"mine": False}
