"""Open a text file as UTF-8, whatever it is compressed with and encoded in, a piece at a time."""

from __future__ import annotations

import codecs
import gzip
import io
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from finetune_trainer.errors import DataError
from finetune_trainer.prepare.reading.files.file_types import COMPRESSIONS, compression_of

CHUNK_BYTES = 1024 * 1024
ARCHIVE_MARKS = {b"\x1f\x8b": ".gz", b"\x28\xb5\x2f\xfd": ".zst", b"PK\x03\x04": ".zip"}
"""First bytes of archives (RFC 1952, RFC 8878, PKWARE APPNOTE 4.3.7)."""


@contextmanager
def open_bytes(path: Path, *, file: str) -> Iterator[BinaryIO]:
    """Open a file, decompressed by the extension of its name; ``file`` names it in messages.

    Raises:
        DataError: ``UnreadableFile``: its first bytes do not fit its name, or the archive is cut
            off or damaged.
    """
    compression = compression_of(path.name)
    _require_kind(path, file, compression)
    if compression is None:
        with path.open("rb") as plain:
            yield plain
        return
    try:
        with path.open("rb") as packed, _decompress(packed, compression) as stream:
            yield stream
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise _damaged(file, compression, error) from error
    except OSError as error:
        if error.errno is not None:  # the disk, and not what lies on it
            raise
        raise _damaged(file, compression, error) from error


@contextmanager
def open_utf8(path: Path, codec: str, *, file: str) -> Iterator[BinaryIO]:
    """Open a text file as bytes of UTF-8; ``codec`` is Python's name of its encoding.

    Raises:
        DataError: As :func:`open_bytes`.
        UnicodeDecodeError: While it is read: it is in another encoding.
    """
    with open_bytes(path, file=file) as stream:
        if codec == "utf-8":
            yield stream
        else:
            yield cast(BinaryIO, io.BufferedReader(_Utf8Stream(stream, codec), CHUNK_BYTES))


def _decompress(packed: BinaryIO, compression: str) -> BinaryIO:
    if compression == ".gz":
        return cast(BinaryIO, gzip.GzipFile(fileobj=packed))
    # Imported here: it costs 0.1 s and 40 MB that other files need not pay.
    import pyarrow as pa

    return cast(BinaryIO, io.BufferedReader(pa.input_stream(packed, compression="zstd"), 65536))


def _require_kind(path: Path, file: str, compression: str | None) -> None:
    """Refuse a file whose name does not fit its kind: an archive may decode as text."""
    with path.open("rb") as stream:
        head = stream.read(4)
    found = next((name for mark, name in ARCHIVE_MARKS.items() if head.startswith(mark)), None)
    if not head or found == compression:
        return
    if compression is None:
        remedy = f"call it {file}{found}" if found in COMPRESSIONS else "unpack it"
        raise DataError("UnreadableFile", f"{file} holds a {found} archive, not text; {remedy}")
    other = f"a {found} archive" if found else f"no {compression} archive"
    plain = file.removesuffix(compression)
    remedy = f"call it {plain}{found if found in COMPRESSIONS else ''}"
    raise DataError(
        "UnreadableFile", f"{file} holds {other}; {remedy} if that is what it is, or compress it"
    )


def _damaged(file: str, compression: str, error: Exception) -> DataError:
    return DataError(
        "UnreadableFile",
        f"{file} is no complete {compression} file: {error}. It was cut off or damaged on its way: "
        "make it again, and upload it again",
    )


class _Utf8Stream(io.RawIOBase):
    """Reads text in some encoding and gives it as UTF-8."""

    def __init__(self, stream: BinaryIO, codec: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(codec)()
        self._rest = b""
        self._ended = False

    def readable(self) -> bool:
        """Tell that it can be read."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        """Fill the buffer; 0 at the end."""
        while not self._rest and not self._ended:
            chunk = self._stream.read(CHUNK_BYTES)
            self._ended = not chunk
            self._rest = self._decoder.decode(chunk, final=self._ended).encode()
        part = self._rest[: len(buffer)]
        self._rest = self._rest[len(part) :]
        buffer[: len(part)] = part
        return len(part)
