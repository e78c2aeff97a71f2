"""Logs of the serving processes, without what users send."""

from __future__ import annotations

import logging
import sys
import traceback

logger = logging.getLogger(__name__)


def start_logging() -> None:
    """Log to stderr. aiohttp and asyncio log no errors: their messages quote what clients sent."""
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
    )
    for name in ("aiohttp", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)


def log_defect(error: BaseException | None) -> None:
    """Log where an unexpected exception came from, without its message: it may quote a user."""
    if error is not None:
        frames = "".join(traceback.format_tb(error.__traceback__))
        logger.error("unexpected %s at\n%s", type(error).__name__, frames)
