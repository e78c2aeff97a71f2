"""``finetune report``: the page on how a tuned model compares."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.review import Endpoint, Region, find_anywhere
from finetune_cli.options import OutputDir, Overrides


@with_cluster_options
def report(
    target: Annotated[
        str,
        typer.Argument(
            metavar="JOB|FILE",
            help="Name of a FineTuneJob, a job file that was run here, or a run's folder or URI.",
        ),
    ],
    opens: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    output_dir: OutputDir = None,
    overrides: Overrides = None,
    endpoint: Endpoint = None,
    region: Region = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Open the report of a job's evaluation. Prints where it lies on this machine.

    A cluster's job is looked up there, and its report is read from storage with the credentials of
    this machine.
    """
    from finetune_cli.reports.data import open_page
    from finetune_cli.reports.evaluation import find_report

    source = find_anywhere(
        target,
        where,
        endpoint,
        region,
        output=output_dir,
        overrides=overrides,
    )
    found = find_report(source, target=target)
    print(found.page)
    for line in found.told:
        print(line, file=sys.stderr)
    if opens and sys.stdout.isatty():
        open_page(found.page)
