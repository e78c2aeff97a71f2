"""``finetune endpoint``: which version of a job answers, and a change of it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import print_object
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import Commands, Format, ObjectFormat

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster

endpoint_app = typer.Typer(
    name="endpoint",
    cls=Commands,
    help="Pin and roll back versions that answer requests.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

EndpointName = Annotated[str, typer.Argument(help="Name of the FineTuneEndpoint.")]
To = Annotated[
    int | None, typer.Option("--to", metavar="VERSION", min=1, help="Number of a version.")
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask again.")]
KIND = "finetuneendpoint"


@endpoint_app.command()
@with_cluster_options
def promote(
    name: EndpointName,
    to: To = None,
    newest: Annotated[
        bool, typer.Option("--newest", help="Pin none: the newest version takes over again.")
    ] = False,
    at_once: Annotated[
        bool, typer.Option("--at-once", help="Skip the steps that are left of its rollout.")
    ] = False,
    yes: Yes = False,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Pin the candidate's version. No newer one comes before it.

    A pinned version is verified like any other, and goes through its rollout unless --at-once skips
    the steps. One that was rejected is tried again.
    """
    from finetune_cli.cluster.pinning import version_to_promote

    if newest and to is not None:
        raise CliError(f"--newest pins no version, and --to {to} pins one: leave one of both out")
    if newest and at_once:
        raise CliError(
            "--at-once skips the steps of a pinned version, and --newest pins none: name"
            " the version with --to"
        )
    cluster = where.connect()
    endpoint = cluster.get(KIND, name)
    version = None if newest else to or version_to_promote(endpoint)
    _change(cluster, endpoint, version, at_once=at_once, yes=yes, output=output)


@endpoint_app.command()
@with_cluster_options
def rollback(
    name: EndpointName,
    to: To = None,
    yes: Yes = False,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Pin the version that answered before.

    While there is a candidate, that is the active version.
    """
    from finetune_cli.cluster.pinning import version_to_restore

    cluster = where.connect()
    endpoint = cluster.get(KIND, name)
    _change(cluster, endpoint, to or version_to_restore(endpoint), yes=yes, output=output)


@with_cluster_options
def monitor(
    target: Annotated[
        str,
        typer.Argument(
            metavar="DIR_OR_ENDPOINT",
            help="Folder of finetune serve --capture, or name of a FineTuneEndpoint.",
        ),
    ],
    every: Annotated[str, typer.Option(help="Shortest time between two looks at a folder.")] = "1d",
    window: Annotated[
        str, typer.Option(help="Time whose users are compared: the first and the last.")
    ] = "7d",
    false_alarms: Annotated[
        str,
        typer.Option("--false-alarms-per-year", help="False alarms to expect in a year."),
    ] = "1",
    min_users: Annotated[int, typer.Option(help="Users that a window must have.")] = 100,
    answers_per_week: Annotated[
        int | None, typer.Option(help="Answers in a folder that people are asked about.")
    ] = None,
    output: Format = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Compare the traffic of a version with that of its first window.

    Answers of the last five minutes wait for the next look. Exit code 1 if a signal has changed.
    """
    from finetune_cli.views.layout import current_time
    from finetune_cli.views.monitor import describe_report, describe_status

    if not Path(target).is_dir():
        status = where.connect().get(KIND, target).get("status", {}).get("monitor")
        if status is None:
            raise CliError(f"nobody has looked at FineTuneEndpoint {target}: set spec.monitor")
        print_object(status, output, "\n".join(describe_status(status, current_time())))
        if any(each.get("since") for each in status.get("signals", [])):
            raise typer.Exit(NOT_MET)
        return
    from finetune_cli.extras import require_trainer
    from finetune_cli.local.serving.monitoring import monitor_folder

    require_trainer(("finetune_trainer", "numpy"), to="looking at captured answers")
    settings: dict[str, Any] = {
        "every": every, "window": window, "falseAlarmsPerYear": false_alarms, "minUsers": min_users
    }  # fmt: skip
    if answers_per_week is not None:
        settings["quality"] = {"answersPerWeek": answers_per_week}
    found = monitor_folder(Path(target), settings)
    if found.report is None or "numUsers" not in found.report:  # of an older release
        when = f"{every} and 5m after the version began to answer"
        print(f"no look yet: the first begins {when}", file=sys.stderr)
        return
    from finetune_trainer.monitor.page import number_text

    lines = describe_report(found.report, found.drifted, number_text)
    lines += [f"page: {found.page}"] if found.page is not None else []
    print_object(dict(found.report), output, "\n".join(lines))
    if found.drifted:
        raise typer.Exit(NOT_MET)


def _change(
    cluster: Cluster,
    endpoint: dict[str, Any],
    version: int | None,
    *,
    yes: bool,
    output: str,
    at_once: bool = False,
) -> None:
    """Say what changes, ask, and change the version."""
    from finetune_cli.cluster.pinning import check_change, describe_change, pin

    check_change(endpoint, version, at_once=at_once)
    print("\n".join(describe_change(endpoint, version, at_once=at_once)), file=sys.stderr)
    name = endpoint["metadata"]["name"]
    if not yes:
        typer.confirm(f"change {name}?", abort=True, err=True)
    stored = cluster.patch(KIND, name, pin(version, at_once=at_once))
    what = "follows the newest version" if version is None else f"wants version {version}"
    words = f"{KIND}.finetune.dev/{name} {what}; finetune status endpoint/{name} shows its way"
    print_object(stored, output, words, kind=KIND)
