"""Renders a page from a room's own template inside the frame that all pages share."""

from __future__ import annotations

import base64
import hashlib
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2
import markupsafe

FOLDER = Path(__file__).parent

_SEAM = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[./_])(?=\w)")
"""Where a name may be broken: between words joined by capitals, and behind what separates."""


def render(template: str, *, folder: Path, **values: Any) -> str:
    """Render a page with escaped text; the same values give the same bytes.

    The template extends ``frame.html.j2``.
    """
    return _environment(folder).get_template(template).render(**values)


@cache
def _environment(folder: Path) -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([folder, FOLDER]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )

    def script_text(name: str) -> str:
        return next(each for each in (folder / name, FOLDER / name) if each.is_file()).read_text(
            encoding="utf-8"
        )

    def script_source(name: str) -> str:
        # Only this very text may run, whatever else slips into a page.
        digest = hashlib.sha256(script_text(name).encode()).digest()
        return f"'sha256-{base64.b64encode(digest).decode()}'"

    environment.globals["script_text"] = script_text
    environment.globals["script_source"] = script_source
    environment.filters["count"] = lambda number: f"{number:,}"
    environment.filters["size"] = size_text
    environment.filters["breakable"] = break_at_seams
    environment.filters["minute"] = minute_text
    return environment


def break_at_seams(text: object) -> object:
    """Return a name, escaped, that a narrow column breaks between its words; all else as it is."""
    if not isinstance(text, str) or isinstance(text, markupsafe.Markup):
        return text
    return markupsafe.Markup("<wbr>").join(_SEAM.split(text))


def minute_text(time: str) -> str:
    """Return a time of RFC 3339 in UTC as people read it: ``2026-01-31 12:05``."""
    return time[:16].replace("T", " ")


def size_text(num_bytes: int) -> str:
    """Return a size as people read it: ``512 bytes``, ``1.4 MiB``."""
    if num_bytes < 2**10:
        return f"{num_bytes} bytes"
    for power, unit in ((30, "GiB"), (20, "MiB")):
        if num_bytes >= 2**power:
            return f"{num_bytes / 2**power:.1f} {unit}"
    return f"{num_bytes / 2**10:.1f} KiB"
