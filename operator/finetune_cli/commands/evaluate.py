"""The command ``evaluate``: one step of a run through goal and gates, on a cluster or here."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import (
    JobOrFile,
    print_object,
    with_requester,
)
from finetune_cli.errors import CliError
from finetune_cli.options import JobEndpoint, JobRegion, ObjectFormat, OutputDir, Overrides

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster
    from finetune_cli.files.documents import Document

MAY_GO = (
    "{name} is still at work and may delete the weights of step {step} before the new job has"
    " copied them; then that one fails with OriginNotFound and this one is undisturbed"
)


@with_cluster_options
def evaluate(
    target: JobOrFile,
    step: Annotated[
        int | None, typer.Option(min=1, help="A step that finetune checkpoints lists.")
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option("--from", help="URI of the weights instead, where storage cannot be read."),
    ] = None,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Name of the new job. Default: NAME-step-STEP.")
    ] = None,
    output_dir: OutputDir = None,
    overrides: Overrides = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the new job as YAML; send and run nothing.")
    ] = False,
    approve_data: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Of a file: use this data set only."),
    ] = None,
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Evaluate one step of a run. Publishes it if goal and gates are met.

    Trains nothing: the weights are taken as they are. Of a FineTuneJob it creates a new one; the
    run of a file is evaluated on this machine.
    """
    from finetune_cli.files.documents import names_file

    if (step is None) == (weights is None):
        raise CliError("give --step, as finetune checkpoints lists it, or --from")
    asked = Asked(
        target=target,
        step=step,
        weights=weights,
        overrides=overrides or [],
        endpoint=endpoint,
        region=region,
    )
    if names_file(target):
        if new_name:
            raise CliError(f"--name goes with a FineTuneJob; {target} is a file and keeps its name")
        document = _document_of(asked, where.namespace or "default", output_dir)
        if print_only:
            print_object(document.body, "yaml", "")
        else:
            _run(document, where.namespace or "default", approve_data)
        return
    if output_dir or approve_data:
        raise CliError(f"--output-dir and --approve-data go with a file; {target} is a name")
    _submit(asked, where, new_name, print_only=print_only, output=output)


@dataclass(frozen=True, kw_only=True, slots=True)
class Asked:
    """The weights to evaluate.

    Attributes:
        target: Name of a FineTuneJob, or the file of a job.
        step: The step of its run; None for ``weights``.
        overrides: ``path=value`` texts.
        endpoint: URL of the S3 server; None for the job's.
        region: S3 region; None for the job's.
    """

    target: str
    step: int | None
    weights: str | None
    overrides: list[str]
    endpoint: str | None
    region: str | None


def _object_of(asked: Asked, cluster: Cluster, new_name: str | None) -> dict[str, Any]:
    """Return the FineTuneJob that evaluates a step of another one."""
    from finetune_cli.cluster.retry import choose_name, make_retry, name_of_step

    name, weights = asked.target, asked.weights
    job = cluster.get_job(name)
    if asked.step is not None:
        weights = _find(asked, job)
        new_name = new_name or name_of_step(name, asked.step)
    taken = [each["metadata"]["name"] for each in cluster.list_jobs()["items"]]
    return make_retry(
        job,
        name=choose_name(name, taken, new_name),
        weights=weights,
        trains=False,
        overrides=asked.overrides,
    )


def _find(asked: Asked, job: dict[str, Any]) -> str:
    from finetune_cli.commands.checkpoints import steps_of_object
    from finetune_cli.reports.checkpoints import find_weights
    from finetune_cli.views.state import is_terminal

    assert asked.step is not None
    try:
        steps = steps_of_object(job, asked.endpoint, asked.region)
    except CliError as error:
        raise CliError(
            f"{str(error).rstrip('.')}. Name the weights with --from, for example --from"
            f" .../checkpoints/step-{asked.step}",
            exit_code=error.exit_code,
        ) from error
    found = find_weights(steps, asked.step, of=asked.target)
    if found.stored != "adapter" and not is_terminal(job):
        print(MAY_GO.format(name=asked.target, step=asked.step), file=sys.stderr)
    return found.uri


def _submit(
    asked: Asked,
    where: ClusterOptions,
    new_name: str | None,
    *,
    print_only: bool,
    output: ObjectFormat,
) -> None:
    """Create a job that evaluates the weights of a FineTuneJob, or print it."""
    from finetune_cli.cluster.errors import looking_up

    with looking_up(asked.target):
        cluster = where.connect()
    body = _object_of(asked, cluster, new_name)
    if cluster.get_job(asked.target)["spec"].get("requestedBy"):
        body = with_requester(body, cluster.user_name())
    if print_only:
        print_object(body, "yaml", "")
        return
    stored, _ = cluster.apply_job(body)
    words = f"{stored['metadata']['name']} created, evaluates {stored['spec']['initFrom']['uri']}"
    print_object(stored, output, f"finetunejob.finetune.dev/{words}")


def _document_of(asked: Asked, namespace: str, output_dir: str | None) -> Document:
    """Return the job that evaluates a step of the run of a file."""
    import copy

    from finetune_cli.cluster.retry import take_as_is
    from finetune_cli.commands.checkpoints import steps_of_planned
    from finetune_cli.files.documents import read_single
    from finetune_cli.files.overrides import apply_override
    from finetune_cli.local.job import set_output
    from finetune_cli.local.record import find_run
    from finetune_cli.reports.checkpoints import find_weights

    document, weights = read_single(asked.target), asked.weights
    trained = find_run(
        document,
        namespace=namespace,
        output=output_dir,
        overrides=asked.overrides,
        is_exact=True,
    )
    if asked.step is not None:
        steps = steps_of_planned(trained, asked.endpoint, asked.region)
        weights = find_weights(steps, asked.step, of=asked.target).uri
    assert weights is not None
    body = copy.deepcopy(document.body)
    for override in asked.overrides:
        apply_override(body, override)
    set_output(body["spec"], output_dir, document.folder)
    take_as_is(body["spec"], weights)
    return replace(document, body=body)


def _run(document: Document, namespace: str, approved: str | None) -> None:
    from finetune_cli.commands.running import run_planned
    from finetune_cli.local.job import plan_run

    planned = plan_run(document, namespace=namespace)
    run_planned(planned, approved_data=approved, command=["finetune", *sys.argv[1:]])
