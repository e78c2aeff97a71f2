"""Bad answers of a rollout, as fronts report them."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping
from typing import Any

from finetune_api.protocol.serving import NUM_USERS, OF_CANDIDATE, write_cells

SIGNALS = {
    "errors": "Errors",
    "slow": "Slow",
    "refusals": "Refusals",
    "invalidJson": "InvalidJson",
    "thumbsDown": "ThumbsDown",
}
NUM_SENDERS = 8
"""Senders over which the users are spread."""
_BLOCK = 32


def events_of(
    front: str, sides: Iterable[tuple[int, Mapping[str, int], Mapping[str, int]]]
) -> list[dict[str, Any]]:
    """Return the events of a front: each bad answer is another user's.

    Args:
        front: The front. The same name, weight and version mean the same users.
        sides: Weight, and numbers of bad answers of the active version and of the candidate. At
            most ``NUM_SENDERS * 32`` of one kind count.
    """
    events: dict[str, dict[int, int]] = {}
    for weight, *versions in sides:
        for is_candidate, numbers in enumerate(versions):
            block = zlib.crc32(f"{front}/{weight}/{is_candidate}".encode()) % (NUM_USERS // _BLOCK)
            for signal in numbers.keys() & SIGNALS.keys():
                cells = events.setdefault(signal, {})
                for number in range(min(numbers[signal], NUM_SENDERS * _BLOCK)):
                    sender, user = number % NUM_SENDERS, block * _BLOCK + number // NUM_SENDERS
                    cells[sender * NUM_USERS + user] = weight + OF_CANDIDATE * is_candidate
    return [
        {"signal": SIGNALS[signal], "cells": write_cells(cells)}
        for signal, cells in sorted(events.items())
    ]


def requests_of(numbers: Mapping[str, int]) -> dict[str, int]:
    """Return the counts of a stream: all requests count, and each is another user's."""
    requests = numbers.get("requests", 0)
    return {"requests": requests, "asked": requests, "users": requests}
