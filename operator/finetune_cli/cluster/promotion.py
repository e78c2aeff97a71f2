"""The release of a sweep's trial to its evaluation, and its consequences; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.evaluation.objective import VALIDATION_LOSS
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.state import is_true

Body = Mapping[str, Any]

LET_GO = {"spec": {"holdAfter": None}}
"""The change that lets a trial go on."""


def check_trial(sweep: str, job: Body) -> None:
    """Refuse a trial that cannot be released, with the remedy.

    Raises:
        CliError: It was pruned, has failed, was released before, or is not trained yet.
    """
    name, spec, status = job["metadata"]["name"], job["spec"], job.get("status", {})
    phase = status.get("phase", "Pending")
    if is_true(job, "Pruned") or spec.get("prune"):
        raise CliError(
            f"{name} was pruned: it has ended, and nothing takes that back. Its weights are "
            f"kept; finetune retry {name} writes a new job that goes on from it",
            exit_code=NOT_MET,
        )
    if is_true(job, "Failed"):
        raise CliError(
            f"{name} has failed, there is nothing to evaluate; finetune status {name} says why, "
            f"finetune retry {name} begins it again",
            exit_code=NOT_MET,
        )
    if "holdAfter" not in spec:
        raise CliError(
            f"{name} was released before, it is {phase}; finetune status {name} shows it",
            exit_code=NOT_MET,
        )
    if phase != "AwaitingSelection":
        raise CliError(
            f"{name} is not trained yet, it is {phase}: its score is not final. Wait until it is "
            f"Trained; finetune status sweep/{sweep} shows when",
            exit_code=NOT_MET,
        )


def describe_choice(sweep: Body, job: Body) -> list[str]:
    """Return the facts that a person needs before the release of a trial."""
    name = job["metadata"]["name"]
    status = sweep.get("status", {})
    trials = {trial["name"]: trial for trial in status.get("trials", [])}
    trial, best = trials.get(name, {}), status.get("best", {})
    settings = ", ".join(f"{k} {v}" for k, v in trial.get("parameters", {}).items())
    lines = [f"trial    {name}{f', {settings}' if settings else ''}"]
    if trial.get("score"):
        lines.append(f"score    {trial['score']} ({_metric_words(status)})")
    elif trial.get("reason"):
        lines.append(f"score    none: {trial['reason']}")
    if best.get("name") and best["name"] != name:
        lines.append(f"best     {best['name']}, {best.get('score', 'no score')}")
    others = [t["name"] for t in trials.values() if t.get("state") in _ALIVE and t["name"] != name]
    lines.append("then     it is evaluated on the test side, and published through its gates")
    if others:
        lines.append(f"         the sweep prunes the other {len(others)}: they save and end")
    return lines


def _metric_words(status: Body) -> str:
    metric = status.get("objective", {}).get("metric", VALIDATION_LOSS)
    return "validation loss" if metric == VALIDATION_LOSS else f"{metric} on validation rows"


_ALIVE = ("Pending", "Running", "Suspended", "Waiting", "Trained")
