"""Looks at the users of an endpoint's last window, and keeps what they are compared with.

Below the endpoint's traffic lie ``monitor/state.json``, ``history.json``, ``report.json`` and
``report.html``. The state is written last. So a look that is cut off is made again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Set
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
from finetune_trainer.monitor.gathering import fetch_job, fetch_known_rows
from finetune_trainer.monitor.looking import Look, Settings, look_at
from finetune_trainer.monitor.page import render_page
from finetune_trainer.monitor.quality.judging import judge_of, open_judge
from finetune_trainer.monitor.quality.reviewing import Review, standard_of
from finetune_trainer.monitor.quality.sampling import Drawing
from finetune_trainer.monitor.report import add_to_history, report_of, words_of
from finetune_trainer.monitor.signals import MEASURES, Answered, Signal, fit_signals
from finetune_trainer.monitor.spans import choose_segments
from finetune_trainer.monitor.state import State, parse_state, write_state
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
from finetune_trainer.traffic.rows import Exchange, Feedback

STATE_KEY = "monitor/state.json"
HISTORY_KEY = "monitor/history.json"
REPORT_KEY = "monitor/report.json"
SECOND = timedelta(seconds=1)
MOST_HOURS = 48
"""Hours whose feedback is listed hour by hour; of more it is cheaper to list all."""
MOST_AHEAD = timedelta(days=1)
"""By so much a clock may go back before somebody has to decide what becomes of the state."""


def run_look(
    task: LookTask, *, folder: Path, credentials_dir: Path | None = None, trusts_job: bool = False
) -> LookReport:
    """Fetch what is measured, look once, and keep report and state beside the traffic.

    Args:
        task: What to look at.
        folder: Scratch folder.
        credentials_dir: Folder with a folder for each Secret; None for the own identity.
        trusts_job: Ask the judge that the job in storage names. On a cluster the task names it.

    Raises:
        TrainerError: Storage fails, or none of the named signals can be measured.
    """
    active, access = task.active, access_of(task.active.storage, credentials_dir)
    output = open_store(to_file_uri(active.storage.uri), access)
    prefix = f"versions/{task.namespace}/{task.job}/{active.version}"
    with TemporaryDirectory(prefix="reference-", dir=folder) as scratch:
        rows = fetch_known_rows(output, prefix, Path(scratch), sha256=active.sha256)
    signals = fit_signals(rows, task.monitor.signals)
    if not signals:
        raise UserError(
            "NothingToWatch",
            f"neither training nor evaluation of version {active.version} has what monitor.signals "
            "names: name other signals, or leave the field out.",
        )
    traffic = open_traffic(
        to_file_uri(task.traffic.uri),
        task.namespace,
        task.endpoint,
        access_of(task.traffic, credentials_dir),
    )
    until, settings = _time(task.until), settings_of(task.monitor)
    review = _review_of(task, output, prefix, credentials_dir, trusts_job=trusts_job)
    of = f"{active.version} {_digest(rows)} {MEASURES} {settings.window} {task.share}"
    look = look_once(
        traffic,
        signals,
        settings,
        version=active.version,
        of=of,
        since=_time(active.since or task.until),
        now=until + SETTLING,
        title=f"{task.namespace}/{task.endpoint}",
        review=review,
    )
    if look is not None:
        said = words_of(look.state, active.version, settings)
        return said.model_copy(update={"quality": look.quality})
    known = _read_state(traffic)
    if known is None or known.version != str(active.version):
        known = State(of=of)
    told = None if review is None else review.known(traffic, version=active.version)
    return words_of(known, active.version, settings).model_copy(update={"quality": told})


def _digest(rows: Iterable[Answered]) -> str:
    digest = hashlib.sha256()
    for text in sorted(f"{row.prompt}\n{row.answer}" for row in rows):
        digest.update(text.encode("utf-8", "surrogatepass") + b"\0")
    return digest.hexdigest()


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


def read_drift(traffic: ObjectStore) -> dict[str, datetime]:
    """Return which signals have changed by the looks so far, and since when each has.

    Raises:
        StorageError: The store fails, or the state there cannot be read.
    """
    state = _read_state(traffic)
    return {} if state is None else state.drifted


def settings_of(monitor: Monitor) -> Settings:
    """Return ``spec.monitor`` as looks take it."""
    every = timedelta(seconds=seconds_of(monitor.every))
    return Settings(
        every=every,
        window=max(every, timedelta(seconds=seconds_of(monitor.window))),
        false_alarms_per_year=float(decimal_of(monitor.false_alarms_per_year)),
        min_users=monitor.min_users,
    )


def _time(text: str) -> datetime:
    time = datetime.fromisoformat(text)
    return time if time.tzinfo else time.replace(tzinfo=UTC)


def look_once(
    store: ObjectStore,
    signals: Mapping[str, Signal],
    settings: Settings,
    *,
    version: int,
    since: datetime,
    now: datetime,
    of: str = "",
    title: str = "",
    review: Review | None = None,
) -> Look | None:
    """Look at the users of the last window.

    Args:
        store: The endpoint's traffic.
        signals: What is measured.
        settings: How the endpoint is monitored.
        version: The version whose answers are looked at.
        since: When it became the active one.
        now: The time.
        of: Stands for the version and what is measured: with another one a reference is gathered.
        title: Namespace and name of the endpoint, for the page.
        review: How people and the judge are asked about answers; None if they are not.

    Returns:
        None if it is too early for another look.

    Raises:
        StorageError: The store fails. ``DamagedState``: the state there cannot be read.
            ``ClockMovedBack``: it is of a time to come.
    """
    before, end = _read_state(store), now - SETTLING
    looked = since if before is None or before.until is None else max(since, before.until)
    _check_clock(store, looked, now)
    if end - looked < settings.every:
        return None
    if before is None or before.of != of:
        made = State(of=of, until=None if before is None else before.until)
        # Answers so far may be of another share of users, so that only later ones are gathered.
        is_same = before is not None and before.version == made.version
        before = replace(made, since=end) if is_same else made
    begin = max(since, end - settings.window)
    segments = list_segments(store, since=min(begin, looked), until=end)
    older = [each for each in segments if review is not None and each.last + SECOND <= begin]
    window = [each for each in segments if each.last + SECOND > begin]
    chosen, share = choose_segments(window, settings.max_answers)
    drawn, _ = choose_segments(older, settings.max_answers)
    if before.reference is None:
        # Captured answers may begin later than the version, and retention may have deleted some.
        first = list_segments(store, since=since, until=end)
        since = max(since, first[0].first) if first else end
    drawing = None if review is None else review.begin(store, version=version, begin=looked)
    rows = read_exchanges(store, since=min(begin, looked), until=end, segments=[*drawn, *chosen])
    look = look_at(
        _read_rows(rows, drawing, _marked_as_bad(store, begin, end), version, begin, looked),
        signals,
        before,
        settings,
        since=since,
        end=end,
        share=share,
    )
    if review is not None and drawing is not None:
        look = replace(look, quality=review.end(store, drawing, end))
    report = report_of(look, settings, end=end)
    history = add_to_history(_read_history(store), look, end)
    page = render_page(title, report, history["looks"])
    store.write_bytes(HISTORY_KEY, orjson.dumps(history))
    store.write_bytes(REPORT_PAGE, page.encode("utf-8", "replace"))
    store.write_bytes(REPORT_KEY, orjson.dumps(report, option=orjson.OPT_INDENT_2))
    store.write_bytes(STATE_KEY, write_state(look.state))
    return look


def _check_clock(store: ObjectStore, begin: datetime, now: datetime) -> None:
    if begin - (now - SETTLING) > MOST_AHEAD:
        raise StorageError(
            "ClockMovedBack",
            f"answers until {begin:%Y-%m-%d %H:%M} have been looked at, and now it is "
            f"{now:%Y-%m-%d %H:%M}: a clock was wrong. Set it right, or delete "
            f"{join_uri(store.uri, STATE_KEY)} to gather a new reference.",
        )


def _read_rows(
    rows: Iterable[Exchange],
    drawing: Drawing | None,
    down: Set[str],
    version: int,
    begin: datetime,
    looked: datetime,
) -> Iterator[UserRow]:
    """Yield the answers of the window, after people's sample was drawn from each new one."""
    for row in rows:
        if row.version == version:
            found = read_exchange(row, down)
            if drawing is not None and row.time >= looked:
                drawing.add(found)
            if row.time >= begin:
                yield found


def _marked_as_bad(store: ObjectStore, begin: datetime, end: datetime) -> set[str]:
    """Return the ids of answers of some time that anybody has marked as bad by now."""
    hours = int((end - begin) / timedelta(hours=1)) + 2
    times = [begin + number * timedelta(hours=1) for number in range(hours)]
    prefixes = [id_time(time)[:10] for time in times] if hours <= MOST_HOURS else [""]
    since, until = begin.replace(microsecond=0), end + SETTLING
    listed = (
        read_feedback(store, prefix, since=since, until=until) for prefix in dict.fromkeys(prefixes)
    )
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


def _read_state(store: ObjectStore) -> State | None:
    try:
        data = store.read_bytes(STATE_KEY)
    except ObjectNotFound:
        return None
    try:
        return parse_state(data)
    except ValueError as error:
        raise StorageError("DamagedState", f"{join_uri(store.uri, STATE_KEY)}: {error}.") from None
