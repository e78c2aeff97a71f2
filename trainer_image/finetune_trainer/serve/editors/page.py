"""The page for editors. It holds no answer: its script asks for them with the editor's key."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from aiohttp import web

from finetune_trainer.pages.rendering import render
from finetune_trainer.serve.errors import Refused

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?\Z")
_HEADERS = {
    "Content-Security-Policy": "frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


def editors_page(endpoint: str) -> web.Response:
    """Return the page of an endpoint. It looks alike for endpoints that do not exist.

    Raises:
        Refused: No endpoint can have this name.
    """
    if not _NAME.match(endpoint):
        raise Refused(404, "unknown_url", "No such URL. Try /feedback/<endpoint>.")
    return web.Response(text=_render(endpoint), content_type="text/html", headers=_HEADERS)


@cache
def _page() -> str:
    return render("page.html.j2", folder=Path(__file__).parent, script="page.js")


def _render(endpoint: str) -> str:
    # A name of this shape needs no escapes.
    return _page().replace("ENDPOINT-NAME", endpoint)
