"""How a FineTuneSweep is shown: its trials, the best first; pure functions over dicts."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from statistics import fmean, stdev
from typing import Any

from finetune_api.names import SWEEP_LABEL
from finetune_api.v1alpha1.evaluation.objective import VALIDATION_LOSS
from finetune_api.v1alpha1.finetunesweep import default_stopping
from finetune_cli.views.layout import age, conditions, facts, section, table

Body = Mapping[str, Any]

STUDENT_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Quantiles at 97.5 % of Student's t with 1 to 10 degrees of freedom."""
MIN_REPLICATES = 2
NO_NOISE = (
    "How much of a difference is chance is not known: set replicates to 2 or more, and the best"
    " setting is trained again with other seeds."
)


def metric_of(sweep: Body) -> str:
    """Return what the trials are compared by; empty before the operator has told it."""
    return str(sweep.get("status", {}).get("objective", {}).get("metric", ""))


def _is_of_loss(sweep: Body) -> bool:
    return metric_of(sweep) in ("", VALIDATION_LOSS)


def is_maximised(sweep: Body) -> bool:
    """Whether a higher score is a better one."""
    return bool(sweep.get("status", {}).get("objective", {}).get("direction") == "Maximize")


def chosen_trial(sweep: Body) -> str:
    """Return the name of the trial that was chosen; empty before that."""
    best = sweep.get("status", {}).get("best", {})
    return str(best["name"]) if best.get("chosen") else ""


def order_trials(sweep: Body) -> list[Body]:
    """Return the trials, the best first: by score, then by loss; those without a score last."""
    trials: list[Body] = list(sweep.get("status", {}).get("trials", []))
    sign = -1 if is_maximised(sweep) else 1

    def place(trial: Body) -> tuple[bool, float, float]:
        score, loss = _score(trial), _number(trial.get("loss"))
        return (score is None, sign * (score or 0.0), math.inf if loss is None else loss)

    return sorted(trials, key=place)


def find_noise(sweep: Body) -> float | None:
    """Return by how much a trial may differ from the best setting by chance alone.

    It is computed from replicates of one setting, without the run that was picked as the best. A
    single run lies within the mean of its replicates plus or minus this with 95 %, if runs of other
    settings vary as much.

    Returns:
        The half width of the interval; None below two replicates with a score.
    """
    scores = _replicates(sweep)
    if len(scores) < MIN_REPLICATES:
        return None
    student = STUDENT_95[min(len(scores) - 1, len(STUDENT_95)) - 1]
    return student * stdev(scores) * math.sqrt(1 + 1 / len(scores))


def leaderboard(sweep: Body) -> list[str]:
    """Return the trials as a table, the best first, and what there is to know of it."""
    trials = order_trials(sweep)
    if not trials:
        return []
    noise = find_noise(sweep)
    paths = list(dict.fromkeys(path for t in trials for path in t.get("parameters", {})))
    chosen = chosen_trial(sweep)
    rows = []
    for trial in trials:
        name = trial["name"]
        state = trial.get("state", "")
        rows.append(
            [
                f"{name} *" if name == chosen else name,
                *(trial.get("parameters", {}).get(path, "") for path in paths),
                *_figures(trial, sweep),
                _text(trial.get("step")),
                _text(trial.get("tokens")),
                f"{state}: {trial['reason']}" if trial.get("reason") else state,
                compared(trial, sweep, noise),
            ]
        )
    columns = (
        *("TRIAL", *labelled(paths), *_columns(sweep)),
        *("STEP", "TOKENS", "STATE", "BESIDE THE BEST"),
    )
    lines = table(rows, columns)
    if chosen:
        lines.append("* chosen: it is evaluated on the test side and published through its gates")
    counts = sweep["status"].get("counts", {})
    if counts.get("created", 0) > len(trials):
        left_out = counts["created"] - len(trials)
        lines.append(f"{left_out} more trials: kubectl get ftj -l {SWEEP_LABEL}=SWEEP")
    lines.append(noise_words(sweep))
    return lines


def _columns(sweep: Body) -> tuple[str, ...]:
    if _is_of_loss(sweep):
        return ("SCORE",)
    goal = sweep["spec"]["template"].get("goal") or {}
    percent = 100 * float(goal.get("certainty", "0.95"))
    return (metric_of(sweep), f"{percent:g} %", "LOSS")


def _figures(trial: Body, sweep: Body) -> list[str]:
    """Return the cells of a trial's score: of another metric than the loss, with its interval."""
    score = str(trial.get("score", ""))
    if _is_of_loss(sweep):
        return [score]
    bounds = f"[{trial['low']}, {trial['high']}]" if trial.get("low") else ""
    return [score, bounds, str(trial.get("loss", ""))]


def compared(trial: Body, sweep: Body, noise: float | None) -> str:
    """Return how a trial's score stands beside that of the best setting."""
    score, scores = _score(trial), _replicates(sweep)
    if score is None or noise is None:
        return ""
    gap = score - fmean(scores)
    if trial.get("replicateOf"):
        return "a replicate of the best"
    if abs(gap) <= noise:
        return "within noise"
    return f"{gap:+.4f}"


def noise_words(sweep: Body) -> str:
    """Return how much of a difference may be chance."""
    noise = find_noise(sweep)
    if noise is None:
        return NO_NOISE
    scores = _replicates(sweep)
    return (
        f"The best setting came to {fmean(scores):.4f} on average over {len(scores)} other seeds; "
        f"a run up to {noise:.4f} away may differ by chance alone (95 %, each by itself)."
    )


def _replicates(sweep: Body) -> list[float]:
    trials = sweep.get("status", {}).get("trials", [])
    found = [_score(trial) for trial in trials if trial.get("replicateOf")]
    return [score for score in found if score is not None]


def _score(trial: Body) -> float | None:
    return _number(trial.get("score"))


def _number(text: str | None) -> float | None:
    return None if text in (None, "") else float(str(text))


def _text(number: int | None) -> str:
    return "" if number is None else f"{number:,}"


def labelled(paths: Sequence[str]) -> list[str]:
    """Return paths by their last names, where those differ."""
    last = [path.rsplit(".", 1)[-1] for path in paths]
    return [name if last.count(name) == 1 else path for name, path in zip(last, paths, strict=True)]


def describe(sweep: Body, now: datetime) -> list[str]:
    """Return the lines of ``finetune status``."""
    metadata, spec, status = sweep["metadata"], sweep["spec"], sweep.get("status", {})
    counts, spent = status.get("counts", {}), status.get("spent", {})
    lines = facts(
        {
            "Name": f"{metadata.get('namespace', 'default')}/{metadata['name']}",
            "Phase": status.get("phase", "Pending"),
            "Age": age(metadata.get("creationTimestamp"), now),
            "Model": spec["template"]["model"]["uri"],
            "Search": spec.get("search"),
            "Objective": _objective(sweep),
            "Trials": ", ".join(
                f"{counts[k]} {words}" for k, words in _COUNTS.items() if counts.get(k)
            ),
            "At once": spec.get("parallelism"),
            "Early stopping": _stopping(spec),
            "Replicates": spec.get("replicates") or None,
            "Budget": _budget(spec.get("budget")),
            "GPU hours": spent.get("gpuHours"),
            "Tokens": _text(spent.get("tokens")),
            "Suspended": "yes" if spec.get("suspend") else None,
        }
    )
    lines += section("Parameters", [_parameter(each) for each in spec["parameters"]])
    lines += section("Conditions", conditions(sweep, now))
    return lines + section("Trials", leaderboard(sweep))


def _objective(sweep: Body) -> str | None:
    if _is_of_loss(sweep):
        return metric_of(sweep) and "validationLoss, lower is better"
    direction = sweep["status"]["objective"].get("direction")
    better = "lower" if direction == "Minimize" else "higher"
    most = sweep["spec"].get("objective", {}).get("maxSamples", 500)
    return f"{metric_of(sweep)} of answers to at most {most} validation rows, {better} is better"


_COUNTS = {
    "created": "created",
    "running": "under way",  # with those that wait at a rung and hold no GPU
    "trained": "trained",
    "pruned": "pruned",
    "failed": "failed",
}


def _stopping(spec: Body) -> str:
    return spec.get("earlyStopping", {}).get("method") or default_stopping(spec.get("search", ""))


def _budget(budget: Body | None) -> str | None:
    if not budget:
        return None
    return ", ".join(f"{name} {value}" for name, value in budget.items())


def _parameter(parameter: Body) -> str:
    if "values" in parameter:
        return f"{parameter['path']}: {', '.join(map(str, parameter['values']))}"
    for kind, words in (("logUniform", " on a logarithmic scale"), ("uniform", ""), ("int", "")):
        if kind in parameter:
            ends = parameter[kind]
            return f"{parameter['path']}: {ends['min']} to {ends['max']}{words}"
    return str(parameter["path"])


def outcome(sweep: Body) -> str:
    """Return how a sweep stands, in a sentence."""
    found = [
        each
        for kind in ("Failed", "Complete", "Progressing")
        for each in sweep.get("status", {}).get("conditions", [])
        if each.get("type") == kind and each.get("status") == "True"
    ]
    phase = sweep.get("status", {}).get("phase", "Pending")
    message = found[0].get("message") if found else ""
    return f"{phase}: {message}" if message else str(phase)


def find_trial(sweep: str, name: str, jobs: Iterable[Body]) -> Body | None:
    """Return the FineTuneJob of a trial by its name, or its number: ``3``, ``t3``."""
    wanted = {name, f"{sweep}-{name}", f"{sweep}-t{name}"}
    return next((job for job in jobs if job["metadata"]["name"] in wanted), None)
