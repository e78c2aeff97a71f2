"""The writers of the reference pages, as tests reach them."""

from __future__ import annotations

from api_reference import EXIT_CODE_HELP, render_exit_codes, render_kind, render_reasons
from cli_reference import render_cli

__all__ = [
    "EXIT_CODE_HELP",
    "render_cli",
    "render_exit_codes",
    "render_kind",
    "render_reasons",
]
