"""What the trials of a sweep have trained, counted from what their runs stored.

The status of a trial that was stopped lags behind: it ends when the sweep says so, and the pod
finishes its step and saves after that. The curve that lies beside its checkpoint has all of it.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from cluster_place import TEAM, Place
from finetune_api.names import SWEEP_LABEL, TRIAL_LABEL
from finetune_cli.cluster.retry import run_uri
from finetune_trainer.evaluate.report.usage import read_usage
from finetune_trainer.storage import StorageAccess, open_store, read_json

CURVE = "metrics.jsonl"


@dataclass(frozen=True, kw_only=True, slots=True)
class Trained:
    """What one trial has trained.

    Attributes:
        number: Counts from 1.
        values: What was varied, in words.
        phase: How it ended.
        steps: Optimiser steps.
        tokens: Tokens trained on.
        loss: Lowest validation loss; empty before the first.
        is_chosen: Whether it was evaluated and published.
    """

    number: int
    values: str
    phase: str
    steps: int
    tokens: int
    loss: str
    is_chosen: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """How the chosen trial did on the held-out side.

    Attributes:
        name: The FineTuneJob.
        metric: Metric of the goal.
        score: Its score.
        low: Lower end of its interval.
        high: Upper end.
        goal_met: Whether the goal was met.
        version: Published version; 0 for none.
        manifest_uri: Manifest of the version.
    """

    name: str
    metric: str
    score: float
    low: float
    high: float
    goal_met: bool
    version: int
    manifest_uri: str


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What a sweep has cost and brought.

    Attributes:
        trials: By number.
        verdict: Of the chosen one.
        most_running: Trials that were seen under way at once.
        seconds: From its first trial to its end.
    """

    trials: Sequence[Trained]
    verdict: Verdict
    most_running: int
    seconds: float

    @property
    def tokens(self) -> int:
        """Tokens that all trials were trained on."""
        return sum(trial.tokens for trial in self.trials)

    @property
    def steps(self) -> int:
        """Optimiser steps of all trials."""
        return sum(trial.steps for trial in self.trials)

    @property
    def chosen(self) -> Trained:
        """The trial that was chosen."""
        return next(trial for trial in self.trials if trial.is_chosen)


def trials_of(place: Place, sweep: str) -> list[dict[str, Any]]:
    """Return the FineTuneJobs of a sweep."""
    selector = f"{SWEEP_LABEL}={sweep}"
    text = place.run_kubectl("-n", TEAM, "get", "ftj", "-l", selector, "-o", "json")
    found: list[dict[str, Any]] = json.loads(text)["items"]
    return found


def count_trials(place: Place, jobs: Iterable[Mapping[str, Any]], chosen: str) -> list[Trained]:
    """Return what each trial has trained, by number."""
    found = [_count(place, job, is_chosen=job["metadata"]["name"] == chosen) for job in jobs]
    return sorted(found, key=lambda trial: trial.number)


def _count(place: Place, job: Mapping[str, Any], *, is_chosen: bool) -> Trained:
    spec, status = job["spec"], job["status"]
    steps, tokens = read_curve(_curve_of(place, job))
    return Trained(
        number=int(job["metadata"]["labels"][TRIAL_LABEL]),
        values=f"rate {spec['hyperparameters']['learningRate']}, "
        f"rank {spec['method']['adapter']['rank']}",
        phase=status["phase"],
        steps=steps,
        tokens=tokens,
        loss=(status.get("validation") or {}).get("bestLoss", ""),
        is_chosen=is_chosen,
    )


def _curve_of(place: Place, job: Mapping[str, Any]) -> str:
    store = open_store(run_uri(job), StorageAccess(endpoint=place.endpoint))
    return store.read_bytes(CURVE).decode() if store.exists(CURVE) else ""


def read_curve(text: str) -> tuple[int, int]:
    """Return steps and tokens that a run's curve counts; zeros for one that has not begun."""
    points = [json.loads(line) for line in text.splitlines()]
    steps = max((int(point["step"]) for point in points), default=0)
    return steps, read_usage(text, was_resumed=False).num_tokens or 0


def read_verdict(place: Place, job: Mapping[str, Any]) -> Verdict:
    """Return how a trial that was evaluated did, with the interval that its report has."""
    status = job["status"]
    folder, _, name = status["evaluation"]["reportUri"].rpartition("/")
    report = read_json(open_store(folder, StorageAccess(endpoint=place.endpoint)), name) or {}
    metric = job["spec"]["goal"]["metric"]
    score = next(each for each in report["result"]["scores"] if each["name"] == metric)
    artifact = status.get("artifact") or {}
    return Verdict(
        name=job["metadata"]["name"],
        metric=metric,
        score=float(score["tuned"]),
        low=float(score["tunedLow"]),
        high=float(score["tunedHigh"]),
        goal_met=bool(status["evaluation"].get("goalMet")),
        version=artifact.get("version") or 0,
        manifest_uri=artifact.get("manifestUri", ""),
    )
