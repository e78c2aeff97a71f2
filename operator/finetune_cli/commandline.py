"""How the command line is read: headings of the help, words of other tools, durations."""

from __future__ import annotations

from typing import Any

from finetune_cli.errors import CliError
from finetune_cli.exits import STOPPED
from finetune_cli.options import Commands

HEADINGS = {
    "Write and check a job": ("init", "validate", "data", "plan", "advise"),
    "Run on this machine": ("run", "chat", "serve"),
    "Run on a cluster": (
        "submit", "status", "logs", "queue", "retry", "cp",
    ),
    "Look at results": ("report", "compare", "review", "verify"),
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
    **dict.fromkeys(("apply", "push", "deploy"), "submit"),
    **dict.fromkeys(("get", "show", "info"), "status"),
    **dict.fromkeys(("log", "tail"), "logs"),
    **dict.fromkeys(("answers", "captures"), "feedback list"),
    **dict.fromkeys(("rollback", "undo"), "endpoint rollback"),
    **dict.fromkeys(("download", "fetch", "export"), "cp"),
}
"""Words of other tools, and the command that they mean."""


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
