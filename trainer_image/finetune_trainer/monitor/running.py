"""Looks at the traffic that an endpoint has captured since the look before, and keeps the evidence.

Below the endpoint's traffic lie ``monitor/evidence.json`` and ``monitor/report.json``. The evidence
is written last, and says until when answers have been looked at. So a look that is cut off is made
again over the same answers.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import orjson

from finetune_trainer.errors import StorageError
from finetune_trainer.monitor.evidence import Evidence, parse_evidence, write_evidence
from finetune_trainer.monitor.looking import Look, Settings, look_at
from finetune_trainer.monitor.reference import Reference
from finetune_trainer.monitor.report import report_of
from finetune_trainer.monitor.users import read_exchange
from finetune_trainer.storage import ObjectNotFound, ObjectStore, join_uri
from finetune_trainer.traffic.reading import read_exchanges

EVIDENCE_KEY = "monitor/evidence.json"
REPORT_KEY = "monitor/report.json"
SETTLING = timedelta(minutes=5)
"""Time that answers get to be given and stored: those that are stored later are not looked at."""


def look_once(
    store: ObjectStore,
    reference: Reference,
    settings: Settings,
    *,
    version: int,
    since: datetime,
    now: datetime,
) -> Look | None:
    """Look at what has been captured since the look before.

    Args:
        store: The endpoint's traffic.
        reference: What the version's answers are compared with.
        settings: How the endpoint is monitored.
        version: The version whose answers are looked at.
        since: When it became the active one.
        now: The time.

    Returns:
        None if it is too early for another look.

    Raises:
        StorageError: The store fails, or ``DamagedEvidence``: the evidence there cannot be read.
    """
    before = _read_evidence(store)
    begin = since
    if before is not None and before.until is not None:
        begin = max(since, before.until)
    end = now - SETTLING
    if end - begin < settings.every:
        return None
    rows = [
        read_exchange(row)
        for row in read_exchanges(store, since=begin, until=end)
        if row.version == version
    ]
    look = look_at(rows, reference, before, settings, begin=begin, end=end)
    report = report_of(look, reference, settings, begin=begin, end=end)
    store.write_bytes(REPORT_KEY, orjson.dumps(report, option=orjson.OPT_INDENT_2))
    store.write_bytes(EVIDENCE_KEY, write_evidence(look.evidence))
    return look


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
