"""What looks say of an endpoint: its ``status.monitor`` and its condition ``Drifted``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from finetune_api.names import traffic_prefix
from finetune_api.protocol.monitoring import REPORT_PAGE, LookReport
from finetune_api.v1alpha1.status.endpoint import Served
from finetune_api.v1alpha1.status.traffic import QualityStatus
from finetune_api.v1alpha1.traffic import Monitor
from finetune_operator.finetuneendpoint.monitoring.looks import Look, last_of
from finetune_operator.status.conditions import Reason, parse_timestamp, timestamp

Object = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """Status, reason and message of the condition ``Drifted``."""

    status: str
    reason: str
    message: str


def monitor_status(
    before: Mapping[str, Any] | None, active: Served, looks: Sequence[Look], page: str
) -> Object:
    """Return ``status.monitor``: what the last look with a report has said, and why none has since.

    Reports on an earlier version count no more.

    Args:
        before: As it is stored.
        active: The version that answers.
        looks: Those that exist.
        page: Where their page is.
    """
    since = parse_timestamp(active.since)
    told = dict(before or {}) if (before or {}).get("version") == active.version else {}
    told_time = parse_timestamp(told.get("lastRunTime"))
    ended = [each for each in looks if since is None or each.until > since]
    newest = last_of(ended)
    if newest is None or newest.ended is None:
        return told
    found = last_of(each for each in ended if _is_about(each, active))
    if found is not None and (told_time is None or (found.ended or told_time) >= told_time):
        assert found.report is not None
        assert found.ended is not None
        told = _read(found.report, found.ended, page)
    told.pop("failure", None)
    told |= {"version": active.version, "lastRunTime": timestamp(newest.ended)}
    return {**told, "failure": newest.failure} if newest.failure else told


def _is_about(look: Look, active: Served) -> bool:
    return look.report is not None and look.report.version == active.version


def _read(report: LookReport, ended: datetime, page: str) -> Object:
    """Return a report as a status: no time that is none or yet to come, and each signal once."""
    signals: dict[str, Object] = {}
    for signal in report.signals:
        since = parse_timestamp(signal.since)
        wire: Object = {"name": signal.name, "logE": signal.log_e}
        if since is not None and since <= ended:
            wire["since"] = timestamp(since)
        signals[signal.name] = wire
    quality = None if report.quality is None else report.quality.to_wire()
    return {
        **({"quality": quality} if quality else {}),
        "numLooks": report.num_looks,
        "numAnswers": report.num_answers,
        "numWaiting": report.num_waiting,
        "signals": list(signals.values()),
        "reportUri": page,
    }


def page_of(uri: str, namespace: str, endpoint: str) -> str:
    """Return where the page of an endpoint's looks is, below ``capture.uri``."""
    return f"{uri.rstrip('/')}/{traffic_prefix(namespace, endpoint)}/{REPORT_PAGE}"


def find_loss(told: Mapping[str, Any], active: Served) -> Finding | None:
    """Return why live quality degrades an endpoint; None if it does not."""
    quality = told.get("quality")
    if not quality:
        return None
    found = QualityStatus.model_validate(quality)
    if not found.is_below_goal:
        return None
    judged = f" and the judge {found.num_judged}" if found.num_judged else ""
    text = (
        f"Version {active.version} gives good answers in {found.estimate} of cases"
        f" [{found.low}, {found.high}], and {found.goal} is wanted. People have scored"
        f" {found.num_people} answers{judged}. Page: {told.get('reportUri')}"
    )
    return Finding(status="True", reason=Reason.QUALITY_BELOW_GOAL, message=text)


def find_drift(told: Mapping[str, Any], active: Served, monitor: Monitor) -> Finding:
    """Return the condition that a ``status.monitor`` stands for."""
    drifted = [each for each in told.get("signals", ()) if each.get("since")]
    failure = f" The last look failed: {told['failure']}" if told.get("failure") else ""
    if drifted:
        # The newest change: an earlier condition has named the others.
        signal = max(drifted, key=lambda each: (each["since"], each["name"]))
        others = ", ".join(sorted(each["name"] for each in drifted if each is not signal))
        text = (
            f"{signal['name']} has changed since {signal['since']}: version {active.version} was"
            f" made for other traffic.{f' {others} changed too.' if others else ''} Plots:"
            f" {told.get('reportUri')}{failure}"
        )
        return Finding(status="True", reason=signal["name"], message=text)
    if failure:
        text = f"{failure.strip()}. The next one is tried after {monitor.every}."
        return Finding(status="Unknown", reason=Reason.LOOK_FAILED, message=text)
    if not told.get("numLooks"):
        waiting = int(told.get("numWaiting") or 0)
        text = f"{waiting} of {monitor.min_answers} answers of version {active.version} are there."
        return Finding(status="Unknown", reason=Reason.TOO_FEW_ANSWERS, message=text)
    text = f"{told['numAnswers']} answers of version {active.version} are what it was made for."
    return Finding(status="False", reason=Reason.NO_DRIFT, message=text)
