"""From stage results to sections of the status, and back.

Results arrive in termination messages. They are read back from the status once the pods are gone.
"""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from finetune_api.meta import APIModel
from finetune_api.protocol.evaluation_result import (
    EvaluateResult,
    GateResult,
    JudgeResult,
    PublishedVersion,
    Score,
)
from finetune_api.protocol.stage_results import PrepareResult, TrackingResult, TrainResult
from finetune_api.protocol.trainer import Stage
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.spec.tracking import MAX_TRACKERS
from finetune_api.v1alpha1.status.dataset import DatasetStatus, TakenOverStatus
from finetune_api.v1alpha1.status.evaluation import (
    MAX_GATE_MESSAGE,
    Artifact,
    EvaluationStatus,
    GateStatus,
    JudgeStatus,
    LookStatus,
    ScoreStatus,
)
from finetune_operator.finetunejob.render.claims import to_claim_uri
from finetune_operator.status.conditions import shorten

Section = dict[str, Any]
AnyResult = PrepareResult | TrainResult | EvaluateResult
MAX_SCORES = 16
MAX_METRICS = 24


def _fields(model: type[APIModel], wire: Section) -> Section:
    """Return the entries that a model has and that say something."""
    names = {field.alias for field in model.model_fields.values()}
    return {k: v for k, v in wire.items() if k in names and v not in ("", [], None)}


def dataset_section(result: PrepareResult) -> Section:
    """Return ``status.dataset``."""
    wire = {**result.to_wire(), "uri": to_claim_uri(result.uri)}
    if result.taken_over is not None:
        wire["takenOver"] = _fields(TakenOverStatus, wire["takenOver"])
    return _fields(DatasetStatus, wire)


def artifact_section(result: TrainResult) -> Section:
    """Return ``status.artifact`` of an adapter that is not published yet."""
    places = {"uri": to_claim_uri(result.uri), "bytes": result.num_bytes}
    return _fields(Artifact, {**result.to_wire(), **places})


def training_text(result: TrainResult) -> str:
    """Return what a training came to, in a sentence."""
    return f"Trained {result.step} steps."


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
    wire, published = result.to_wire(), result.published or PublishedVersion()
    instead = {
        "scores": [_fields(ScoreStatus, score.to_wire()) for score in result.scores[:MAX_SCORES]],
        "reportUri": to_claim_uri(result.report_uri),
        "message": shorten(result.goal_message),
        "publishedVersion": published.version,
        "newerVersion": published.newer,
        "gates": [_gate_section(gate) for gate in result.gates],
        "look": _fields(LookStatus, wire["look"]) if result.look else None,
        "judge": _judge_section(result.judge) if result.judge else None,
    }
    return _fields(EvaluationStatus, {**wire, **instead})


def _judge_section(judge: JudgeResult) -> Section:
    words = [judge.failure] if judge.failure else judge.notes
    section = {
        "rows": judge.num_judged,
        "agreement": judge.agreement,
        "first": judge.first.value if judge.first else None,
        "message": shorten(words[0], MAX_GATE_MESSAGE) if words else None,
    }
    return _fields(JudgeStatus, section)


def _gate_section(gate: GateResult) -> Section:
    stands = gate.met and gate.applicable
    words = "" if stands else shorten(gate.message, MAX_GATE_MESSAGE)
    instead = {"applicable": None if gate.applicable else False, "message": words}
    return _fields(GateStatus, {**gate.to_wire(), **instead})


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
        sections: Section = {"dataset": dataset_section(result)}
        if (run := result.taken_over) is not None and not artifact:
            told = {"uri": to_claim_uri(run.uri), "sha256": run.sha256, "bytes": run.num_bytes}
            sections["artifact"] = told
        return sections
    if isinstance(result, TrainResult):
        selection = selection_section(result)
        sections = {"artifact": {**artifact, **artifact_section(result)}}
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
            return _prepare_result(status.get("dataset") or {}, status.get("artifact") or {})
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


def _prepare_result(dataset: Section, artifact: Section) -> PrepareResult:
    run = dataset.get("takenOver")
    if run:
        weights = {"uri": artifact["uri"], "sha256": artifact["sha256"]}
        run = {**run, **weights, "numBytes": artifact["bytes"]}
    return PrepareResult.model_validate({**_fields(PrepareResult, dataset), "takenOver": run})


def _train_result(status: Section) -> TrainResult:
    artifact = status["artifact"]
    step = (status.get("progress") or {}).get("step")
    return TrainResult(
        uri=artifact["uri"],
        sha256=artifact["sha256"],
        num_bytes=artifact["bytes"],
        manifest_sha256="",
        origin_digest=artifact.get("originDigest") or "",
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
    versions = {
        "version": evaluation.get("publishedVersion"),
        "newer": evaluation.get("newerVersion"),
    }
    told = {
        **_fields(EvaluateResult, evaluation),
        "scores": evaluation["scores"],
        "judge": None,
        "goalMessage": evaluation.get("message"),
        "published": _fields(PublishedVersion, versions) or None,
        "stage": "publish" if stage is Stage.PUBLISH else "evaluate",
        **{name: artifact.get(name) for name in ("version", "manifestUri")},
    }
    found = EvaluateResult.model_validate(told)
    # A candidate that waits, or half a result of an older operator: nothing may be concluded.
    return found if found.is_missed or found.version is not None else None
