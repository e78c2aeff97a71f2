"""How looks at captured answers are shown; pure functions over dicts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from finetune_cli.views.layout import age, table

Body = Mapping[str, Any]
_TOLD = ("smallest", "since")
_COLUMNS = (
    "SIGNAL", "THEN", "NOW", "USERS", "EVIDENCE", "FOUND BELOW", "FOUND ABOVE", "CHANGED SINCE"
)  # fmt: skip


def describe_status(monitor: Body, now: datetime) -> list[str]:
    """Return the lines of a ``status.monitor``."""
    lines = [
        f"{monitor.get('numLooks', 0)} looks, the last {age(monitor.get('lastRunTime'), now)} ago"
        f" with {monitor.get('numAnswers', 0):,} answers of {monitor.get('numUsers', 0):,} users"
    ]
    if monitor.get("failure"):
        lines.append(f"the last look failed: {monitor['failure']}")
    lines += [monitor["note"]] if monitor.get("note") else []
    rows = [
        [each["name"], f"{float(each['logE']):+.1f}", *(each.get(key, "") for key in _TOLD)]
        for each in monitor.get("signals", [])
    ]
    lines += table(rows, ("SIGNAL", "EVIDENCE", "SMALLEST", "CHANGED SINCE")) if rows else []
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
            *(number_text(part["name"], part[key]) for key in ("referenceMean", "mean")),
            str(part["numUsers"]),
            f"{part['logE']:+.1f}",
            *(number_text(part["name"], part[key]) for key in ("low", "high")),
            drifted.get(part["name"].partition("/")[0], ""),
        ]
        for part in report["parts"]
    ]
    return [
        f"{report['numAnswers']:,} answers of {report['numUsers']:,} users until {report['end']};"
        f" first comparison: {report['comparesFrom'] or 'after the first window'}; change at"
        f" evidence {report['logBound']:.1f}; lengths are in characters",
        *table(rows, _COLUMNS),
        *(f"{name}: left out, {rows}" for name, rows in report.get("leftOut", {}).items()),
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
