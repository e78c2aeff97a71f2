"""The commands and their options; each loads its own code when it runs.

Imports at the top must be light: ``finetune --help`` answers in under 0.3 s.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from finetune_cli.commandline import Program, print_version
from finetune_cli.commands import cluster as cluster_commands
from finetune_cli.commands import decisions
from finetune_cli.commands.data import data_app
from finetune_cli.commands.endpoint import endpoint_app, monitor
from finetune_cli.commands.feedback import feedback_app
from finetune_cli.commands.report import compare, report
from finetune_cli.commands.review import review_app
from finetune_cli.commands.schedule import schedule_app
from finetune_cli.commands.serve import serve
from finetune_cli.commands.sweep import promote, sweep_app
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET, USER_ERROR
from finetune_cli.options import CapturePlace, Endpoint, Format, OutputDir, Overrides, Region

if TYPE_CHECKING:
    from rich.console import Console

app = typer.Typer(
    name="finetune",
    cls=Program,
    help="Fine-tune open language models: one YAML in, an evaluated, verified adapter out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    # Rich help pages take half of the time that --help may take.
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _console(*, is_stderr: bool = False) -> Console:
    from rich.console import Console

    return Console(stderr=is_stderr)


def _print_version(is_asked: bool) -> None:
    if is_asked:
        print_version()
        raise typer.Exit


@app.callback()
def finetune(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Fine-tune open language models: one YAML in, an evaluated, verified adapter out."""


@app.command()
def init(
    data: Annotated[
        str | None, typer.Option(help="File, folder, pattern or URI of the examples.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="URI or folder of the base model.")] = None,
    output: Annotated[
        str | None,
        typer.Option("--output-dir", metavar="DIR", help="URI or folder for the job's results."),
    ] = None,
    file: Annotated[
        Path, typer.Option("--file", help="The job file to write; - prints it.")
    ] = Path("job.yaml"),
    force: Annotated[bool, typer.Option("--force", help="Overwrite the file.")] = False,
) -> None:
    """Write a commented job file, fitted to your data."""
    from finetune_cli.files.starter import (
        describe_columns,
        describe_guess,
        format_unread,
        write_starter,
    )
    from finetune_cli.local.fitting import fit_starter

    target = Path("job.yaml") if str(file) == "-" else file
    fitted = fit_starter(file=target, data=data, model=model, output=output)
    for warning in fitted.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    if str(file) == "-":
        print(fitted.text, end="")
        return
    write_starter(file, fitted.text, is_forced=force)
    if fitted.guess is not None:
        print(f"{data}: {describe_guess(fitted.guess)}")
        print("".join(f"  {line}\n" for line in describe_columns(fitted.guess)), end="")
    elif data is not None:
        print(format_unread(data, file))
    print(f"wrote {file}; {fitted.next_step(file)}")


@app.command()
def validate(
    files: Annotated[
        list[str],
        typer.Argument(metavar="FILE", help="Files of such objects; - reads standard input."),
    ],
    data: Annotated[
        bool, typer.Option("--data", help="Also read the data and judge it as prepare would.")
    ] = False,
    with_model: Annotated[
        bool,
        typer.Option(
            "--with-model",
            help="With --data: read the tokenizer of a model that is not in a folder here, too.",
        ),
    ] = False,
) -> None:
    """Check objects in files as the API server would.

    They may be jobs, sweeps, endpoints, schedules and approvals.

    Exit code 1 if one is invalid. A file that cannot be read, or is not YAML, makes it 64.
    """
    from finetune_cli.local.validation import judge_file

    if with_model and not data:
        raise CliError("--with-model goes together with --data")
    exit_code, unread = 0, ""
    for file in files:
        for verdict in judge_file(file, with_data=data, with_model=with_model):
            if verdict.is_readable:
                print("\n".join(verdict.lines), flush=True)
                exit_code = exit_code or (0 if verdict.is_valid else NOT_MET)
                unread = verdict.unread or unread
            else:
                print("error: " + "\n".join(verdict.lines), file=sys.stderr, flush=True)
                exit_code = USER_ERROR
    if unread:
        print(unread)
    if exit_code:
        raise typer.Exit(exit_code)


@app.command()
def run(
    file: Annotated[str, typer.Argument(help="The job file; - reads standard input.")],
    output: OutputDir = None,
    namespace: Annotated[
        str, typer.Option("--namespace", "-n", help="Namespace the results are filed under.")
    ] = "default",
    overrides: Overrides = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Start anew instead of resuming or reusing.")
    ] = False,
    until: Annotated[
        str | None,
        typer.Option(metavar="STAGE", help="Stop after prepare, train or evaluate."),
    ] = None,
    format_: Format = "text",
    result_file: Annotated[
        Path | None, typer.Option("--result", help="Also write the result as JSON to this file.")
    ] = None,
    work_dir: Annotated[Path | None, typer.Option(help="Scratch folder of this run.")] = None,
    approve_data: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Train on this data set only: you have looked at it."),
    ] = None,
    capture: CapturePlace = None,
) -> None:
    """Run a job on this machine. Ctrl-C saves; the same command resumes.

    With -o json the result goes to standard output and progress to standard error.
    """
    from finetune_cli.commands.running import run_planned
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.job import plan_run
    from finetune_cli.local.record import note_run

    planned = plan_run(
        read_single(file),
        namespace=namespace,
        output=output,
        overrides=overrides,
        work_dir=work_dir,
        is_fresh=fresh,
        capture=capture,
    )
    note_run(file, planned, namespace=namespace, output=output, overrides=overrides, is_fresh=fresh)
    command = ["finetune", *(part for part in sys.argv[1:] if part != "--fresh")]
    if fresh:
        command += ["--work-dir", str(planned.work_dir)]
    run_planned(
        planned,
        until=until,
        approved_data=approve_data,
        as_json=format_ == "json",
        result_file=result_file,
        command=command,
    )


@app.command()
def plan(
    file: Annotated[str, typer.Argument(help="The job file; - reads standard input.")],
    gpu: Annotated[
        str | None,
        typer.Option(help="Kind of GPU: h100, a100-80, rtx4090 ... Default: what is here, or CPU."),
    ] = None,
    gpu_hour_price: Annotated[
        str | None, typer.Option(metavar="PRICE", help="Price of a GPU for an hour.")
    ] = None,
    rows: Annotated[
        int, typer.Option(min=0, help="Training rows, instead of reading the data.")
    ] = 0,
    tokens: Annotated[int, typer.Option(min=0, help="Their tokens; with --rows.")] = 0,
    longest: Annotated[
        int, typer.Option(min=0, help="Tokens of the longest row. Default: four times the mean.")
    ] = 0,
    overrides: Overrides = None,
    format_: Format = "text",
    work_dir: Annotated[Path | None, typer.Option(help="Scratch folder of this run.")] = None,
) -> None:
    """Say what a job would run, need, take and cost, and why. Trains nothing."""
    import json
    from decimal import Decimal, InvalidOperation

    from finetune_cli.files.documents import read_single
    from finetune_cli.local.job import plan_run
    from finetune_cli.local.plan import PlanOptions, describe, make_plan

    try:
        price = Decimal(gpu_hour_price) if gpu_hour_price is not None else None
    except InvalidOperation as error:
        raise CliError(f"--gpu-hour-price {gpu_hour_price}: write a number, as 2.50") from error
    planned = plan_run(
        read_single(file), namespace="default", overrides=overrides, work_dir=work_dir
    )
    options = PlanOptions(gpu=gpu, hour_price=price, rows=rows, tokens=tokens, longest=longest)
    made = make_plan(planned, options)
    print(json.dumps(made, indent=1) if format_ == "json" else describe(made))


@app.command()
def advise(
    file: Annotated[str, typer.Argument(help="The job file; - reads standard input.")],
    overrides: Overrides = None,
    format_: Format = "text",
    work_dir: Annotated[Path | None, typer.Option(help="Scratch folder of this run.")] = None,
) -> None:
    """Find out whether a good prompt would do instead of training.

    It asks the base model on this machine and trains nothing.

    Exit code 0 if prompting meets the job's goal or it has none, 1 if it does not for certain.
    """
    import json

    from finetune_cli.files.documents import read_single
    from finetune_cli.local.advise import describe, exit_code_of, find_advice
    from finetune_cli.local.job import plan_run

    planned = plan_run(
        read_single(file), namespace="default", overrides=overrides, work_dir=work_dir
    )
    found = find_advice(planned)
    print(json.dumps(found, indent=1) if format_ == "json" else describe(found))
    if code := exit_code_of(found):
        raise typer.Exit(code)


@app.command()
def verify(
    uri: Annotated[str, typer.Argument(help="Folder of an adapter or data set, or a version.")],
    endpoint: Endpoint = None,
    region: Region = None,
    format_: Format = "text",
) -> None:
    """Check a folder or version by its checksums. Exit code 1 if a byte differs."""
    import json

    from finetune_cli.local.verify import verified_table, verify_uri

    verified = verify_uri(uri, endpoint=endpoint, region=region)
    if format_ == "json":
        files = [{"path": f.path, "bytes": f.num_bytes, "sha256": f.sha256} for f in verified.files]
        print(json.dumps({"uri": verified.folder_uri, "digest": verified.digest, "files": files}))
        return
    console = _console()
    console.print(verified_table(verified, width=console.width))
    count = len(verified.files)
    console.print(
        f"verified: {count} file{'s' if count != 1 else ''}, {verified.num_bytes:,} bytes in "
        f"{verified.folder_uri}\nwritten by {verified.created_by}, digest {verified.digest}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )


@app.command()
def chat(
    uri: Annotated[str, typer.Argument(help="Folder of an adapter, or a published version.")],
    prompts: Annotated[
        list[str] | None,
        typer.Option("--prompt", "-p", metavar="TEXT", help="Ask this and leave. May be repeated."),
    ] = None,
    base_model: Annotated[
        str | None, typer.Option(help="URI of the base model. Default: as the run had it.")
    ] = None,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    base: Annotated[bool, typer.Option("--base", help="Ask the base model as well.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run code that ships with the base model.")
    ] = False,
    max_new_tokens: Annotated[
        int, typer.Option(min=1, max=8192, help="Longest answer, in tokens.")
    ] = 256,
    endpoint: Endpoint = None,
    region: Region = None,
    format_: Format = "text",
) -> None:
    """Ask a tuned model. Without --prompt, one question per line of input.

    With -o json each answer is a JSON object on a line of its own.
    """
    from finetune_cli.extras import require_trainer
    from finetune_cli.local.chat import run_chat
    from finetune_cli.local.verify import find_adapter, make_access

    require_trainer()
    as_json = format_ == "json"
    run_chat(
        find_adapter(uri, endpoint=endpoint, region=region),
        make_access(endpoint, region),
        _console(is_stderr=as_json),
        prompts=prompts or [],
        as_json=as_json,
        base_model=base_model,
        trust_remote_code=trust_remote_code,
        system=system,
        with_base=base,
        max_new_tokens=max_new_tokens,
    )


app.command()(serve)
app.command()(compare)
app.command()(report)
app.add_typer(data_app)
app.add_typer(review_app)
cluster_commands.register(app)
decisions.register(app)
app.command()(promote)
app.add_typer(sweep_app)
app.add_typer(endpoint_app)
app.add_typer(schedule_app)
app.add_typer(feedback_app)
app.command()(monitor)
