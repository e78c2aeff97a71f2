"""``finetune schedule``: schedules, their history, and a cycle at once."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import print_object
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import Commands, ObjectFormat

if TYPE_CHECKING:
    from finetune_cli.local.runner import RunOutcome
    from finetune_cli.local.serving.schedule import LocalSchedule

schedule_app = typer.Typer(
    name="schedule",
    cls=Commands,
    help="Training that begins by itself, and its last outcome.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

ScheduleName = Annotated[str, typer.Argument(help="Name of the FineTuneSchedule.")]
KIND = "finetuneschedule"


@schedule_app.command()
@with_cluster_options
def trigger(
    name: ScheduleName,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask again.")] = False,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Begin one cycle now, whatever the triggers and the cooldown say. The budget holds."""
    import secrets

    from finetune_api.names import TRIGGER_ANNOTATION
    from finetune_cli.views.schedule import awaits, state_text

    cluster = where.connect()
    schedule = cluster.get(KIND, name)
    active = (schedule.get("status") or {}).get("active") or {}
    if schedule["spec"].get("suspend"):
        raise CliError(
            f"FineTuneSchedule {name} is suspended: set spec.suspend to false first (kubectl"
            f" edit ftsch {name})",
            exit_code=NOT_MET,
        )
    if active or awaits(schedule):
        what = f"cycle {active['job']} is under way" if active else "a cycle is asked for already"
        raise CliError(
            f"FineTuneSchedule {name}: {what}; finetune status schedule/{name} shows its end",
            exit_code=NOT_MET,
        )
    print(
        f"schedule  {cluster.namespace}/{name}\nnow       {state_text(schedule)}", file=sys.stderr
    )
    if not yes:
        typer.confirm(f"begin a cycle of {name}?", abort=True, err=True)
    annotations = {TRIGGER_ANNOTATION: secrets.token_hex(8)}
    stored = cluster.patch(KIND, name, {"metadata": {"annotations": annotations}})
    words = f"{KIND}.finetune.dev/{name} is to begin a cycle"
    print_object(
        stored, output, f"{words}; finetune status schedule/{name} shows its way", kind=KIND
    )


@schedule_app.command()
def run(
    file: Annotated[str, typer.Argument(help="File of a FineTuneSchedule.")],
    capture: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder of finetune serve --capture.")
    ],
    state: Annotated[
        Path | None,
        typer.Option(
            help="Where its history is kept. Default: schedules/NAME.json in that folder."
        ),
    ] = None,
    approve_data: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Train on this data set only: you have looked at it."),
    ] = None,
    output: ObjectFormat = "text",
) -> None:
    """Look at the triggers here, and run the cycle that is due. Ctrl-C saves.

    The same command goes on with a cycle that was stopped. Exit code 1 if the schedule cannot go
    on, or its cycle missed goal or gates; else as of run.
    """
    from finetune_api.meta import SCHEDULE_KIND
    from finetune_cli.extras import require_trainer
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.lock import locked_state
    from finetune_cli.local.serving.schedule import open_schedule

    require_trainer(("finetune_trainer", "numpy", "cronsim"), to="a schedule on this machine")
    document = read_single(file, SCHEDULE_KIND)
    name = str(((document.body or {}).get("metadata") or {}).get("name"))
    place = state or capture / "schedules" / f"{name}.json"
    with locked_state(place):
        now = datetime.now(UTC)
        schedule = open_schedule(document, capture=capture, state=place, now=now, tell=_log)
        _run_cycle(schedule, now, capture, approve_data, output)


def _run_cycle(
    schedule: LocalSchedule, now: datetime, capture: Path, approved: str | None, output: str
) -> None:
    """Run the job of the cycle that is due, and show the schedule after it; else at once."""
    from finetune_cli.commands.running import run_planned
    from finetune_cli.local.job import plan_run
    from finetune_cli.local.record import note_run
    from finetune_cli.views.state import is_true

    def note_end(outcome: RunOutcome) -> None:
        schedule.note_end(outcome, datetime.now(UTC))
        found = outcome.evaluation
        _show(schedule, capture, output, has_passed=found is not None and not found.is_missed)

    job = schedule.look(now)
    if job is None:
        _show(schedule, capture, output, has_passed=False)
        if is_true(schedule.body, "Stalled"):
            raise typer.Exit(NOT_MET)
        return
    has_traffic = "traffic://" in str(job.body["spec"]["dataset"]["sources"])
    planned = plan_run(job, namespace="default", capture=str(capture) if has_traffic else None)
    note_run(job.source, planned)
    command = ["finetune", *sys.argv[1:]]
    run_planned(planned, approved_data=approved, command=command, on_end=note_end)


def _show(schedule: LocalSchedule, capture: Path, output: str, *, has_passed: bool) -> None:
    from finetune_cli.local.serving.schedule import next_step
    from finetune_cli.views.schedule import describe as describe_schedule

    words = describe_schedule(schedule.body, datetime.now(UTC))
    words += next_step(schedule, capture=capture, has_passed=has_passed)
    print_object(schedule.body, output, "\n".join(words), kind=KIND)


def _log(words: str) -> None:
    print(words, file=sys.stderr, flush=True)
