"""What looks say of an endpoint: its ``status.monitor`` and its condition ``Drifted``. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from finetune_api.meta import seconds_of
from finetune_api.names import traffic_prefix
from finetune_api.protocol.monitoring import REPORT_PAGE, LookReport
from finetune_api.v1alpha1.status.endpoint import Served
from finetune_api.v1alpha1.status.traffic import QualityStatus, SignalStatus
from finetune_api.v1alpha1.traffic import Monitor
from finetune_operator.finetuneendpoint.monitoring.looks import MESSAGE_CHARACTERS, Look, last_of
from finetune_operator.status.conditions import Reason, parse_timestamp, shorten, timestamp

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
        if signal.smallest is not None:
            wire["smallest"] = signal.smallest
        if since is not None and since <= ended:
            wire["since"] = timestamp(since)
        signals[signal.name] = wire
    quality = None if report.quality is None else report.quality.to_wire()
    first = parse_timestamp(report.compares_from)
    return {
        **({"quality": quality} if quality else {}),
        "numLooks": report.num_looks,
        "numAnswers": report.num_answers,
        "numUsers": report.num_users,
        **({"comparesFrom": timestamp(first)} if first else {}),
        "signals": list(signals.values()),
        **({"note": shorten(report.note, MESSAGE_CHARACTERS)} if report.note else {}),
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


def find_drift(
    told: Mapping[str, Any], active: Served, monitor: Monitor, retention_days: int
) -> Finding:
    """Return the condition that a ``status.monitor`` stands for."""
    signals = [SignalStatus.model_validate(each) for each in told.get("signals", ())]
    drifted = [each for each in signals if each.since]
    failure = f" The last look failed: {told['failure']}" if told.get("failure") else ""
    note = f" {told['note']}" if told.get("note") else ""
    users, version = int(told.get("numUsers") or 0), active.version
    if drifted and users >= monitor.min_users:
        # The newest change: an earlier condition has named the others.
        signal = max(drifted, key=lambda each: (each.since, each.name))
        others = ", ".join(sorted(each.name for each in drifted if each is not signal))
        text = (
            f"{signal.name} differs from the first window of version {active.version}: found"
            f" {signal.since}.{f' {others} changed too.' if others else ''} Plots:"
            f" {told.get('reportUri')}{failure}{note}"
        )
        return Finding(status="True", reason=signal.name, message=text)
    if failure:
        text = f"{failure.strip()}. The next one is tried after {monitor.every}."
        return Finding(status="Unknown", reason=Reason.LOOK_FAILED, message=text)
    if users < monitor.min_users:
        text = f"{users} of {monitor.min_users} users of version {version} are in the last window."
        return Finding(status="Unknown", reason=Reason.TOO_FEW_USERS, message=text + note)
    if not told.get("numLooks") or not signals:
        text = _word_no_comparison(told, version, monitor, retention_days)
        return Finding(status="Unknown", reason=Reason.NO_COMPARISON, message=text + note)
    unseen = [f"{each.name} by {each.smallest}" for each in signals if each.is_hopeless]
    if unseen:
        text = (
            f"{users} users find no change within a month that is smaller than {', '.join(unseen)}."
            f" Capture more, write a longer window, or leave these signals out.{note}"
        )
        return Finding(status="Unknown", reason=Reason.TOO_FEW_USERS, message=text)
    text = f"{users} users of version {version} ask and get what the first window did.{note}"
    return Finding(status="False", reason=Reason.NO_DRIFT, message=text)


def _word_no_comparison(
    told: Mapping[str, Any], version: int, monitor: Monitor, retention_days: int
) -> str:
    """Return why nothing was compared, or when it will be."""
    if retention_days <= monitor.window_days:
        return (
            f"Version {version} has no comparison: answers are deleted after {retention_days}"
            f" days, within the window of {monitor.window_days:g}. Raise capture.retentionDays."
        )
    first = told.get("comparesFrom")
    if first and not told.get("signals") and first <= (told.get("lastRunTime") or ""):
        return f"The last look has compared no signal of version {version}."
    time = first or f"when the first {monitor.window} have passed"
    return f"Version {version} has no comparison yet. The first one is made {time}."


def bound_looks(found: Finding, monitor: Monitor, least: str) -> Finding:
    """Return the condition with the bound of the administrator, where ``every`` is below it."""
    if seconds_of(monitor.every) >= seconds_of(least):
        return found
    text = (
        f"{found.message} spec.monitor.every is {monitor.every}, and config.minLookInterval is"
        f" {least}: a look is made every {least}. Write every: {least}, or ask your administrator."
    )
    is_quiet = found.reason in (Reason.NO_DRIFT, Reason.NO_COMPARISON, Reason.TOO_FEW_USERS)
    reason = Reason.LOOKS_TOO_FREQUENT if is_quiet else found.reason
    return replace(found, reason=reason, message=text)
