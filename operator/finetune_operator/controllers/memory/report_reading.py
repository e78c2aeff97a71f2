"""One report of a serving pod, read within bounds: a pod is a tenant's, and so is what it says.

An answer has one head of bounded size and a body of a known length, which is read no further. So an
endless row of interim answers, a body without an end and a compressed one end like any other answer
that is no report.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Collection
from typing import Any

import orjson

from finetune_api.protocol.serving import MAX_REPORT_BYTES, REPORT_PATH, REPORT_PORT

TIMEOUT_SECONDS = 2.0
MAX_HEAD_BYTES = 8 * 1024
MAX_COUNTED = 200
"""Endpoints of a front's report whose counts are read."""
MAX_STREAMS_READ = 512
"""Streams of all of them. One takes about 25 microseconds, an endpoint without any about 12."""
MAX_OPENED = 8192
"""Objects and lists of a report: 1,000 idle endpoints have 3,000, and each stream has three."""
_STATUS = re.compile(rb"HTTP/1\.[01] 200[ \r]")
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*([0-9]{1,9})[ \t]*(?=\r\n)", re.IGNORECASE)
_ENCODED = re.compile(rb"\r\n(?:transfer|content)-encoding:", re.IGNORECASE)


async def fetch_report(address: str) -> bytes:
    """Return the body of the answer at a pod's address.

    Raises:
        ValueError: It is not a plain answer 200 with a length, or it is too large.
        OSError, TimeoutError, EOFError: There is none, or not within the time.
    """
    async with asyncio.timeout(TIMEOUT_SECONDS):
        reader, writer = await asyncio.open_connection(address, REPORT_PORT, limit=MAX_HEAD_BYTES)
        try:
            host = f"[{address}]" if ":" in address else address
            writer.write(
                f"GET {REPORT_PATH} HTTP/1.1\r\nHost: {host}:{REPORT_PORT}\r\n"
                "Accept: application/json\r\nConnection: close\r\n\r\n".encode()
            )
            try:
                head = await reader.readuntil(b"\r\n\r\n")
            except asyncio.LimitOverrunError as error:
                raise ValueError(f"{address} sent a head above {MAX_HEAD_BYTES} bytes") from error
            return await reader.readexactly(_length_of(head, address))
        finally:
            writer.transport.abort()


def _length_of(head: bytes, address: str) -> int:
    lengths = _LENGTH.findall(head)
    if not _STATUS.match(head) or len(lengths) != 1 or _ENCODED.search(head):
        begin = head[:64].partition(b"\r")[0]
        raise ValueError(f"{address} sent {begin!r}, and no plain answer 200 with a length")
    length = int(lengths[0])
    if length > MAX_REPORT_BYTES:
        raise ValueError(f"{address} sends {length} bytes; at most {MAX_REPORT_BYTES} are read")
    return length


def sift(body: bytes, names: Collection[str]) -> bytes:
    """Return a report with only what may be read of it. It is not validated yet.

    Validation takes a hundred times as long as this. What it costs is bounded by the endpoints that
    exist. Counts of requests that decide nothing are left out, so that traffic is no news.

    Args:
        body: The report, as JSON.
        names: Endpoints, and versions on a server, that a report can be about.

    Raises:
        ValueError: It is no JSON object, or it has too many parts.
    """
    if body.count(b"{") + body.count(b"[") > MAX_OPENED:
        raise ValueError(f"the report has more than {MAX_OPENED} objects and lists")
    report = orjson.loads(body)
    if not isinstance(report, dict):
        raise ValueError("the report is no JSON object")
    for section in ("adapters", "records"):
        if isinstance(report.get(section), list):
            report[section] = [*_known(report[section], names).values()]
    if isinstance(report.get("endpoints"), list):
        endpoints = _known(report["endpoints"], names)
        report["endpoints"] = [*endpoints.values()]
        _bound_streams(report["endpoints"])
    return orjson.dumps(report)


def _known(entries: list[Any], names: Collection[str]) -> dict[str, dict[str, Any]]:
    """Return the entries that have a known name, each name once."""
    return {
        entry["name"]: entry
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("name"), str) and entry["name"] in names
    }


def _bound_streams(endpoints: list[dict[str, Any]]) -> None:
    """Leave out what goes beyond the bounds: those endpoints keep the counts that they have."""
    num_counted = num_streams = 0
    for endpoint in endpoints:
        endpoint.pop("requests", None)
        streams = endpoint.get("streams")
        if not streams or not isinstance(streams, list):
            continue
        num_counted, num_streams = num_counted + 1, num_streams + len(streams)
        if num_counted > MAX_COUNTED or num_streams > MAX_STREAMS_READ:
            endpoint["streams"] = []
