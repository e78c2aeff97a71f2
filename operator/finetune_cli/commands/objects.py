"""Objects of a cluster as commands name and print them."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster

Name = Annotated[str, typer.Argument(help="Name of the FineTuneJob.")]
JobOrFile = Annotated[
    str, typer.Argument(help="Name of a FineTuneJob, or the file of a job run on this machine.")
]


def print_object(
    body: dict[str, Any], output: str, words: str, *, kind: str = "finetunejob"
) -> None:
    """Print an object in the output format, or ``words`` for people.

    Args:
        body: The object, or a list of such.
        output: ``json``, ``yaml`` or ``name``; else the words are printed.
        words: Text for people.
        kind: The kind, for its name.
    """
    for item in body.get("items", [body]):
        item.get("metadata", {}).pop("managedFields", None)
    if output == "json":
        print(json.dumps(body, indent=2))
    elif output == "yaml":
        from finetune_cli.files.documents import to_yaml

        print(to_yaml(body), end="")
    elif output == "name":
        for item in body.get("items", [body]):
            print(f"{kind}.finetune.dev/{item['metadata']['name']}")
    else:
        print(words)


def list_text(
    cluster: Cluster,
    found: dict[str, Any],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    kinds: str,
    *,
    everywhere: bool,
) -> str:
    """Return listed objects as a table, of all namespaces with theirs; or that there are none."""
    from finetune_cli.views.layout import table

    if not rows:
        place = "in any namespace" if everywhere else f"in namespace {cluster.namespace}"
        return f"no {kinds} {place}"
    if not everywhere:
        return "\n".join(table(rows, columns))
    spaces = [item["metadata"]["namespace"] for item in found["items"]]
    placed = [[space, *cells] for space, cells in zip(spaces, rows, strict=True)]
    return "\n".join(table(placed, ("NAMESPACE", *columns)))


def watch_object(
    read: Callable[[], dict[str, Any]],
    *,
    changes: Callable[[dict[str, Any] | None, dict[str, Any]], Iterable[str]],
    is_done: Callable[[dict[str, Any]], bool],
    overdue: Callable[[dict[str, Any]], str],
    timeout_seconds: float | None,
    poll_seconds: float,
) -> dict[str, Any]:
    """Read an object until it is done, and return it; print a line for each of its changes.

    Raises:
        CliError: Time is up, with the message ``overdue``; or the object cannot be read.
    """
    from finetune_cli.cluster.waiting import patiently

    deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
    before, body = None, read()  # print early errors at once
    while True:
        for line in changes(before, body):
            print(line, flush=True)
        if is_done(body):
            return body
        if deadline is not None and time.monotonic() >= deadline:
            raise CliError(overdue(body), exit_code=NOT_MET)
        time.sleep(poll_seconds)
        before, body = body, patiently(read)


def with_requester(body: dict[str, Any], user: str) -> dict[str, Any]:
    """Return a job that names its requester, and print the name before it is sent.

    Raises:
        CliError: The job names another requester.
    """
    named = body["spec"].get("requestedBy")
    if named not in (None, user):
        raise CliError(f"the job is requested by {named}, and the cluster knows you as {user}")
    print(f"requested by {user}", file=sys.stderr)
    return {**body, "spec": {**body["spec"], "requestedBy": user}}
