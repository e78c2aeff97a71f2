"""Keeps what users send out of the logs."""

from __future__ import annotations

import logging


def silence_libraries() -> None:
    """Let aiohttp and asyncio log no errors: their messages quote what clients have sent."""
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
