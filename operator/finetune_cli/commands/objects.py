"""Objects of a cluster as commands name and print them."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Any

import typer

from finetune_cli.errors import CliError

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
