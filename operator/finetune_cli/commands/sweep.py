"""``finetune sweep`` and ``finetune promote``: trials side by side, and the choice of one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commandline import Timeout
from finetune_cli.commands.objects import list_text, print_object, watch_object
from finetune_cli.commands.report import COMPARE_MODULES, check_page, show
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import Format, JobEndpoint, JobRegion, ObjectFormat

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster

sweep_app = typer.Typer(
    name="sweep",
    help="Trials of a FineTuneSweep side by side.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SweepName = Annotated[str, typer.Argument(help="Name of the FineTuneSweep.")]
POLL_SECONDS = 2.0
KIND = "finetunesweep"


@sweep_app.command("list")
@with_cluster_options
def list_(
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Sweeps of all namespaces.")
    ] = False,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """List sweeps, how far they are, and the best trial of each."""
    from finetune_cli.views.layout import current_time
    from finetune_cli.views.sweep import COLUMNS, row

    cluster = where.connect()
    found = cluster.list_sweeps(all_namespaces=all_namespaces)
    rows = [row(sweep, current_time()) for sweep in found["items"]]
    words = list_text(cluster, found, COLUMNS, rows, "FineTuneSweeps", everywhere=all_namespaces)
    print_object(found, output, words, kind=KIND)


@sweep_app.command()
@with_cluster_options
def get(
    name: SweepName,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Show the trials, the best first, and what is noise."""
    from finetune_cli.views.sweep import leaderboard, outcome

    sweep = where.connect().get_sweep(name)
    words = "\n".join(leaderboard(sweep)) or f"{name} has no trials yet, it is {outcome(sweep)}"
    print_object(sweep, output, words, kind=KIND)


@sweep_app.command()
@with_cluster_options
def describe(
    name: SweepName,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Show everything about one sweep. Parameters, conditions, trials, what was spent."""
    from finetune_cli.views import sweep as sweepview
    from finetune_cli.views.layout import current_time

    sweep = where.connect().get_sweep(name)
    words = "\n".join(sweepview.describe(sweep, current_time()))
    print_object(sweep, output, words, kind=KIND)


@sweep_app.command()
@with_cluster_options
def watch(
    name: SweepName,
    timeout: Timeout = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Watch the trials to the end. Exit code 1 if it failed or time is up."""
    from finetune_cli.views.state import is_true
    from finetune_cli.views.sweep import changes, is_over, leaderboard, outcome

    cluster = where.connect()
    sweep = watch_object(
        lambda: cluster.get_sweep(name),
        changes=changes,
        is_done=is_over,
        timeout_seconds=timeout,
        poll_seconds=POLL_SECONDS,
        overdue=lambda last: f"FineTuneSweep {name} is still {outcome(last)} after {timeout:g} s",
    )
    print("\n".join(["", *leaderboard(sweep), "", outcome(sweep)]))
    if is_true(sweep, "Failed"):
        raise typer.Exit(NOT_MET)


@sweep_app.command()
@with_cluster_options
def report(
    name: SweepName,
    html: Annotated[
        Path | None, typer.Option("--html", help="Also write a page: one file, no network.")
    ] = None,
    gpu_hour_price: Annotated[
        float | None,
        typer.Option(metavar="PRICE", min=0, help="Price of a GPU hour. Default: the cluster's."),
    ] = None,
    format_: Format = "text",
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Say which trial won and why, and compare all.

    The comparison is that of finetune compare.
    """
    from finetune_cli.extras import require_trainer
    from finetune_cli.reports.run_files import Asking, found_on_cluster, read_found
    from finetune_cli.views.sweep import chosen_trial
    from finetune_cli.views.sweep_report import explain_choice, order_jobs

    check_page(html)
    require_trainer(COMPARE_MODULES, to="comparing runs")
    cluster = where.connect()
    sweep = cluster.get_sweep(name)
    jobs = order_jobs(sweep, list_trials(cluster, sweep))
    if not jobs:
        raise CliError(f"FineTuneSweep {name} has no trials yet", exit_code=NOT_MET)
    asking = Asking(
        connect=lambda: cluster, endpoint=endpoint, region=region, hour_price=gpu_hour_price
    )
    from finetune_trainer.experiments.comparison import compare_runs

    chosen = chosen_trial(sweep)
    runs = [
        replace(run, state=f"{run.state}, chosen") if run.name == chosen else run
        for run in read_found([found_on_cluster(job) for job in jobs], asking)
    ]
    show(
        compare_runs(runs),
        format_,
        html,
        title=f"{name}: {len(jobs)} trials",
        first=explain_choice(sweep),
    )


def list_trials(cluster: Cluster, sweep: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the FineTuneJobs that a sweep owns, in the order of their numbers."""
    from finetune_api.names import SWEEP_LABEL

    name, uid = sweep["metadata"]["name"], sweep["metadata"]["uid"]
    jobs = cluster.list_jobs(selector=f"{SWEEP_LABEL}={name}")["items"]
    owned = [
        job
        for job in jobs
        if any(owner.get("uid") == uid for owner in job["metadata"].get("ownerReferences") or ())
    ]
    return sorted(owned, key=lambda job: _number(job["metadata"]["name"]))


def _number(name: str) -> tuple[int, str]:
    """Return a sort key of a trial's name: t10 comes after t9."""
    end = name.rsplit("-t", 1)[-1]
    return (int(end) if end.isdigit() else 0, name)


@with_cluster_options
def promote(
    sweep: SweepName,
    trial: Annotated[str, typer.Argument(help="Name of the trial, or its number.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask again.")] = False,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Choose a trained trial of a sweep yourself.

    It is evaluated, and published if it passes.
    """
    import sys

    from finetune_cli.cluster.promotion import LET_GO, check_trial, describe_choice
    from finetune_cli.views.sweep import find_trial

    cluster = where.connect()
    body = cluster.get_sweep(sweep)
    jobs = list_trials(cluster, body)
    job = find_trial(sweep, trial, jobs)
    if job is None:
        names = ", ".join(each["metadata"]["name"] for each in jobs) or "none yet"
        raise CliError(f"FineTuneSweep {sweep} has no trial {trial}; its trials: {names}")
    check_trial(sweep, job)
    print("\n".join(describe_choice(body, job)), file=sys.stderr)
    name = job["metadata"]["name"]
    if not yes:
        typer.confirm(f"let {name} go on?", abort=True, err=True)
    stored = cluster.patch_job(name, LET_GO)
    print_object(stored, output, f"finetunejob.finetune.dev/{name} goes on to its evaluation")
