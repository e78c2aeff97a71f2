"""``finetune feedback``: the captured answers of an endpoint, and feedback on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import Format

if TYPE_CHECKING:
    from finetune_cli.cluster.front import Front

feedback_app = typer.Typer(
    name="feedback",
    help="List, rate, correct and delete captured answers.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ResponseId = Annotated[str, typer.Argument(metavar="ID", help="Id of an answer.")]
Url = Annotated[
    str | None,
    typer.Option(
        envvar="OPENAI_BASE_URL",
        help="URL of a front, or of finetune serve --capture. Default: OPENAI_BASE_URL, else "
        "http://127.0.0.1:8080/v1.",
    ),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(help="File with the endpoint's key. Default: OPENAI_API_KEY, for a named URL."),
]
EndpointName = Annotated[
    str | None, typer.Option("--endpoint", help="Name of the endpoint, if the key opens several.")
]
Rating = Literal["up", "down"]
Reason = Annotated[
    str | None,
    typer.Option(help="The reason. People who train the next version read it."),
]


@feedback_app.command("list")
def list_(
    endpoint: EndpointName = None,
    version: Annotated[
        int | None, typer.Option(min=1, help="Only answers of this version.")
    ] = None,
    rating: Annotated[
        Literal["up", "down", "none"] | None,
        typer.Option(help="Only answers with this rating; none: those that nobody has rated."),
    ] = None,
    limit: Annotated[int, typer.Option(min=1, help="Most answers.")] = 20,
    url: Url = None,
    key_file: KeyFile = None,
    output: Format = "text",
) -> None:
    """List captured answers, newest first. With -o json whole, with all their feedback."""
    from finetune_cli.views.feedback import answers_table
    from finetune_cli.views.layout import current_time

    front = _connect(url, key_file)
    found = front.list_answers(endpoint=endpoint, version=version, rating=rating, limit=limit)
    if output == "json":
        print(json.dumps({"object": "list", "data": found}, indent=2))
    elif found:
        print("\n".join(answers_table(found, current_time())))
    else:
        print(f"no such answers at {front.url}")


@feedback_app.command()
def rate(
    response_id: ResponseId,
    rating: Annotated[Rating, typer.Argument(help="Thumbs up or down.")],
    reason: Reason = None,
    url: Url = None,
    key_file: KeyFile = None,
    output: Format = "text",
) -> None:
    """Say that an answer is good or bad. It replaces what you have said of this answer before."""
    given = {"rating": rating, "reason": reason}
    _give(_connect(url, key_file), response_id, given, output)


@feedback_app.command()
def correct(
    response_id: ResponseId,
    text: Annotated[str | None, typer.Argument(help="What the answer should have been.")] = None,
    file: Annotated[
        str | None, typer.Option(help="Read the text from this file; - from standard input.")
    ] = None,
    rating: Annotated[Rating | None, typer.Option(help="Rate the answer as well.")] = None,
    reason: Reason = None,
    url: Url = None,
    key_file: KeyFile = None,
    output: Format = "text",
) -> None:
    """Say what an answer should be. It replaces what you have said of this answer before."""
    from finetune_cli.files.documents import read_text

    if (text is None) == (file is None):
        raise CliError("give the corrected text, or its file with --file; one of both")
    correction = (read_text(file) if file is not None else text or "").rstrip()
    if not correction:
        raise CliError(
            "the corrected text is empty; rate the answer instead: finetune feedback rate"
        )
    given = {"correction": correction, "rating": rating, "reason": reason}
    _give(_connect(url, key_file), response_id, given, output)


@feedback_app.command()
def delete(
    response_ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID", help="Ids of answers.")
    ] = None,
    user: Annotated[
        str | None, typer.Option(help="Delete all answers of this user, as requests name it.")
    ] = None,
    endpoint: EndpointName = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask again.")] = False,
    url: Url = None,
    key_file: KeyFile = None,
    output: Format = "text",
) -> None:
    """Delete answers with their feedback, for good. Data sets that exist keep their rows."""
    if bool(response_ids) == (user is not None):
        raise CliError("name the ids of answers, or a user with --user; one of both")
    if endpoint is not None and user is None:
        raise CliError("--endpoint goes with --user: an id names its endpoint")
    front = _connect(url, key_file)
    what = (
        f"all answers of user {user}" if user is not None else f"{len(response_ids or ())} answers"
    )
    if not yes:
        typer.confirm(f"delete {what} at {front.url} for good?", abort=True, err=True)
    if user is not None:
        told = front.delete_user(user, endpoint)
        words = f"deleted {told.get('rows', 'all')} answers of user {user}"
        print(json.dumps(told) if output == "json" else words)
    for each in response_ids or ():
        _print_deleted(front.delete_answer(each), f"deleted {each}", output)


def _connect(url: str | None, key_file: Path | None) -> Front:
    from finetune_cli.cluster.front import Front

    return Front.find(url, key_file)


def _give(front: Front, response_id: str, given: dict[str, str | None], output: str) -> None:
    from finetune_cli.views.feedback import entry_text

    entry = front.give_feedback(response_id, given)
    print(json.dumps(entry, indent=2) if output == "json" else entry_text(entry))


def _print_deleted(answer: dict[str, Any], words: str, output: str) -> None:
    if answer.get("deleted") is not True:
        raise CliError(f"the server does not say that it has {words}", exit_code=NOT_MET)
    print(json.dumps(answer) if output == "json" else words)
