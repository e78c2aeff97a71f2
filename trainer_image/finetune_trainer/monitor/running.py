"""Looks at the traffic that an endpoint has captured since the look before, and keeps the evidence.

Below the endpoint's traffic lie ``monitor/evidence.json``, ``history.json``, ``report.json`` and
``report.html``. The evidence is written last, and says until when answers have been looked at. So a
look that is cut off is made again over the same answers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import orjson

from finetune_api.meta import decimal_of, seconds_of
from finetune_api.protocol.monitoring import REPORT_PAGE, SETTLING, LookReport, LookTask
from finetune_api.v1alpha1.traffic import Monitor
from finetune_trainer.errors import StorageError, UserError
from finetune_trainer.monitor.evidence import (
    Evidence,
    begin_evidence,
    parse_evidence,
    write_evidence,
)
from finetune_trainer.monitor.gathering import fetch_job, fetch_reference_rows
from finetune_trainer.monitor.looking import Look, Settings, look_at
from finetune_trainer.monitor.page import render_page
from finetune_trainer.monitor.quality.drawing import Drawing
from finetune_trainer.monitor.quality.judging import judge_of, open_judge
from finetune_trainer.monitor.quality.reviewing import Review, standard_of
from finetune_trainer.monitor.reference import Reference, make_reference
from finetune_trainer.monitor.report import add_to_history, drifted_since, report_of, words_of
from finetune_trainer.monitor.spans import Span, span_of_look
from finetune_trainer.monitor.users import UserRow, read_exchange
from finetune_trainer.serve.agent.fetching import access_of, to_file_uri
from finetune_trainer.storage import ObjectNotFound, ObjectStore, join_uri, open_store
from finetune_trainer.traffic.drawn import is_review
from finetune_trainer.traffic.places import id_time
from finetune_trainer.traffic.reading import (
    list_segments,
    open_traffic,
    read_exchanges,
    read_feedback,
)
from finetune_trainer.traffic.rows import Feedback

EVIDENCE_KEY = "monitor/evidence.json"
HISTORY_KEY = "monitor/history.json"
REPORT_KEY = "monitor/report.json"
MOST_HOURS = 48
"""Hours whose feedback is listed hour by hour; of more it is cheaper to list all."""
MOST_AHEAD = timedelta(days=1)
"""By so much a clock may go back before somebody has to decide what becomes of the evidence."""


def run_look(
    task: LookTask,
    *,
    folder: Path,
    credentials_dir: Path | None = None,
    trusts_job: bool = False,
) -> LookReport:
    """Fetch the reference, look once, and keep report and evidence beside the traffic.

    Args:
        task: What to look at.
        folder: Scratch folder.
        credentials_dir: Folder with a folder for each Secret; None for the own identity.
        trusts_job: Ask the judge that the job in storage names. On a cluster the task names it.

    Raises:
        TrainerError: Storage fails, or the reference is too small.
    """
    active, access = task.active, access_of(task.active.storage, credentials_dir)
    output = open_store(to_file_uri(active.storage.uri), access)
    prefix = f"versions/{task.namespace}/{task.job}/{active.version}"
    with TemporaryDirectory(prefix="reference-", dir=folder) as scratch:
        rows = fetch_reference_rows(output, prefix, Path(scratch), sha256=active.sha256)
    try:
        reference = make_reference(rows, names=task.monitor.signals)
    except ValueError as error:
        raise UserError("ReferenceTooSmall", f"{error}.") from None
    traffic = open_traffic(
        to_file_uri(task.traffic.uri),
        task.namespace,
        task.endpoint,
        access_of(task.traffic, credentials_dir),
    )
    until = _time(task.until)
    review = _review_of(task, output, prefix, credentials_dir, trusts_job=trusts_job)
    look = look_once(
        traffic,
        reference,
        settings_of(task.monitor),
        version=active.version,
        since=_time(active.since or task.until),
        now=until + SETTLING,
        title=f"{task.namespace}/{task.endpoint}",
        review=review,
    )
    if look is not None:
        said = words_of(look.evidence, active.version, now=until, num_waiting=look.num_waiting)
        return said.model_copy(update={"quality": look.quality})
    known = _read_evidence(traffic)
    if known is None or known.reference != reference.digest:
        known = begin_evidence(reference.digest, reference.watched)
    told = None if review is None else review.known(traffic, version=active.version)
    return words_of(known, active.version, now=until).model_copy(update={"quality": told})


def _review_of(
    task: LookTask,
    output: ObjectStore,
    prefix: str,
    credentials_dir: Path | None,
    *,
    trusts_job: bool,
) -> Review | None:
    quality = task.monitor.quality
    if quality is None:
        return None
    spec, scores = fetch_job(output, prefix, sha256=task.active.sha256)
    return Review(
        per_week=quality.answers_per_week,
        standard=standard_of(quality, spec, scores),
        judge=open_judge(judge_of(spec) if trusts_job else task.judge, credentials_dir),
    )


def read_drift(traffic: ObjectStore, *, now: datetime) -> dict[str, datetime]:
    """Return which signals have changed by the looks so far, and since when each has.

    Raises:
        StorageError: The store fails, or the evidence there cannot be read.
    """
    evidence = _read_evidence(traffic)
    return {} if evidence is None else drifted_since(evidence, now)


def settings_of(monitor: Monitor) -> Settings:
    """Return ``spec.monitor`` as looks take it."""
    return Settings(
        every=timedelta(seconds=seconds_of(monitor.every)),
        false_alarms_per_year=float(decimal_of(monitor.false_alarms_per_year)),
        min_answers=monitor.min_answers,
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def look_once(
    store: ObjectStore,
    reference: Reference,
    settings: Settings,
    *,
    version: int,
    since: datetime,
    now: datetime,
    title: str = "",
    review: Review | None = None,
) -> Look | None:
    """Look at what has been captured since the look before.

    Args:
        store: The endpoint's traffic.
        reference: What the version's answers are compared with.
        settings: How the endpoint is monitored.
        version: The version whose answers are looked at.
        since: When it became the active one.
        now: The time.
        title: Namespace and name of the endpoint, for the page.
        review: How people and the judge are asked about answers; None if they are not.

    Returns:
        None if it is too early for another look.

    Raises:
        StorageError: The store fails. ``DamagedEvidence``: the evidence there cannot be read.
            ``ClockMovedBack``: it is of a time to come.
    """
    before = _read_evidence(store)
    begin = since
    if before is not None and before.until is not None:
        begin = max(since, before.until)
    end = now - SETTLING
    _check_clock(store, begin, now)
    if end - begin < settings.every:
        return None
    segments = list_segments(store, since=begin, until=end)
    span = span_of_look(
        segments, begin=begin, end=end, every=settings.every, max_answers=settings.max_answers
    )
    end = span.end
    drawing = None if review is None else review.begin(store, version=version, begin=begin)
    rows = _read_rows(store, span, drawing, version=version, begin=begin)
    look = look_at(rows, reference, before, settings, begin=begin, end=end)
    if review is not None and drawing is not None:
        look = replace(look, quality=review.end(store, drawing, end))
    report = report_of(look, reference, settings, begin=begin, end=end)
    history = add_to_history(_read_history(store), reference.digest, look)
    page = render_page(title, report, history["looks"])
    store.write_bytes(HISTORY_KEY, orjson.dumps(history))
    store.write_bytes(REPORT_PAGE, page.encode("utf-8", "replace"))
    store.write_bytes(REPORT_KEY, orjson.dumps(report, option=orjson.OPT_INDENT_2))
    store.write_bytes(EVIDENCE_KEY, write_evidence(look.evidence))
    return look


def _check_clock(store: ObjectStore, begin: datetime, now: datetime) -> None:
    if begin - (now - SETTLING) > MOST_AHEAD:
        raise StorageError(
            "ClockMovedBack",
            f"answers until {begin:%Y-%m-%d %H:%M} have been looked at, and now it is "
            f"{now:%Y-%m-%d %H:%M}: a clock was wrong. Set it right, or delete "
            f"{join_uri(store.uri, EVIDENCE_KEY)} to begin without evidence.",
        )


def _read_rows(
    store: ObjectStore, span: Span, drawing: Drawing | None, *, version: int, begin: datetime
) -> Iterator[UserRow]:
    """Yield the answers of a look one by one, after people's sample was drawn from each."""
    down = _marked_as_bad(store, begin, span.end)
    for row in read_exchanges(store, since=begin, until=span.end, segments=span.segments):
        if row.version == version:
            found = read_exchange(row, down)
            if drawing is not None:
                drawing.add(found)
            yield found


def _marked_as_bad(store: ObjectStore, begin: datetime, end: datetime) -> set[str]:
    """Return the ids of answers of some time that anybody has marked as bad by now."""
    hours = int((end - begin) / timedelta(hours=1)) + 2
    times = [begin + number * timedelta(hours=1) for number in range(hours)]
    prefixes = [id_time(time)[:10] for time in times] if hours <= MOST_HOURS else [""]
    listed = (read_feedback(store, prefix) for prefix in dict.fromkeys(prefixes))
    return {entry.id for entries in listed for entry in entries if _is_complaint(entry)}


def _is_complaint(entry: Feedback) -> bool:
    # Who was asked about an answer has not complained of it.
    return entry.rating == "down" and not is_review(entry)


def _read_history(store: ObjectStore) -> dict[str, Any]:
    """Return the history of looks: without it, or where it is damaged, it begins anew."""
    try:
        found = orjson.loads(store.read_bytes(HISTORY_KEY))
    except (ObjectNotFound, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _read_evidence(store: ObjectStore) -> Evidence | None:
    try:
        data = store.read_bytes(EVIDENCE_KEY)
    except ObjectNotFound:
        return None
    try:
        return parse_evidence(data)
    except ValueError as error:
        raise StorageError(
            "DamagedEvidence", f"{join_uri(store.uri, EVIDENCE_KEY)}: {error}."
        ) from None
