"""TensorBoard's event files: scalars, settings and texts as bytes. Pure.

A file is a row of records: length, its checksum, data, the data's checksum. The protocol buffers
are written by hand, because the official writers bring a server or a thread. Sources:
tensorflow/core/lib/io/record_writer.h; event.proto, summary.proto and tensor.proto of TensorFlow;
plugin_data.proto of TensorBoard's plugin hparams.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Mapping
from typing import Literal

from finetune_trainer.tracking.content import Point

VERSION = "brain.Event:2"
_LARGEST = struct.unpack("<f", b"\xff\xff\x7f\x7f")[0]
_VARINT, _EIGHT_BYTES, _BYTES, _FOUR_BYTES = 0, 1, 2, 5
_STRING_TENSOR, _TENSOR_CLASS = 7, 2
_FINISHED = 1
_POLYNOMIAL = 0x82F63B78


def write_file(events: Iterable[bytes], *, wall_time: float) -> bytes:
    """Return an event file: its version record, then the events.

    ``wall_time`` is in seconds since 1970.
    """
    first = _double(1, wall_time) + _bytes(3, VERSION.encode())
    return b"".join(map(_record, (first, *events)))


def scalar(point: Point, *, wall_time: float) -> bytes:
    """Return an event with a value of a metric; names are grouped by what is before ``/``."""
    value = min(max(point.value, -_LARGEST), _LARGEST)
    return _event(_bytes(1, point.key.encode()) + _float(2, value), point.step, wall_time)


def text(tag: str, markdown: str, *, step: int, wall_time: float) -> bytes:
    """Return an event with a text, shown on the page of texts."""
    tensor = _int(1, _STRING_TENSOR) + _bytes(2, b"") + _bytes(8, markdown.encode())
    value = _bytes(1, tag.encode()) + _bytes(8, tensor) + _metadata("text", b"")
    return _event(value, step, wall_time)


def session_start(params: Mapping[str, str], *, group: str, wall_time: float) -> bytes:
    """Return an event with the settings of a run; numeric texts become numbers.

    ``group`` names the run in the table of settings.
    """
    start = b"".join(
        _bytes(1, _bytes(1, key.encode()) + _bytes(2, _setting(value)))
        for key, value in sorted(params.items())
    )
    start += _bytes(4, group.encode()) + _double(5, wall_time)
    return _session("start", 3, start, wall_time)


def session_end(*, wall_time: float) -> bytes:
    """Return an event that says that the run is over."""
    return _session("end", 4, _int(1, _FINISHED) + _double(2, wall_time), wall_time)


def _session(which: Literal["start", "end"], field: int, info: bytes, wall_time: float) -> bytes:
    tag = f"_hparams_/session_{which}_info"
    nothing = _bytes(8, _int(1, 1) + _bytes(2, b""))  # the plugin reads the metadata alone
    value = _bytes(1, tag.encode()) + nothing + _metadata("hparams", _bytes(field, info))
    return _event(value, 0, wall_time)


def _setting(value: str) -> bytes:
    """Return a google.protobuf.Value: a number, or a text."""
    try:
        return _double(2, float(value))
    except ValueError:
        return _bytes(3, value.encode())


def _metadata(plugin: str, content: bytes) -> bytes:
    data = _bytes(1, plugin.encode()) + (_bytes(2, content) if content else b"")
    return _bytes(9, _bytes(1, data) + _int(4, _TENSOR_CLASS))


def _event(value: bytes, step: int, wall_time: float) -> bytes:
    return _double(1, wall_time) + _int(2, step) + _bytes(5, _bytes(1, value))


# ---- protocol buffers ----------------------------------------------------------------------------


def _varint(number: int) -> bytes:
    written = bytearray()
    while number > 0x7F:
        written.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes((*written, number))


def _int(field: int, number: int) -> bytes:
    return _varint(field << 3 | _VARINT) + _varint(number)


def _double(field: int, number: float) -> bytes:
    return _varint(field << 3 | _EIGHT_BYTES) + struct.pack("<d", number)


def _float(field: int, number: float) -> bytes:
    return _varint(field << 3 | _FOUR_BYTES) + struct.pack("<f", number)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | _BYTES) + _varint(len(data)) + data


# ---- records -------------------------------------------------------------------------------------


def _record(data: bytes) -> bytes:
    length = struct.pack("<Q", len(data))
    return length + _checksum(length) + data + _checksum(data)


def _make_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        for _ in range(8):
            byte = byte >> 1 ^ (_POLYNOMIAL if byte & 1 else 0)
        table.append(byte)
    return tuple(table)


_TABLE = _make_table()


def _checksum(data: bytes) -> bytes:
    """Return the masked CRC-32C."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _TABLE[(crc ^ byte) & 0xFF]
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", ((crc >> 15 | crc << 17) + 0xA282EAD8) & 0xFFFFFFFF)
