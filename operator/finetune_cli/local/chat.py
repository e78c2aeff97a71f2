"""Talks to a tuned model on this machine."""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.trainer import Environment
from finetune_cli.errors import CliError
from finetune_cli.local.job import cache_root

if TYPE_CHECKING:
    from rich.console import Console

    from finetune_trainer.storage import StorageAccess


def run_chat(
    adapter: str,
    access: StorageAccess,
    console: Console,
    *,
    prompts: Sequence[str],
    as_json: bool,
    base_model: str | None,
    trust_remote_code: bool,
    **asking: Any,
) -> None:
    """Answer the prompts, or each line of input if there are none.

    Args:
        adapter: URI of the adapter's folder.
        access: How to reach it.
        console: Where people read.
        prompts: The prompts.
        as_json: Print each answer as JSON.
        base_model: URI of the base model; None takes it as recorded.
        trust_remote_code: Run code that ships with the base model.
        asking: Settings of ``finetune_trainer.chat.Chat.ask``.

    Raises:
        CliError: The model cannot be loaded or asked.
    """
    os.environ.setdefault(Environment.CACHE_DIR, str(cache_root()))
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    from finetune_trainer.failures import classify

    _say(console, f"loading the model of {adapter}", "dim")
    try:
        with ExitStack() as stack:
            with _quiet():
                from finetune_trainer.chat import open_chat

                opened = open_chat(
                    adapter, access, base_model=base_model, trust_remote_code=trust_remote_code
                )
                chat = stack.enter_context(opened)
            _say(console, f"{chat.model} with {adapter}", "dim")
            if chat.note:
                _say(console, chat.note, "yellow")
            for prompt in prompts or _read_prompts(console):
                with _quiet():
                    line = chat.ask(prompt, **asking)
                if as_json:
                    print(json.dumps(line, ensure_ascii=False), flush=True)
                else:
                    _show(line, console, is_echoed=bool(prompts))
    except KeyboardInterrupt:
        return
    except Exception as error:
        failure = classify(error)
        raise CliError(failure.message, exit_code=failure.exit_code) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide what libraries write; standard output has answers only."""
    noise = io.StringIO()
    with redirect_stdout(noise), redirect_stderr(noise):
        yield


def _read_prompts(console: Console) -> Iterator[str]:
    while True:
        try:
            prompt = console.input("[bold]> [/]") if sys.stdin.isatty() else input()
        except EOFError:
            return
        if prompt.strip():
            yield prompt


def _show(line: dict[str, Any], console: Console, *, is_echoed: bool) -> None:
    if is_echoed:
        _say(console, f"> {line['prompt']}", "bold")
    if "base" in line:
        _say(console, f"base:  {line['base']}", "dim")
        _say(console, f"tuned: {line['tuned']}")
    else:
        _say(console, line["tuned"])
    if "note" in line:
        _say(console, line["note"], "yellow")


def _say(console: Console, text: str, style: str | None = None) -> None:
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)
