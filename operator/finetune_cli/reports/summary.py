"""What a finished run says: the scores, the goal, and where the adapter lies."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.evaluation_result import EvaluateResult, GateResult, Score
from finetune_api.v1alpha1.evaluation.scoring import BASELINE_WORDS, LOWER_IS_BETTER
from finetune_api.v1alpha1.evaluation.spec import Goal
from finetune_cli.local.runner import RunOutcome
from finetune_cli.views.display import duration_text

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table


def print_summary(outcome: RunOutcome, console: Console) -> None:
    """Print the table of scores and where everything lies."""
    evaluation, training = outcome.evaluation, outcome.training
    if evaluation is None or training is None:
        _print_part(outcome, console)
        return
    goal = outcome.run.job.spec.goal
    console.print()
    console.print(score_table(evaluation, goal, title=outcome.run.job.name))

    def say(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    intervals = ""
    if any(score.tuned_low for score in evaluation.scores):
        raised = evaluation.look.certainty if evaluation.look else ""
        certainty = float(raised or (goal.certainty if goal else 0.95))
        intervals = f", {certainty * 100:g} % intervals in brackets"
    say(f"{evaluation.num_samples} held-out samples{intervals}")
    if evaluation.goal_met is not None:
        verdict = "goal met" if evaluation.goal_met else f"GOAL MISSED, {_what_came(evaluation)}"
        say(f"{verdict}: {evaluation.goal_message}")
    for line in [*evaluation.remarks, *published_lines(evaluation)]:
        say(line)
    for gate in evaluation.gates:
        say(f"gate {gate.name} {_gate_verdict(gate, evaluation)}: {gate.message}")
    say("")
    say(f"adapter  {training.uri}")
    say(f"sha256   {training.sha256}")
    if evaluation.version is not None:
        say(f"version  {evaluation.version}  {evaluation.manifest_uri}")
    if outcome.run.job.spec.writes_merged:
        say(f"merged   {training.uri.removesuffix('/adapter')}/merged")
    say(f"report   {report_page(evaluation)}")
    say(f"took     {duration_text(outcome.seconds)}")
    say("")
    say(f"check it: finetune verify {training.uri}")
    say(f"try it:   finetune chat {training.uri}")


def published_lines(evaluation: EvaluateResult) -> list[str]:
    """Say how the tuned model compares with the published version, where that was asked for."""
    published = evaluation.published
    if published is None or published.version is None:
        return []
    name = f"published version {published.version}"
    if published.problem:
        return [f"{name} was not asked: {published.problem}"]
    scores = ", ".join(
        f"{score.name} {score.published}, tuned - published {_over_published(score)}"
        for score in evaluation.scores
        if score.published
    )
    return [line for line in (f"{name}: {scores}" if scores else "", published.seen) if line]


def _over_published(score: Score) -> str:
    difference = float(score.tuned) - float(score.published)
    return f"{difference:+.4f} [{score.over_published_low}, {score.over_published_high}]"


def _print_part(outcome: RunOutcome, console: Console) -> None:
    """Print where the results of a partial run lie."""
    preparation, training = outcome.preparation, outcome.training
    if outcome.failed is not None or preparation is None:
        return
    lines = [f"data set {preparation.uri}", f"digest   {preparation.digest}"]
    lines.append(f"report   {preparation.uri}/report.html")
    if training is not None:
        lines.append(f"adapter  {training.uri}")
    lines += ["", f"look at it: finetune data report {preparation.uri}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)


def _gate_verdict(gate: GateResult, evaluation: EvaluateResult) -> str:
    if not gate.applicable:
        return "not applicable"
    if gate.met:
        return "met"
    return f"MISSED, {_what_came(evaluation)}" if gate.severity == "Block" else "missed (a warning)"


def _what_came(evaluation: EvaluateResult) -> str:
    return "nothing was published" if evaluation.version is None else "published by decision"


def report_page(evaluation: EvaluateResult) -> str:
    """Return where the report for people lies: beside the one for machines."""
    folder, _, name = evaluation.report_uri.rpartition("/")
    return f"{folder}/report.html" if name == "report.json" else evaluation.report_uri


def score_table(evaluation: EvaluateResult, goal: Goal | None, *, title: str) -> Table:
    """Build the table base vs tuned vs goal."""
    from rich import box
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    table.add_column("metric", no_wrap=True, min_width=10)
    table.add_column("base", justify="right", no_wrap=True, min_width=7)
    for heading in ("tuned", "gain", "goal"):
        table.add_column(heading, justify="right")
    for score in evaluation.scores:
        is_goal = goal is not None and goal.metric == score.name
        met = {True: "green", False: "red", None: ""}[evaluation.goal_met]
        table.add_row(
            score.name,
            score.base + _asked(score),
            score.tuned + _interval(score.tuned_low, score.tuned_high),
            _gain(score) + _interval(score.delta_low, score.delta_high),
            goal_text(goal) if is_goal and goal is not None else "",
            style=met if is_goal else "",
        )
    return table


def goal_text(goal: Goal) -> str:
    """Return the goal in few signs, for example ``>= 0.80, +0.30`` (the gain over the base)."""
    parts = []
    if goal.at_least is not None:
        parts.append(f">= {goal.at_least}")
    if goal.at_most is not None:
        parts.append(f"<= {goal.at_most}")
    if goal.over_base is not None:
        sign = "-" if goal.metric in LOWER_IS_BETTER else "+"
        parts.append(f"{sign}{goal.over_base}")
    return ", ".join(parts)


def to_json(outcome: RunOutcome) -> dict[str, Any]:
    """Return the outcome for machines."""
    run = outcome.run
    body: dict[str, Any] = {
        "name": run.job.name,
        "namespace": run.job.namespace,
        "uid": run.job.uid,
        "workDir": str(run.work_dir),
        "exitCode": int(outcome.exit_code),
        "seconds": round(outcome.seconds, 1),
        "results": {stage.value: result.to_wire() for stage, result in outcome.results.items()},
    }
    if outcome.unapproved:
        body["unapprovedData"] = outcome.unapproved
    if outcome.failed is not None:
        failure = outcome.failed.failure
        body["failure"] = {
            "stage": outcome.failed.stage.value,
            "exitCode": outcome.failed.exit_code,
            "reason": failure.reason if failure else "",
            "message": failure.message if failure else outcome.failed.log_tail,
            "log": str(outcome.failed.log_file),
        }
    return body


def find_obstacle(file: Path) -> str:
    """Return why a result cannot be written to a file, or nothing: asked before a run of hours."""
    if file.is_dir():
        return "is a folder"
    if not file.parent.is_dir():
        return f"there is no folder {file.parent}"
    place = file if file.exists() else file.parent
    return "" if os.access(place, os.W_OK) else f"{place} may not be written to"


def write_result(file: Path, result: str) -> str:
    """Write the result of a run, which is over: what goes wrong is returned, not raised."""
    try:
        file.write_text(f"{result}\n", encoding="utf-8")
    except OSError as error:
        return f"cannot write the result to {file}: {error.strerror or error}"
    return ""


def _interval(low: str, high: str) -> str:
    # On a line of its own: the table then fits 80 columns. A bracket would be read as markup.
    return f"\n\\[{low}, {high}]" if low and high else ""


def _asked(score: Score) -> str:
    if score.baseline is None or not score.baselines:
        return ""
    return f"\n{BASELINE_WORDS[score.baseline]}"


def _gain(score: Score) -> str:
    try:
        return f"{float(score.tuned) - float(score.base):+.4f}"
    except ValueError:
        return ""
