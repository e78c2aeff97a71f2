"""A sweep beside its trials run whole, in words and tables. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from benchmarks.sweep_on_cluster.account import Account, Trained
from benchmarks.sweep_on_cluster.material import NUM_STEPS, PARALLELISM

MOST_TOKENS = 1 / 3
"""Share of the whole jobs' tokens that the sweep may train."""


def trial_table(sweep: Account, whole: Account) -> str:
    """Return what each trial has trained in both, as a Markdown table."""
    lines = [
        "| trial | | ended | steps | tokens | validation loss | whole: steps | tokens | loss |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    others = {trial.number: trial for trial in whole.trials}
    for trial in sweep.trials:
        beside = others[trial.number]
        lines.append(
            f"| {trial.number} | {trial.values} | {_end(trial)} | {_work(trial)} "
            f"| {_work(beside)}{' (chosen)' if beside.is_chosen else ''} |"
        )
    return "\n".join(lines)


def _end(trial: Trained) -> str:
    if trial.is_chosen:
        return "chosen"
    return "trained, not chosen" if trial.steps >= NUM_STEPS else trial.phase


def _work(trial: Trained) -> str:
    return f"{trial.steps} | {trial.tokens:,} | {trial.loss}"


def total_table(sweep: Account, whole: Account) -> str:
    """Return what both cost and brought, as a Markdown table."""
    rows = [
        ("tokens trained", *(f"{each.tokens:,}" for each in (sweep, whole))),
        ("steps trained", *(str(each.steps) for each in (sweep, whole))),
        ("share of the tokens", f"{sweep.tokens / whole.tokens:.1%}", "100 %"),
        ("chosen", *(f"{each.chosen.number} ({each.chosen.values})" for each in (sweep, whole))),
        ("its validation loss", sweep.chosen.loss, whole.chosen.loss),
        (f"its {sweep.verdict.metric} on the held-out side", _score(sweep), _score(whole)),
        ("published", _published(sweep), _published(whole)),
        ("seconds", *(f"{each.seconds:.0f}" for each in (sweep, whole))),
    ]
    lines = ["| | sweep | the same trials whole |", "|---|---|---|"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def _score(account: Account) -> str:
    verdict = account.verdict
    return f"{verdict.score:.3f} ({verdict.low:.3f}-{verdict.high:.3f})"


def _published(account: Account) -> str:
    verdict = account.verdict
    goal = "goal met" if verdict.goal_met else "goal missed"
    return f"version {verdict.version}, {goal}" if verdict.version else f"no, {goal}"


def checks(sweep: Account, whole: Account) -> Iterator[tuple[str, bool]]:
    """Yield what was to be shown, and whether it was."""
    share = sweep.tokens / whole.tokens
    yield (
        f"at most a third of the whole jobs' tokens: {sweep.tokens:,} of {whole.tokens:,}, "
        f"{share:.1%}",
        share <= MOST_TOKENS,
    )
    # Of the sweep's winner the upper end: the best of the whole jobs may be as good by chance.
    yield (
        f"its best within noise of the whole jobs' best: {_score(sweep)} against {_score(whole)}",
        sweep.verdict.high >= whole.verdict.score,
    )
    yield (
        f"the winner published through its goal: {_published(sweep)}",
        sweep.verdict.goal_met and sweep.verdict.version > 0,
    )
    yield (
        f"at most {PARALLELISM} trials at a time: {sweep.most_running}",
        sweep.most_running <= PARALLELISM,
    )
