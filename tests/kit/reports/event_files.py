"""Reads TensorBoard's event files back: as documented, or really, with TensorBoard's own reader.

Both in the same shape. The real one is asked where ``FINETUNE_TRACKERS_PYTHON`` names a Python that
has it.
"""

from __future__ import annotations

import json
import os
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_READ = """
import json, sys
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
run = EventAccumulator(sys.argv[1], size_guidance={"scalars": 0, "tensors": 0}).Reload()
tags = run.Tags()
settings, is_over, texts = {}, False, {}
for tag in tags["tensors"]:
    plugin = run.SummaryMetadata(tag).plugin_data
    if tag == metadata.SESSION_START_INFO_TAG:
        start = metadata.parse_session_start_info_plugin_data(plugin.content)
        settings = {k: getattr(v, v.WhichOneof("kind")) for k, v in start.hparams.items()}
    elif tag == metadata.SESSION_END_INFO_TAG:
        is_over = metadata.parse_session_end_info_plugin_data(plugin.content).status == 1
    else:
        texts[tag] = [e.tensor_proto.string_val[0].decode() for e in run.Tensors(tag)]
scalars = {tag: [[e.step, e.value] for e in run.Scalars(tag)] for tag in tags["scalars"]}
print(json.dumps({"scalars": scalars, "settings": settings, "texts": texts, "is_over": is_over}))
"""


def read_events(folder: Path) -> dict[str, Any]:
    """Return ``scalars`` as pairs of step and value, ``settings``, ``texts``, ``is_over``."""
    python = os.environ.get("FINETUNE_TRACKERS_PYTHON")
    if python is None:
        return _read(folder)
    kept = {key: text for key, text in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [python, "-c", _READ, str(folder)], env=kept, capture_output=True, text=True, check=True
    )
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def _read(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"scalars": {}, "settings": {}, "texts": {}, "is_over": False}
    for path in sorted(folder.glob("*tfevents*")):
        events = list(_records(path.read_bytes()))
        assert _one(events[0], 3) == b"brain.Event:2"
        for event in events[1:]:
            value = _one(_one(event, 5), 1)
            tag, step = _one(value, 1).decode(), _one(event, 2)
            if (number := _one(value, 2)) is not None:
                found["scalars"].setdefault(tag, []).append([step, number])
                continue
            plugin = _one(_one(value, 9), 1)
            if _one(plugin, 1) == b"text":
                text = _one(_one(value, 8), 8).decode()
                found["texts"].setdefault(tag, []).append(text)
            elif (start := _one(_one(plugin, 2), 3)) is not None:
                for field, entry in _fields(start):
                    if field == 1:
                        setting = _one(entry, 2)
                        text = _one(setting, 3)
                        told = _one(setting, 2) if text is None else text.decode()
                        found["settings"].setdefault(_one(entry, 1).decode(), told)
            else:
                found["is_over"] = _one(_one(_one(plugin, 2), 4), 1) == 1
    return found


def _records(data: bytes) -> Iterator[bytes]:
    while data:
        (length,) = struct.unpack("<Q", data[:8])
        yield data[12 : 12 + length]
        data = data[16 + length :]


def _one(message: bytes, field: int) -> Any:
    return next((value for number, value in _fields(message) if number == field), None)


def _fields(message: bytes) -> Iterator[tuple[int, Any]]:
    """Yield the fields of a protocol buffer: numbers of any width, and bytes."""
    while message:
        key, message = _varint(message)
        match key & 7:
            case 0:
                value, message = _varint(message)
                yield key >> 3, value
            case 1:
                yield key >> 3, struct.unpack("<d", message[:8])[0]
                message = message[8:]
            case 5:
                yield key >> 3, struct.unpack("<f", message[:4])[0]
                message = message[4:]
            case _:
                length, message = _varint(message)
                yield key >> 3, message[:length]
                message = message[length:]


def _varint(data: bytes) -> tuple[int, bytes]:
    number = shift = 0
    for position, byte in enumerate(data):
        number |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return number, data[position + 1 :]
    raise AssertionError("cut in the middle of a number")
