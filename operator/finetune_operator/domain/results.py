"""From stage results to sections of the status."""

from __future__ import annotations

from typing import Any

from finetune_api.trainer import EvaluateResult, PrepareResult, TrainResult
from finetune_operator.domain.conditions import shorten
from finetune_operator.render.claims import to_claim_uri

Section = dict[str, Any]
MAX_SCORES = 16
MAX_METRICS = 24


def dataset_section(result: PrepareResult) -> Section:
    """Return ``status.dataset``."""
    return {
        "digest": result.digest,
        "uri": to_claim_uri(result.uri),
        "rows": result.rows.to_wire(),
        "numTokens": result.num_tokens,
        "numInvalidRows": result.num_invalid_rows,
        "numTruncatedRows": result.num_truncated_rows,
    }


def artifact_section(result: TrainResult) -> Section:
    """Return ``status.artifact`` of an adapter that is not published yet."""
    return {
        "uri": to_claim_uri(result.uri),
        "sha256": result.sha256,
        "bytes": result.num_bytes,
    }


def published_section(artifact: Section, result: EvaluateResult) -> Section:
    """Return ``status.artifact`` with what publishing added."""
    if result.version is None:
        return artifact
    published = {**artifact, "version": result.version}
    if result.manifest_uri:
        published["manifestUri"] = to_claim_uri(result.manifest_uri)
    return published


def evaluation_section(result: EvaluateResult) -> Section:
    """Return ``status.evaluation``."""
    section: Section = {
        "scores": [
            {"name": score.name, "base": score.base, "tuned": score.tuned}
            for score in result.scores[:MAX_SCORES]
        ],
        "numSamples": result.num_samples,
        "reportUri": to_claim_uri(result.report_uri),
    }
    if result.goal_met is not None:
        section["goalMet"] = result.goal_met
    if result.goal_message:
        section["message"] = shorten(result.goal_message)
    return section


def metrics_section(result: TrainResult) -> list[Section]:
    """Return ``status.metrics`` as training left them."""
    return [
        {"name": metric.name, "value": metric.value, "step": result.step}
        for metric in result.metrics[:MAX_METRICS]
    ]


def scores_text(result: EvaluateResult) -> str:
    """Return the scores in one line: ``exactMatch 0.42 -> 0.91``."""
    return ", ".join(f"{score.name} {score.base} -> {score.tuned}" for score in result.scores[:4])
