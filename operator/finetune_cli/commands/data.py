"""``finetune data``: look at examples before a job runs, prepare them alone, read and compare."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from finetune_cli.options import CapturePlace, Endpoint, Format, OutputDir, Overrides, Region

data_app = typer.Typer(
    name="data",
    help="Look at examples, prepare them, and compare data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@data_app.command()
def inspect(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Data files or URIs; together they are one data set."),
    ],
    model: Annotated[
        str | None,
        typer.Option(help="URI or folder of the base model; only its tokenizer is read."),
    ] = None,
    format_: Format = "text",
) -> None:
    """Say how files would be read, and what would be refused. Needs no job.

    Exit code 1 if the stage prepare would refuse them.
    """
    import json

    from finetune_cli.extras import DATA_MODULES, require_trainer

    require_trainer(DATA_MODULES, to="looking at data")
    from finetune_cli.local.inspection import describe_inspection, exit_code_of, inspect_files

    found = inspect_files(files, model=model)
    print(json.dumps(found, indent=1) if format_ == "json" else describe_inspection(found))
    if code := exit_code_of(found):
        raise typer.Exit(code)


@data_app.command()
def prepare(
    file: Annotated[str, typer.Argument(help="The job file; - reads standard input.")],
    output: OutputDir = None,
    overrides: Overrides = None,
    format_: Format = "text",
    work_dir: Annotated[Path | None, typer.Option(help="Scratch folder of this run.")] = None,
    capture: CapturePlace = None,
) -> None:
    """Prepare a job's data set on this machine, for a later run."""
    from finetune_cli.commands.running import run_planned
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.job import plan_run

    planned = plan_run(
        read_single(file),
        namespace="default",
        output=output,
        overrides=overrides,
        work_dir=work_dir,
        capture=capture,
    )
    run_planned(
        planned,
        until="prepare",
        as_json=format_ == "json",
        command=["finetune", *sys.argv[1:]],
    )


@data_app.command()
def report(
    uri: Annotated[str, typer.Argument(help="Folder of a prepared data set, local or in storage.")],
    prints: Annotated[
        bool, typer.Option("--print", help="Print the report as text instead of opening the page.")
    ] = False,
    opens: Annotated[
        bool,
        typer.Option("--open/--no-open", help="Open the page in a browser."),
    ] = True,
    endpoint: Endpoint = None,
    region: Region = None,
) -> None:
    """Open the page of a prepared data set, and print its path."""
    from finetune_cli.reports.data import find_page, open_page, read_report

    if prints:
        from finetune_cli.local.inspection import describe_stored

        print(describe_stored(read_report(uri, endpoint=endpoint, region=region)))
        return
    page = find_page(uri, endpoint=endpoint, region=region)
    print(page)
    if opens and sys.stdout.isatty():
        open_page(page)


@data_app.command()
def diff(
    before: Annotated[str, typer.Argument(metavar="A", help="A prepared data set or a data file.")],
    after: Annotated[str, typer.Argument(metavar="B", help="The one to compare it with.")],
    endpoint: Endpoint = None,
    region: Region = None,
    format_: Format = "text",
) -> None:
    """Compare the rows, labels and lengths of two data sets.

    Exit code 1 if there is a difference. Rows are named by file and line and never printed.
    """
    import json

    from finetune_cli.extras import DATA_MODULES, require_trainer

    require_trainer(DATA_MODULES, to="comparing data")
    from finetune_cli.reports.data_difference import compare_data, describe_difference

    difference = compare_data(before, after, endpoint=endpoint, region=region)
    if format_ == "json":
        print(json.dumps(difference.to_wire(), indent=1))
    else:
        print(describe_difference(difference))
    if not difference.is_empty:
        raise typer.Exit(1)
