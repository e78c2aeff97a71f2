"""``finetune report`` and ``finetune compare``: one run's page, and runs side by side."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.review import find_anywhere
from finetune_cli.errors import CliError
from finetune_cli.options import Format, JobEndpoint, JobRegion, OutputDir, Overrides

if TYPE_CHECKING:
    from finetune_trainer.experiments.comparison import Comparison

COMPARE_MODULES = ("finetune_trainer", "numpy", "scipy")
"""What comparing runs needs; no torch."""


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
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Open the report of a job's evaluation, and print its path.

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


@with_cluster_options
def compare(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN",
            help="Names of FineTuneJobs; or of runs their folders, URIs, job files or results.",
        ),
    ],
    against: Annotated[
        str | None,
        typer.Option(metavar="RUN", help="Compare the scores of all others with this one."),
    ] = None,
    gpu_hour_price: Annotated[
        float | None,
        typer.Option(metavar="PRICE", min=0, help="Price of a GPU hour. Default: the cluster's."),
    ] = None,
    output_dir: OutputDir = None,
    format_: Format = "text",
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Compare runs and say which differences are real.

    It shows settings, data, curves, scores, time and cost.

    A folder that holds several runs stands for all of them.
    """
    from finetune_cli.extras import require_trainer
    from finetune_cli.reports.run_files import Asking, read_runs

    require_trainer(COMPARE_MODULES, to="comparing runs")
    asking = Asking(
        connect=where.connect,
        namespace=where.namespace,
        output=output_dir,
        endpoint=endpoint,
        region=region,
        hour_price=gpu_hour_price,
    )
    from finetune_trainer.experiments.comparison import compare_runs

    found = read_runs(runs, asking)
    names = [run.name for run in found]
    if against is not None and against not in names:
        raise CliError(f"--against {against}: choose one of {', '.join(names)}")
    comparison = compare_runs(found, against=None if against is None else names.index(against))
    show(comparison, format_)


def show(comparison: Comparison, format_: str, *, first: Sequence[str] = ()) -> None:
    """Print a comparison; ``first`` are sentences that come before all else."""
    if format_ == "json":
        from finetune_trainer.experiments.comparison import to_wire

        print(json.dumps(to_wire(comparison), indent=1))
        return
    from finetune_cli.views.comparison import describe_comparison
    from finetune_cli.views.display import printable

    print("".join(f"{printable(sentence)}\n" for sentence in first), end="\n" if first else "")
    print(describe_comparison(comparison))
