"""From stage results to sections of the status, and back.

Results arrive in termination messages. They are read back from the status once the pods are gone.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from finetune_api.protocol.evaluation_result import (
    EvaluateResult,
    GateResult,
    JudgeResult,
    LookResult,
    PublishedVersion,
    Score,
)
from finetune_api.protocol.stage_results import (
    PrepareResult,
    RowCounts,
    TrackingResult,
    TrainResult,
)
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.tracking import MAX_TRACKERS
from finetune_api.v1alpha1.status.evaluation import MAX_GATE_MESSAGE
from finetune_operator.finetunejob.render.claims import to_claim_uri
from finetune_operator.status.conditions import shorten

Section = dict[str, Any]
AnyResult = PrepareResult | TrainResult | EvaluateResult
MAX_SCORES = 16
MAX_METRICS = 24


def dataset_section(result: PrepareResult) -> Section:
    """Return ``status.dataset``."""
    section: Section = {
        "digest": result.digest,
        "uri": to_claim_uri(result.uri),
        "rows": result.rows.to_wire(),
        "numTokens": result.num_tokens,
        "numInvalidRows": result.num_invalid_rows,
        "numTruncatedRows": result.num_truncated_rows,
    }
    if result.test_sha256:
        section["testSha256"] = result.test_sha256
    if result.invalid_rows:
        section["invalidRows"] = [place.to_wire() for place in result.invalid_rows]
    if result.questions is not None:
        section["questions"] = result.questions.to_wire()
    return section


def artifact_section(result: TrainResult) -> Section:
    """Return ``status.artifact`` of an adapter that is not published yet."""
    section: Section = {
        "uri": to_claim_uri(result.uri),
        "sha256": result.sha256,
        "bytes": result.num_bytes,
    }
    if result.origin_digest:
        section["originDigest"] = result.origin_digest
    if result.origin_step is not None:
        section["originStep"] = result.origin_step
    return section


def training_text(result: TrainResult) -> str:
    """Return what a training came to, in a sentence."""
    if result.origin_step is None:
        return f"Trained {result.step} steps."
    return (
        f"Trained nothing: the adapter is the weights of spec.initFrom, taken after step"
        f" {result.origin_step} of their run, unchanged."
    )


def selection_section(result: TrainResult) -> Section:
    """Return ``status.selection``: the step whose weights are published; empty if unknown."""
    wire = result.selection.to_wire() if result.selection else {}
    return {name: value for name, value in wire.items() if value != ""}


def score_text(result: TrainResult) -> str:
    """Return what the answers to validation rows score, in a sentence; empty where none has to."""
    told = result.selection.score if result.selection else None
    if told is None:
        return ""
    if not told.value:
        why = f"{told.reason}: {told.message.rstrip('.')}"
        return f" {told.metric} on validation rows was not measured: {why}."
    return (
        f" {told.metric} {told.value} [{told.low}, {told.high}] on {told.num_samples} validation"
        " rows."
    )


def published_section(artifact: Section, result: EvaluateResult) -> Section:
    """Return ``status.artifact`` with what publishing added: a version, or none."""
    published = {k: v for k, v in artifact.items() if k not in ("version", "manifestUri")}
    if result.version is None:
        return published
    published["version"] = result.version
    if result.manifest_uri:
        published["manifestUri"] = to_claim_uri(result.manifest_uri)
    return published


def evaluation_section(result: EvaluateResult) -> Section:
    """Return ``status.evaluation``."""
    section: Section = {
        "scores": [
            {
                "name": score.name,
                "base": score.base,
                **({"baseline": score.baseline} if score.baseline else {}),
                "tuned": score.tuned,
                **({"published": score.published} if score.published else {}),
            }
            for score in result.scores[:MAX_SCORES]
        ],
        "numSamples": result.num_samples,
        "reportUri": to_claim_uri(result.report_uri),
    }
    if result.digest:
        section["digest"] = result.digest
    if result.goal_met is not None:
        section["goalMet"] = result.goal_met
    if result.goal_message:
        section["message"] = shorten(result.goal_message)
    published = result.published
    if published is not None and published.version is not None:
        section["publishedVersion"] = published.version
    if published is not None and published.newer is not None:
        section["newerVersion"] = published.newer
    if result.gates:
        section["gates"] = [_gate_section(gate) for gate in result.gates]
    if result.look is not None:
        section["look"] = _look_section(result.look)
    if result.judge is not None:
        section["judge"] = _judge_section(result.judge)
    return section


def _look_section(look: LookResult) -> Section:
    section: Section = {"message": look.message} if look.message else {}
    return section if look.number is None else {"number": look.number, **section}


def _judge_section(judge: JudgeResult) -> Section:
    section: Section = {"rows": judge.num_judged}
    if judge.agreement:
        section["agreement"] = judge.agreement
    if judge.first is not None:
        section["first"] = judge.first.value
    words = [judge.failure] if judge.failure else judge.notes
    if words:
        section["message"] = shorten(words[0], MAX_GATE_MESSAGE)
    return section


def _gate_section(gate: GateResult) -> Section:
    section: Section = {"name": gate.name, "met": gate.met, "severity": gate.severity}
    if not gate.applicable:
        section["applicable"] = False
    if gate.message and not (gate.met and gate.applicable):
        section["message"] = shorten(gate.message, MAX_GATE_MESSAGE)
    return section


def tracking_section(told: TrackingResult, *, known: list[str]) -> Section:
    """Return ``status.tracking``.

    Args:
        told: What a stage says of its trackers.
        known: Pages that an earlier stage told.
    """
    uris = list(dict.fromkeys((*known, *told.uris)))[:MAX_TRACKERS]
    section: Section = {"uris": uris, "message": told.problem}
    return {name: value for name, value in section.items() if value}


def metrics_section(result: TrainResult) -> list[Section]:
    """Return ``status.metrics`` as training left them."""
    return [
        {"name": metric.name, "value": metric.value, "step": result.step}
        for metric in result.metrics[:MAX_METRICS]
    ]


def scores_text(result: EvaluateResult) -> str:
    """Return the scores in one line: ``exactMatch 0.42 (with a prompt) -> 0.91``."""
    return ", ".join(
        f"{score.name} {score.base}{_asked(score)} -> {score.tuned}" for score in result.scores[:4]
    )


def _asked(score: Score) -> str:
    """Say how the base model came to its score, where it was asked otherwise than as it is."""
    if score.baseline is None or score.baseline == "AsIs":
        return ""
    return f" ({BASELINE_WORDS[score.baseline]})"


def sections_of(result: AnyResult, artifact: Section) -> Section:
    """Return the sections of the status that a result fills.

    Args:
        result: The result of a stage.
        artifact: ``status.artifact`` as it stands; training and publication each fill a part.
    """
    if isinstance(result, PrepareResult):
        return {"dataset": dataset_section(result)}
    if isinstance(result, TrainResult):
        selection = selection_section(result)
        sections: Section = {"artifact": {**artifact, **artifact_section(result)}}
        return {**sections, "selection": selection} if selection else sections
    return {
        "evaluation": evaluation_section(result),
        "artifact": published_section(artifact, result),
    }


def result_of_status(status: Section | None, stage: Stage) -> AnyResult | None:
    """Rebuild a result from the status; None if the status does not hold it."""
    status = status or {}
    try:
        if stage is Stage.PREPARE:
            return _prepare_result(status.get("dataset") or {})
        if stage is Stage.TRAIN:
            return _train_result(status)
        return _evaluate_result(status, stage)
    except (KeyError, TypeError, ValidationError):
        return None


def is_verdict(result: AnyResult | None, spec: FineTuneJobSpec) -> bool:
    """Return whether a result says how the job ends: published, or goal or gates were missed.

    Args:
        result: Result of the stage that publishes, None if it was lost.
        spec: The job's spec, of whose goal and gates it must speak.
    """
    if not isinstance(result, EvaluateResult):
        return False
    if result.is_missed:
        return True
    speaks_of_goal = spec.goal is None or result.goal_met is True
    # Alarms of forgetting and safety stand beside the job's own gates.
    told = {gate.name for gate in result.gates}
    speaks_of_gates = all(gate.name in told for gate in spec.evaluation.gates)
    return result.version is not None and speaks_of_goal and speaks_of_gates


def _prepare_result(dataset: Section) -> PrepareResult:
    return PrepareResult(
        digest=dataset["digest"],
        uri=dataset["uri"],
        test_sha256=dataset.get("testSha256") or "",
        rows=RowCounts.model_validate(dataset["rows"]),
        num_tokens=dataset["numTokens"],
        num_invalid_rows=dataset["numInvalidRows"],
        invalid_rows=dataset.get("invalidRows") or [],
        num_truncated_rows=dataset["numTruncatedRows"],
        questions=dataset.get("questions") or None,
    )


def _train_result(status: Section) -> TrainResult:
    artifact = status["artifact"]
    step = (status.get("progress") or {}).get("step")
    return TrainResult(
        uri=artifact["uri"],
        sha256=artifact["sha256"],
        num_bytes=artifact["bytes"],
        manifest_sha256="",
        origin_digest=artifact.get("originDigest") or "",
        origin_step=artifact.get("originStep"),
        step=step or 0,
        selection=status.get("selection") or None,
    )


def _evaluate_result(status: Section, stage: Stage) -> EvaluateResult | None:
    if stage is Stage.PUBLISH and all(
        entry.get("name") != stage.value for entry in status.get("stages") or ()
    ):
        return None  # what stands there is the evaluation's own
    evaluation = status["evaluation"]
    artifact = status.get("artifact") or {}
    is_decided = (status.get("publication") or {}).get("run") is not None
    if stage is Stage.PUBLISH and is_decided and artifact.get("version") is None:
        return None  # so it was when somebody decided, after the end; Job publish tells a version
    found = EvaluateResult(
        scores=[Score.model_validate(score) for score in evaluation["scores"]],
        num_samples=evaluation["numSamples"],
        goal_met=evaluation.get("goalMet"),
        goal_message=evaluation.get("message") or "",
        gates=[GateResult.model_validate(gate) for gate in evaluation.get("gates") or ()],
        published=_published_of(evaluation),
        look=evaluation.get("look") or None,
        report_uri=evaluation["reportUri"],
        stage="publish" if stage is Stage.PUBLISH else "evaluate",
        digest=evaluation.get("digest") or "",
        version=artifact.get("version"),
        manifest_uri=artifact.get("manifestUri") or "",
    )
    # A candidate that waits, or half a result of an older operator: nothing may be concluded.
    return found if found.is_missed or found.version is not None else None


def _published_of(evaluation: Section) -> PublishedVersion | None:
    version, newer = evaluation.get("publishedVersion"), evaluation.get("newerVersion")
    if version is None and newer is None:
        return None
    return PublishedVersion(version=version, newer=newer)
