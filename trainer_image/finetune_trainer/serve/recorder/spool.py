"""Rows that are not in object storage yet: files of a folder that outlives the process.

Rows are written to the folder before the front's batch is accepted, so a recorder that is killed
loses none. Personal data has been removed from them before. A file holds rows of one endpoint and
hour, and becomes one segment.

The event loop opens, fills, closes and drops files. Threads may read them.
"""

from __future__ import annotations

import logging
import uuid
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from finetune_trainer.traffic.rows import Exchange, parse_exchange, write_exchange

logger = logging.getLogger(__name__)

SEGMENT_BYTES = 1024 * 1024
MAX_BYTES = 64 * 1024 * 1024
"""Of all files. With more, the front keeps what it has, and counts what it has to drop."""
MAX_KNOWN = 100_000
"""Response ids remembered, so that a batch that is sent twice is stored once. Fewer fit in."""


@dataclass(slots=True)
class File:
    """A file of the spool.

    Attributes:
        begin: Monotonic time of its first row.
    """

    path: Path
    endpoint: str
    hour: str
    begin: float
    num_bytes: int = 0
    is_closed: bool = False

    def read(self) -> list[Exchange]:
        """Return its rows."""
        return list(self.read_first(None))

    def read_first(self, num_bytes: int | None, having: str = "") -> Iterator[Exchange]:
        """Yield the rows in its first bytes whose lines have a text. All have the empty one.

        The last line may be torn by the end of a process. There are no rows in a file that has been
        dropped.
        """
        try:
            data = self.path.read_bytes()[:num_bytes]
        except FileNotFoundError:
            return
        for line in data.splitlines():
            if having.encode() not in line:
                continue
            try:
                yield parse_exchange(line)
            except ValueError:
                logger.warning("a torn row of endpoint %s is left out", self.endpoint)


@dataclass(slots=True)
class Spool:
    """All files.

    Attributes:
        writer: Name of this process in keys of segments.
    """

    folder: Path
    writer: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    files: list[File] = field(default_factory=list)
    _known: OrderedDict[str, None] = field(default_factory=OrderedDict)
    _number: int = 0

    def load(self) -> None:
        """Take over what an earlier process has left."""
        self.folder.mkdir(parents=True, exist_ok=True)
        for path in sorted(self.folder.glob("*/*.jsonl")):
            hour = path.name[:10]
            file = File(path, path.parent.name, hour, 0.0, path.stat().st_size, is_closed=True)
            self.files.append(file)
            for row in file.read():
                self._remember(row.id)

    @property
    def num_bytes(self) -> int:
        """Bytes of all files."""
        return sum(file.num_bytes for file in self.files)

    def has_room(self, endpoint: str, num_endpoints: int) -> bool:
        """Return whether an endpoint's files are smaller than its share of the bytes.

        So an endpoint whose storage stays away leaves the others their room.
        """
        used = sum(file.num_bytes for file in self.files if file.endpoint == endpoint)
        return used < MAX_BYTES // num_endpoints

    @property
    def is_full(self) -> bool:
        """Whether no batch can be accepted."""
        return self.num_bytes >= MAX_BYTES

    def has(self, response_id: str) -> bool:
        """Return whether a row of this answer was added before: a batch may come twice."""
        return response_id in self._known

    def add(self, rows: Iterable[Exchange], now: float) -> int:
        """Write rows, and return how many of them were new. ``now`` is monotonic.

        Raises:
            OSError: A row cannot be written. Those before it are.
        """
        num_new = 0
        for row in rows:
            if self.has(row.id):
                continue
            line = write_exchange(row)
            file = self._open(row, len(line), now)
            try:
                with file.path.open("ab") as target:
                    target.write(line)
            except OSError:
                file.is_closed = True  # its last line may be torn
                raise
            file.num_bytes += len(line)
            self._remember(row.id)
            num_new += 1
        return num_new

    def _open(self, row: Exchange, num_bytes: int, now: float) -> File:
        hour = f"{row.time:%Y%m%d%H}"
        for file in self.files:
            if (file.endpoint, file.hour, file.is_closed) == (row.endpoint, hour, False):
                if file.num_bytes + num_bytes <= SEGMENT_BYTES:
                    return file
                file.is_closed = True
        self._number += 1
        path = self.folder / row.endpoint / f"{hour}-{self.writer}-{self._number}.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        file = File(path, row.endpoint, hour, now)
        self.files.append(file)
        return file

    def close_older(self, before: float) -> None:
        """Close the files whose first row came before a time."""
        for file in self.files:
            file.is_closed = file.is_closed or file.begin <= before

    def drop(self, file: File) -> None:
        """Remove a file."""
        file.path.unlink(missing_ok=True)
        self.files.remove(file)

    def rows_of(self, endpoint: str, response_id: str = "") -> Iterator[Exchange]:
        """Yield the rows of an endpoint that are here now, or only the row with an id.

        Files are read while rows are asked for, so a thread may do that. Rows that are stored
        before they are read are left out.
        """
        if response_id and response_id not in self._known:
            return iter(())
        # Here, so that a line that is being written is not read.
        now = [(file, file.num_bytes) for file in self.files if file.endpoint == endpoint]
        return (
            row
            for file, num_bytes in now
            for row in file.read_first(num_bytes, response_id)
            if response_id in ("", row.id)
        )

    def close(self, endpoint: str) -> list[File]:
        """Close the files of an endpoint, and return them."""
        files = [file for file in self.files if file.endpoint == endpoint]
        for file in files:
            file.is_closed = True
        return files

    def _remember(self, response_id: str) -> None:
        self._known[response_id] = None
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)
