"""The content that leaves for a tracker: settings, figures and addresses.

Pure. Never the text of a row, a prompt or an answer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from finetune_api.protocol.evaluation_result import EvaluateResult
from finetune_api.protocol.stage_results import TrainResult
from finetune_api.protocol.trainer import ResolvedJob

MAX_PARAM = 500
"""Most characters of a parameter's value on the oldest servers."""
UID_TAG = "finetune.uid"
"""The tag that identifies a run."""
SWEEP_TAG = "finetune.sweep"

_SECTIONS = ("method", "hyperparameters", "checkpoint", "resources")
_KEY = re.compile(r"[\w\-. /:]{1,250}", re.ASCII)


@dataclass(frozen=True, kw_only=True, slots=True)
class Point:
    """A value of a metric after a step."""

    key: str
    value: float
    step: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Version:
    """A published version: address of the adapter, and its number."""

    source: str
    number: int


@dataclass(frozen=True, kw_only=True, slots=True)
class Facts:
    """The facts of a run beside its curve; later facts win.

    Attributes:
        params: Settings.
        tags: Addresses, digests and verdicts.
        points: Values measured once.
        report: The page, where the job allows it.
        version: The published version.
    """

    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    points: tuple[Point, ...] = ()
    report: Path | None = None
    version: Version | None = None

    def and_also(self, other: Facts) -> Facts:
        """Return both."""
        return Facts(
            params={**self.params, **other.params},
            tags={**self.tags, **other.tags},
            points=(*self.points, *other.points),
            report=other.report or self.report,
            version=other.version or self.version,
        )


def identity_of(job: ResolvedJob) -> dict[str, str]:
    """Return the tags that say which job a run is of."""
    return {UID_TAG: job.uid, "finetune.namespace": job.namespace, "finetune.name": job.name}


def facts_of_job(job: ResolvedJob) -> Facts:
    """Return the job's facts: model, data, method and settings."""
    spec, wire = job.spec, job.spec.to_wire()
    params = {"model.uri": spec.model.uri, "output.uri": spec.output.uri}
    if spec.model.revision:
        params["model.revision"] = spec.model.revision
    for index, source in enumerate(spec.dataset.sources):
        params[f"dataset.sources.{index}.uri"] = source.uri
    for section in _SECTIONS:
        params |= _flatten(section, wire.get(section))
    return Facts(params=_cut(params))


def facts_of_recipe(recipe: Mapping[str, Any]) -> Facts:
    """Return the values of the automatic settings."""
    return Facts(params=_cut(_flatten("recipe", recipe)))


def facts_of_training(result: TrainResult) -> Facts:
    """Return the adapter's address and step, and the metrics of trials."""
    tags = {
        "finetune.adapter.uri": result.uri,
        "finetune.adapter.sha256": result.sha256,
        "finetune.adapter.manifest": result.manifest_sha256,
    }
    points: list[Point] = []
    if result.selection is not None:
        tags["finetune.selected_step"] = str(result.selection.step)
        score = result.selection.score
        if score is not None and score.value:
            points = _points(result.selection.step, {f"validation.{score.metric}": score.value})
    return Facts(tags=tags, points=tuple(points))


def facts_of_evaluation(result: EvaluateResult) -> Facts:
    """Return scores of base and tuned model, the verdict, and the version if there is one."""
    points = []
    attacks = result.red_team.scores if result.red_team else []
    scores = [(score.name, score) for score in (*result.scores, *result.probes)]
    for name, score in (*scores, *((f"redTeam.{score.name}", score) for score in attacks)):
        for kind, value in (("base", score.base), ("tuned", score.tuned)):
            points += _points(0, {f"test.{name}.{kind}": value})
    tags = {
        "finetune.report.uri": result.report_uri,
        "finetune.evaluation.digest": result.digest,
        "finetune.goal_met": "" if result.goal_met is None else str(result.goal_met).lower(),
        "finetune.gates_missed": ", ".join(gate.name for gate in result.missed_gates),
        "finetune.version": "" if result.version is None else str(result.version),
        "finetune.manifest.uri": result.manifest_uri,
    }
    return Facts(tags={key: text for key, text in tags.items() if text}, points=tuple(points))


def points_of_curve(lines: Iterable[bytes | str]) -> list[Point]:
    """Return the values in lines of ``metrics.jsonl``; other lines are skipped."""
    points: list[Point] = []
    for line in lines:
        try:
            entry = json.loads(line)
            step = int(entry.pop("step"))
        except (ValueError, KeyError, AttributeError, TypeError):
            continue
        points += _points(step, entry)
    return points


def unknown_points(points: Iterable[Point], last_steps: Mapping[str, int]) -> list[Point]:
    """Return the points that the tracker lacks. A resumed run logs some steps again."""
    return [point for point in points if point.step > last_steps.get(point.key, -1)]


def _points(step: int, values: Mapping[str, Any]) -> list[Point]:
    points = []
    for key, value in values.items():
        try:
            number = float(value)
        except (TypeError, ValueError):
            continue
        if _KEY.fullmatch(key) and math.isfinite(number):
            points.append(Point(key=key, value=number, step=step))
    return points


def _flatten(prefix: str, value: Any) -> dict[str, str]:
    if isinstance(value, Mapping):
        found: dict[str, str] = {}
        for key, item in value.items():
            found |= _flatten(f"{prefix}.{key}", item)
        return found
    if isinstance(value, list):
        return {prefix: ",".join(map(str, value))}
    return {} if value is None else {prefix: str(value)}


def _cut(params: Mapping[str, str]) -> dict[str, str]:
    return {key: text[:MAX_PARAM] for key, text in params.items() if _KEY.fullmatch(key)}
