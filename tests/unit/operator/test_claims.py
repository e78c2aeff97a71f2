"""``pvc://`` becomes a folder in the pod, for every place that may name a claim."""

from __future__ import annotations

import pytest

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_operator.finetunejob.render.claims import (
    CLAIMS_DIR,
    claims_of,
    to_claim_uri,
    with_file_uris,
)


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
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://org/model"},
            "dataset": {"sources": [{"uri": "s3://data/a.jsonl"}, {"uri": uri}]},
            "output": {"uri": "pvc://results/a"},
        }
    )
    assert claims_of(spec) == {"data": True, "results": False}
    first, second = with_file_uris(spec).dataset.sources
    assert first.uri == "s3://data/a.jsonl"
    assert second.uri == f"file://{CLAIMS_DIR}/{path}"
    assert to_claim_uri(second.uri) == uri.rstrip("/")


def test_general_texts_on_a_claim_are_mounted_for_reading() -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://org/model"},
            "dataset": {"sources": [{"uri": "s3://data/a.jsonl"}]},
            "evaluation": {"forgetting": {"texts": {"uri": "pvc://texts/general.jsonl"}}},
            "output": {"uri": "s3://results/a"},
        }
    )
    assert claims_of(spec) == {"texts": True}
    forgetting = with_file_uris(spec).evaluation.forgetting
    assert forgetting is not None
    assert forgetting.texts is not None
    assert forgetting.texts.uri == f"file://{CLAIMS_DIR}/texts/general.jsonl"


def test_a_schema_on_a_claim_is_mounted_for_reading() -> None:
    spec = FineTuneJobSpec.model_validate(
        {
            "model": {"uri": "hf://org/model"},
            "dataset": {"sources": [{"uri": "s3://data/a.jsonl"}]},
            "evaluation": {"jsonSchema": {"uri": "pvc://schemas/order.json"}},
            "output": {"uri": "s3://results/a"},
        }
    )
    assert claims_of(spec) == {"schemas": True}
    schema = with_file_uris(spec).evaluation.json_schema
    assert schema is not None
    assert schema.uri == f"file://{CLAIMS_DIR}/schemas/order.json"
