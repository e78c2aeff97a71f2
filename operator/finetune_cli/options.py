"""The options that several commands share: one name means one thing in all of them."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from typer._click.exceptions import NoSuchOption
from typer.core import TyperGroup

from finetune_cli.errors import CliError

NEW_NAMES = {
    "--json": "-o json",
    "--output": "--output-dir",
    "--results": "--output-dir",
    "--folder": "--output-dir",
    "--html": "-o json",
    "-o": "--file",
}
"""What is written today instead of options that a command had before."""


REMOVED = {
    "evaluate": "the step with the lowest validation loss is evaluated and published. To train on"
    " from another one, name it in initFrom.uri of a new job",
    "checkpoints": "`finetune report` shows the validation loss of each step",
    "list": "`kubectl get ftj` lists jobs",
    "describe": "`finetune status NAME` shows a job",
    "wait": "`finetune submit --wait` waits for the end, and `kubectl wait` for a condition",
    **dict.fromkeys(
        ("suspend", "resume"), "set spec.suspend of the job, as with `kubectl edit ftj`"
    ),
    "delete": "`kubectl delete ftj NAME` deletes a job",
    **{
        f"{kind} {verb}": words
        for kind, short in (("sweep", "fts"), ("endpoint", "fte"), ("schedule", "ftsch"))
        for verb, words in (
            ("list", f"`kubectl get {short}` lists them"),
            ("get", f"`finetune status {kind}/NAME` shows one"),
            ("describe", f"`finetune status {kind}/NAME` shows one"),
            ("watch", f"`kubectl get {short} NAME --watch` shows each change"),
        )
    },
    **dict.fromkeys(
        ("schedule suspend", "schedule resume"),
        "set spec.suspend of the schedule, as with `kubectl edit ftsch`",
    ),
    "review ask": "judge on the page, `finetune review open`",
}
"""What to use instead of a command that is gone."""


class Commands(TyperGroup):
    """A group of commands that says what to write instead of old commands and options."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the command; one that is gone is refused with what to use instead."""
        words, outer = [args[0].lower()], ctx
        while outer.parent is not None:
            words, outer = [outer.info_name, *words], outer.parent
        if instead := REMOVED.get(" ".join(words)):
            ctx.fail(f"The command {' '.join(words)!r} was removed: {instead}.")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that the command line names."""
        try:
            return super().invoke(ctx)
        except NoSuchOption as error:
            new = NEW_NAMES.get(error.option_name, "")
            parameters = error.ctx.command.params if error.ctx else ()
            known = [flag for each in parameters for flag in each.opts]
            if new.partition(" ")[0] in known:
                error.message, error.possibilities = f"{error.message}; write {new}", None
            raise


def format_option(*others: str) -> Any:
    """Return the option ``--output`` of a command that prints text, json or ``others``."""
    formats = ("text", "json", *others)

    def check(ctx: typer.Context, value: str) -> str:
        if value in formats or ctx.resilient_parsing:
            return value
        hint = ""
        if any("--output-dir" in each.opts for each in ctx.command.params):
            hint = f"; for a folder write --output-dir {value}"
        elif any(sign in value for sign in "./~\\"):
            hint = f"; for a file write > {value} at the end"
        listed = f"{', '.join(formats[:-1])} or {formats[-1]}"
        raise CliError(f"--output {value}: there is no such format; choose {listed}{hint}")

    return typer.Option(
        "--output",
        "-o",
        metavar="|".join(formats),
        help=f"Format of what is printed: {', '.join(formats)}.",
        callback=check,
        autocompletion=lambda: list(formats),
    )


Format = Annotated[str, format_option()]
ObjectFormat = Annotated[str, format_option("yaml", "name")]
OutputDir = Annotated[
    str | None,
    typer.Option(
        "--output-dir",
        metavar="DIR",
        help="URI or folder for the results, instead of the job file's output.uri.",
    ),
]
CapturePlace = Annotated[
    str | None,
    typer.Option(
        "--capture",
        metavar="DIR",
        help="Folder or URI in which the endpoints of traffic:// sources store answers, as in "
        "serve.",
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="PATH=VALUE",
        help="Change a field of the job first: hyperparameters.epochs=1. May be repeated.",
    ),
]
Endpoint = Annotated[
    str | None,
    typer.Option(help="URL of the S3 server. Default: AWS_ENDPOINT_URL_S3, else AWS."),
]
Region = Annotated[str | None, typer.Option(help="S3 region. Default: the environment's.")]
JobEndpoint = Annotated[
    str | None, typer.Option(help="URL of the S3 server. Default: the job's, else the environment.")
]
JobRegion = Annotated[str | None, typer.Option(help="S3 region. Default: the job's.")]
