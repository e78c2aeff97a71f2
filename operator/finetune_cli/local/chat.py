"""Talks to a tuned model: the trainer answers in a child process, this shows it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from finetune_api.protocol.trainer import Environment, ExitCode
from finetune_cli.errors import CliError
from finetune_cli.local.job import cache_root
from finetune_cli.local.stages import read_tail, trainer_command
from finetune_cli.local.verify import make_access

if TYPE_CHECKING:
    from rich.console import Console

RUN_FOLDER = re.compile(r"^(?P<run>.*/runs/[^/]+/[^/]+/(?P<uid>[^/]+))/adapter$")


def find_base_model(
    adapter: str, *, endpoint: str | None = None, region: str | None = None
) -> str | None:
    """Return the base model's URI as in the run, or None to use the adapter's own.

    It is in the adapter's ``run.json``; for older adapters in the run's ``job.json``, beside the
    adapter or in this machine's work folder.
    """
    match = RUN_FOLDER.match(adapter)
    if not match:
        return None
    local = cache_root() / "runs" / match["uid"] / "job.json"
    if local.is_file():
        return _model_uri(local.read_bytes())
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import open_store

    try:
        store = open_store(match["run"], make_access(endpoint, region))
        return _model_uri(store.read_bytes("job.json"))
    except TrainerError:
        return None


def _model_uri(job: bytes) -> str | None:
    try:
        uri = json.loads(job)["spec"]["model"]["uri"]
    except (ValueError, KeyError, TypeError):
        return None
    return uri if isinstance(uri, str) else None


def chat_arguments(
    adapter: str,
    *,
    base_model: str | None,
    prompts: Sequence[str],
    system: str | None,
    with_base: bool,
    max_new_tokens: int,
    endpoint: str | None,
    region: str | None,
    trust_remote_code: bool = False,
) -> list[str]:
    """Return the trainer's command line."""
    arguments = ["chat", "--adapter", adapter, "--max-new-tokens", str(max_new_tokens)]
    options = {
        "--base-model": base_model,
        "--system": system,
        "--endpoint": endpoint,
        "--region": region,
    }
    for option, value in options.items():
        if value is not None:
            arguments += [option, value]
    for prompt in prompts:
        arguments += ["--prompt", prompt]
    flags = {"--base": with_base, "--trust-remote-code": trust_remote_code}
    return [*arguments, *(flag for flag, is_set in flags.items() if is_set)]


def run_chat(
    arguments: Sequence[str], console: Console, *, is_interactive: bool, as_json: bool
) -> int:
    """Run the chat to its end; returns the exit code.

    Raises:
        CliError: The trainer failed; has its message or the end of its log.
    """
    environment = dict(os.environ)
    environment.setdefault(Environment.CACHE_DIR, str(cache_root()))
    adapter = arguments[arguments.index("--adapter") + 1]
    text = f"loading the model of {adapter}"
    console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
    with tempfile.NamedTemporaryFile(prefix="finetune-chat-", suffix=".log") as log:
        process = subprocess.Popen(
            trainer_command(*arguments),
            env=environment,
            stdin=subprocess.PIPE if is_interactive else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=log,
            encoding="utf-8",
        )
        try:
            failure = _converse(process, console, as_json)
            exit_code = process.wait()
        except KeyboardInterrupt:
            return 0
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()
            _close(process)
        if failure is not None:
            raise CliError(failure, exit_code=exit_code or ExitCode.INTERNAL)
        if exit_code:
            raise CliError(
                f"the trainer ended with exit code {exit_code}:\n{read_tail(Path(log.name))}",
                exit_code=exit_code,
            )
    return 0


def _converse(process: subprocess.Popen[str], console: Console, as_json: bool) -> str | None:
    """Show answers, feed prompts; returns the failure's message if there is one."""
    for line in _lines(process):
        if line.get("event") == "failure":
            return str(line.get("message", "the trainer failed"))
        if as_json and "prompt" in line:
            print(json.dumps(line, ensure_ascii=False), flush=True)
        elif line.get("ready"):
            text = f"{line.get('model')} with {line.get('adapter')}"
            console.print(text, style="dim", markup=False, highlight=False, soft_wrap=True)
            if line.get("note"):
                console.print(str(line["note"]), style="yellow", markup=False, highlight=False)
        elif "prompt" in line:
            _show(line, console, is_echoed=process.stdin is None)
        if process.stdin is not None and not _ask(process.stdin, console):
            process.stdin.close()
            process.stdin = None
    return None


def _ask(target: IO[str], console: Console) -> bool:
    """Pass one prompt on; False when there are no more."""
    while True:
        try:
            prompt = console.input("[bold]> [/]") if sys.stdin.isatty() else input()
        except EOFError:
            return False
        if prompt.strip():
            target.write(prompt.replace("\n", " ") + "\n")
            target.flush()
            return True


def _show(line: dict[str, Any], console: Console, *, is_echoed: bool) -> None:
    def say(text: str, style: str | None = None) -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    if is_echoed:
        say(f"> {line['prompt']}", "bold")
    if "base" in line:
        say(f"base:  {line['base']}", "dim")
        say(f"tuned: {line['tuned']}")
    else:
        say(str(line["tuned"]))
    if "note" in line:
        say(str(line["note"]), "yellow")


def _lines(process: subprocess.Popen[str]) -> Iterator[dict[str, Any]]:
    assert process.stdout is not None
    for text in process.stdout:
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(value, dict):
            yield value


def _close(process: subprocess.Popen[str]) -> None:
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()
