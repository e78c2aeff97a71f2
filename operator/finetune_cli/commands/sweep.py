"""``finetune sweep`` and ``finetune promote``: trials side by side, and the choice of one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import print_object
from finetune_cli.commands.report import COMPARE_MODULES, show
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import Commands, Format, JobEndpoint, JobRegion, ObjectFormat

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster

sweep_app = typer.Typer(
    name="sweep",
    cls=Commands,
    help="Trials of a FineTuneSweep side by side.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

SweepName = Annotated[str, typer.Argument(help="Name of the FineTuneSweep.")]


@sweep_app.command()
@with_cluster_options
def report(
    name: SweepName,
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

    require_trainer(COMPARE_MODULES, to="comparing runs")
    cluster = where.connect()
    sweep = cluster.get("finetunesweep", name)
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
    show(compare_runs(runs), format_, first=explain_choice(sweep))


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
    body = cluster.get("finetunesweep", sweep)
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
    stored = cluster.patch("finetunejob", name, LET_GO)
    print_object(stored, output, f"finetunejob.finetune.dev/{name} goes on to its evaluation")
