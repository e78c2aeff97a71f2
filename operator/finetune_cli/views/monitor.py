"""How looks at captured answers are shown; pure functions over dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from finetune_cli.views.layout import age, table

Body = Mapping[str, Any]


def describe_status(monitor: Body, now: datetime) -> list[str]:
    """Return the lines of a ``status.monitor``."""
    lines = [
        f"{monitor.get('numAnswers', 0):,} answers in {monitor.get('numLooks', 0)} looks, the last"
        f" {age(monitor.get('lastRunTime'), now)} ago; {monitor.get('numWaiting', 0)} wait"
    ]
    if monitor.get("failure"):
        lines.append(f"the last look failed: {monitor['failure']}")
    rows = [
        [each["name"], _evidence(each.get("logE")), each.get("since", "")]
        for each in monitor.get("signals", [])
    ]
    lines += table(rows, ("SIGNAL", "EVIDENCE", "CHANGED SINCE")) if rows else []
    lines += describe_quality(monitor.get("quality"))
    if monitor.get("reportUri"):
        lines.append(f"page: {monitor['reportUri']}")
    return lines


def describe_report(
    report: Body, drifted: Mapping[str, str], number_text: Callable[[str, float | None], str]
) -> list[str]:
    """Return the lines of a look's report, part by part, then and now.

    ``number_text`` returns the number of a part as people read it.
    """
    rows = [
        [
            part["name"],
            number_text(part["name"], part["referenceMean"]),
            number_text(part["name"], part["mean"]),
            str(part["numUsers"]),
            _evidence(part["logE"]),
            drifted.get(part["name"].partition("/")[0], ""),
        ]
        for part in report["parts"]
    ]
    return [
        f"{report['numAnswers']:,} answers in {report['numLooks']} looks until {report['end']};"
        f" {report['numWaiting']} wait; alarm at evidence {report['logBound']:.1f}; lengths are in"
        " characters",
        *table(rows, ("SIGNAL", "THEN", "NOW", "USERS", "EVIDENCE", "CHANGED SINCE")),
        *describe_quality(report.get("quality")),
    ]


def describe_quality(quality: Body | None) -> list[str]:
    """Return the lines on what people and the judge say; none if nobody is asked."""
    if not quality:
        return []
    scores = f"{quality.get('numPeople', 0)} scores of people"
    scores += f", {quality['numJudged']} of the judge" if quality.get("numJudged") else ""
    if quality.get("estimate"):
        words = f"{quality['estimate']} [{quality['low']}, {quality['high']}]"
    else:
        words = "too few scores"
    words += f", goal {quality['goal']}" if quality.get("goal") else ""
    if quality.get("published"):
        words += f", published {quality['metric']} {quality['published']}"
    lines = [
        f"good answers: {words}; {scores}; {quality.get('numOpen', 0)} answers wait for people"
    ]
    return [*lines, *([f"judge: {quality['failure']}"] if quality.get("failure") else [])]


def _evidence(log_e: str | float | None) -> str:
    number = float("-inf") if log_e is None else float(log_e)
    return f"{number:+.1f}" if abs(number) < float("inf") else ""
