"""Whether a trial of a sweep may be let go on to its evaluation, and what becomes of that; pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from finetune_api.v1alpha1.evaluation.objective import VALIDATION_LOSS
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.job import is_true

Body = Mapping[str, Any]

LET_GO = {"spec": {"holdAfter": None}}
"""The change that lets a trial go on."""


def check_trial(sweep: str, job: Body) -> None:
    """Refuse a trial that cannot go on, with what to do instead.

    Raises:
        CliError: It was pruned, has failed, was let go on already, or is not trained yet.
    """
    name, spec, status = job["metadata"]["name"], job["spec"], job.get("status", {})
    phase = status.get("phase", "Pending")
    if is_true(job, "Pruned") or spec.get("prune"):
        raise CliError(
            f"{name} was pruned: it has ended, and nothing takes that back. What it has trained is "
            f"kept; finetune retry {name} writes a new job that goes on from it",
            exit_code=NOT_MET,
        )
    if is_true(job, "Failed"):
        raise CliError(
            f"{name} has failed, there is nothing to evaluate; finetune describe {name} says why, "
            f"finetune retry {name} begins it again",
            exit_code=NOT_MET,
        )
    if "holdAfter" not in spec:
        raise CliError(
            f"{name} was let go on already, it is {phase}; finetune describe {name} shows it",
            exit_code=NOT_MET,
        )
    if phase != "AwaitingSelection":
        raise CliError(
            f"{name} is not trained yet, it is {phase}: its score is not final. Wait until it is "
            f"Trained; finetune sweep watch {sweep} shows when",
            exit_code=NOT_MET,
        )


def describe_choice(sweep: Body, job: Body) -> list[str]:
    """Return what a person should know before a trial is let go on."""
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
