"""How the command line is read: headings of the help, words of other tools, durations."""

from __future__ import annotations

import re
from typing import Annotated, Any

import typer

from finetune_cli.errors import CliError
from finetune_cli.exits import STOPPED
from finetune_cli.options import Commands

HEADINGS = {
    "Write and check a job": ("init", "validate", "data", "plan", "advise"),
    "Run on this machine": ("run", "chat", "serve"),
    "Run on a cluster": (
        "submit", "list", "describe", "logs", "wait", "queue", "suspend", "resume", "retry",
        "delete", "cp",
    ),
    "Look at results": ("report", "compare", "checkpoints", "evaluate", "review", "verify"),
    "Decide on data and candidates": ("approve", "publish"),
    "Try several settings on a cluster": ("sweep", "promote"),
    "Serve published versions": ("endpoint", "feedback", "monitor"),
    "Train again": ("schedule",),
}  # fmt: skip
"""The commands in the order of the help. A test keeps this list complete."""

SYNONYMS = {
    **dict.fromkeys(("train", "tune", "fit", "start", "finetune"), "run"),
    **dict.fromkeys(("inspect", "look", "preview", "head"), "data inspect"),
    **dict.fromkeys(("prepare", "preprocess"), "data prepare"),
    "diff": "data diff",
    **dict.fromkeys(("check", "lint"), "validate"),
    **dict.fromkeys(("new", "create", "config"), "init"),
    **dict.fromkeys(("predict", "generate", "infer", "inference", "ask"), "chat"),
    **dict.fromkeys(("eval", "test", "score"), "evaluate"),
    **dict.fromkeys(("apply", "push", "deploy"), "submit"),
    **dict.fromkeys(("ls", "ps", "get", "jobs"), "list"),
    **dict.fromkeys(("status", "show", "info"), "describe"),
    **dict.fromkeys(("log", "tail"), "logs"),
    **dict.fromkeys(("pause", "stop"), "suspend"),
    **dict.fromkeys(("cancel", "rm", "remove"), "delete"),
    **dict.fromkeys(("endpoints",), "endpoint list"),
    **dict.fromkeys(("schedules", "cron"), "schedule list"),
    **dict.fromkeys(("answers", "captures"), "feedback list"),
    **dict.fromkeys(("rollback", "undo"), "endpoint rollback"),
    **dict.fromkeys(("download", "fetch", "export"), "cp"),
}
"""Words of other tools, and the command that they mean."""

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?(s|m|h|d)?")


def read_duration(text: str) -> float:
    """Return the seconds of a duration: ``30s``, ``5m``, ``1h``, ``2d``, or a number of seconds.

    Raises:
        typer.BadParameter: It is invalid; names it and shows valid ones.
    """
    from finetune_api.messages.remedies import SECONDS_OF  # --help loads as little as it can

    found = _DURATION.fullmatch(text.strip())
    if found is None:
        raise typer.BadParameter(f"{text!r} is no duration; write for example 30s, 5m or 1h")
    return float(found[1]) * SECONDS_OF[found[2] or "s"]


Timeout = Annotated[
    float | None,
    typer.Option(
        parser=read_duration,
        metavar="DURATION",
        help="Longest wait: 30s, 5m, 1h, or a number of seconds.",
    ),
]


def print_version() -> None:
    """Print the version of the installed package."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        print(f"finetune {version('finetune-operator')}")
    except PackageNotFoundError:
        print("finetune (not installed)")


class Program(Commands):
    """The whole program: lists its commands under headings, and knows words of other tools."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands under their headings."""
        listed = {name for names in HEADINGS.values() for name in names}
        others = tuple(name for name in self.list_commands(ctx) if name not in listed)
        width = formatter.width - 6 - max(map(len, self.commands))
        for heading, names in {**HEADINGS, "Others": others}.items():
            rows = [
                (name, self.commands[name].get_short_help_str(width))
                for name in names
                if name in self.commands
            ]
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; Ctrl-C ends it with a line and an exit code, and without a traceback."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise CliError("stopped by Ctrl-C", exit_code=STOPPED) from error

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; ``version`` and ``help`` are answered here."""
        word = args[0].lower()
        if word in self.commands:
            return super().resolve_command(ctx, args)
        if word == "version":
            print_version()
            ctx.exit()
        if word == "help" and len(args) == 1:
            print(ctx.get_help())
            ctx.exit()
        if word == "help":
            return super().resolve_command(ctx, [*args[1:], "--help"])
        if meant := SYNONYMS.get(word):
            ctx.fail(f"No such command {args[0]!r}. Did you mean 'finetune {meant}'?")
        return super().resolve_command(ctx, args)
