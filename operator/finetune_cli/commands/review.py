"""``finetune review``: people compare the answers of base and tuned model, not knowing which is."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.errors import CliError
from finetune_cli.options import Commands, Format, JobEndpoint, JobRegion

if TYPE_CHECKING:
    from finetune_cli.reports.reviews import Panel, Source

review_app = typer.Typer(
    name="review",
    cls=Commands,
    help="Judge answers without knowing the model, and count verdicts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Target = Annotated[
    str,
    typer.Argument(
        help="Folder or URI of a run, a job file that was run here, or a FineTuneJob's name."
    ),
]
Files = Annotated[
    list[Path], typer.Argument(metavar="FILE", help="Files of verdicts, one of each reviewer.")
]
Tool = Literal["argilla"]


def _find(
    target: str,
    where: ClusterOptions,
    endpoint: str | None,
    region: str | None,
) -> Source:
    from finetune_cli.extras import require_trainer

    require_trainer(("finetune_trainer", "jinja2"), to="reading a review")
    return find_anywhere(target, where, endpoint, region)


def find_anywhere(
    target: str,
    where: ClusterOptions,
    endpoint: str | None,
    region: str | None,
    output: str | None = None,
    overrides: list[str] | None = None,
) -> Source:
    """Return the location of an evaluation: of a folder, URI or job file, or of a cluster's job.

    Raises:
        CliError: There is no such job, or it has no evaluation yet.
    """
    from finetune_cli.reports.evaluation import is_job_file, source_of_file
    from finetune_cli.reports.reviews import find_source, is_place

    if is_job_file(target):
        return source_of_file(
            target,
            namespace=where.namespace,
            output=output,
            overrides=overrides,
            endpoint=endpoint,
            region=region,
        )
    if output or overrides:
        raise CliError(f"--output-dir and --set go with the file of a job; {target} is none")
    if is_place(target):
        return find_source(target, None, endpoint=endpoint, region=region)
    from finetune_cli.cluster.errors import looking_up

    with looking_up(target):
        cluster = where.connect()
    return find_source(target, cluster, endpoint=endpoint, region=region)


@review_app.command("open")
@with_cluster_options
def open_(
    target: Target,
    opens: Annotated[
        bool, typer.Option("--open/--no-open", help="Open the page in a browser.")
    ] = True,
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Open the page for reviewers in a browser, and print its path.

    The page is one file that needs no network. Send it to each reviewer.
    """
    from finetune_cli.reports.data import open_page
    from finetune_cli.reports.reviews import find_page

    page = find_page(_find(target, where, endpoint, region))
    print(page)
    if opens and sys.stdout.isatty():
        open_page(page)


@review_app.command()
@with_cluster_options
def submit(
    target: Target,
    files: Files,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before deciding.")] = False,
    format_: Format = "text",
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Count the verdicts of all reviewers. Stores the result in the run's folder.

    Wins, ties and a win rate with its interval; how far reviewers agree (Cohen, Fleiss,
    Krippendorff). Of a job with evaluation.review.required, it then lets the candidate be
    published, under your own name.
    """
    from finetune_cli.extras import require_trainer
    from finetune_cli.reports.reviews import (
        describe_panel,
        open_review,
        read_files,
        store_panel,
        waits_for_review,
    )

    source = _find(target, where, endpoint, region)
    require_trainer(("numpy", "scipy"), to="counting verdicts")
    opened = open_review(source)
    panel = store_panel(source, opened, read_files(opened, files))
    if format_ == "json":
        judged = [each.to_wire() for each in panel.judged]
        print(json.dumps({"digest": panel.digest, "uri": panel.uri, "judged": judged}, indent=1))
    else:
        print(describe_panel(panel))
    if not waits_for_review(source, opened):
        return
    if source.job is None:
        print(f"to publish: finetune publish JOB.yaml --panel {panel.digest}", file=sys.stderr)
        return
    _let_publish(source.job, panel, yes, where)


def _let_publish(
    job: dict[str, Any],
    panel: Panel,
    yes: bool,
    where: ClusterOptions,
) -> None:
    from finetune_cli.cluster.approval import check_counts, make_approval
    from finetune_cli.commands.decisions import decide
    from finetune_cli.reports.reviews import summarize_panel

    cluster = where.connect()
    user = cluster.user_name()
    check_counts(job, user, is_approval=True)
    body = make_approval(
        job=job["metadata"]["name"],
        namespace=cluster.namespace,
        digest=panel.evaluation,
        panel=panel.digest,
        user=user,
        is_approval=True,
        reason=summarize_panel(panel),
        subject="Publication",
    )
    decide(cluster, body, [body["spec"]["reason"]], what="let it be published", yes=yes)


@review_app.command("export")
@with_cluster_options
def export_(
    target: Target,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="FILE", help="Files of verdicts, for preferences."),
    ] = None,
    to: Annotated[
        Literal["preferences", "argilla"], typer.Option(help="What to write.")
    ] = "preferences",
    out: Annotated[
        Path | None,
        typer.Option("--file", help="Where to. Default: preferences.jsonl, argilla.json."),
    ] = None,
    criterion: Annotated[
        str, typer.Option(help="The criterion that decides a preference.")
    ] = "overall",
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Write verdicts as rows for DPO, or questions for Argilla."""
    from finetune_cli.reports.review_exchange import write_preferences, write_tasks

    source = _find(target, where, endpoint, region)
    if to == "preferences":
        if not files:
            raise CliError("preferences come from verdicts: name the reviewers' files")
        words = write_preferences(source, files, out or Path("preferences.jsonl"), criterion)
    else:
        words = write_tasks(source, out or Path("argilla.json"))
    print(words)


@review_app.command("import")
@with_cluster_options
def import_(
    target: Target,
    file: Annotated[Path, typer.Argument(help="What the tool has exported, as JSON.")],
    tool: Annotated[Tool, typer.Option("--from", help="The tool.")] = "argilla",
    folder: Annotated[
        Path, typer.Option("--output-dir", help="Where the files of verdicts go.")
    ] = Path(),
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Turn verdicts of Argilla into files of verdicts.

    There is one file for each person.
    """
    from finetune_cli.reports.review_exchange import read_tool

    source = _find(target, where, endpoint, region)
    for path in read_tool(source, file, folder):
        print(path)
