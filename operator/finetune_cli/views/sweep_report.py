"""Why a sweep's winner won, in sentences, and its jobs in the order of that; pure functions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

from finetune_cli.views.sweep import (
    Body,
    chosen_trial,
    is_maximised,
    labelled,
    metric_of,
    noise_words,
    order_trials,
    outcome,
)

Job = TypeVar("Job", bound=Mapping[str, Any])


def order_jobs(sweep: Body, jobs: Sequence[Job]) -> list[Job]:
    """Return the jobs of a sweep, the best trial first; those without a score keep their order."""
    places = {trial["name"]: place for place, trial in enumerate(order_trials(sweep))}
    return sorted(jobs, key=lambda job: places.get(job["metadata"]["name"], len(places)))


def explain_choice(sweep: Body) -> list[str]:
    """Return why the best trial was chosen, by which margin, and its outcome."""
    scored = [trial for trial in order_trials(sweep) if trial.get("score")]
    if not scored:
        return [outcome(sweep)]
    chosen = chosen_trial(sweep)
    winner = next((trial for trial in scored if trial["name"] == chosen), scored[0])
    others = [trial for trial in scored if trial is not winner and not trial.get("replicateOf")]
    return [
        f"{_settings(winner)} {'was chosen' if chosen else 'leads'}: {_score(sweep, winner)}, "
        f"{_place(sweep, scored, winner)}.{_next(others)}",
        noise_words(sweep),
        outcome(sweep),
    ]


def _place(sweep: Body, scored: Sequence[Body], winner: Body) -> str:
    end = "highest" if is_maximised(sweep) else "lowest"
    if winner is scored[0]:
        return f"the {end} of {len(scored)} scores" if len(scored) > 1 else "the only score"
    return f"where {scored[0]['name']} has the {end}: {scored[0]['score']}"


def _next(others: Iterable[Body]) -> str:
    second = next(iter(others), None)
    if second is None:
        return ""
    early = ""
    if second.get("state") == "Pruned" and second.get("step"):
        early = f", stopped early after step {second['step']:,}"
    return f" Beside it stands {_settings(second)} with {second['score']}{early}."


def _score(sweep: Body, trial: Body) -> str:
    bounds = f" [{trial['low']}, {trial['high']}]" if trial.get("low") else ""
    return f"{metric_of(sweep) or 'score'} {trial['score']}{bounds}"


def _settings(trial: Body) -> str:
    parameters = trial.get("parameters", {})
    names = labelled(list(parameters))
    values = ", ".join(f"{n} {v}" for n, v in zip(names, parameters.values(), strict=True))
    return f"{trial['name']} ({values})" if values else str(trial["name"])
