"""The commands that record a person's decision; each loads its own code when it runs."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import JobOrFile, Name, print_object
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import ObjectFormat, OutputDir, Overrides

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster


def register(app: typer.Typer) -> None:
    """Add the commands to the program."""
    app.command()(approve)
    app.command()(publish)


@with_cluster_options
def approve(
    name: Name,
    reject: Annotated[
        bool, typer.Option("--reject", help="Say no: the job ends. Needs --reason.")
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, in a sentence.")] = None,
    digest: Annotated[
        str | None, typer.Option(help="The data set you looked at. Default: the job's.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask again.")] = False,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Approve or reject the data set of a job that waits. Under your own name.

    With -o yaml or -o json the decision is printed for Git, and nothing is sent.
    """
    from finetune_cli.cluster.approval import (
        check_counts,
        describe_data,
        find_digest,
        make_approval,
    )

    if reject and not reason:
        raise CliError(
            "--reject needs --reason: it ends the job, and the job's owner sees the reason"
        )
    cluster = where.connect()
    job, user = cluster.find_job(name), cluster.user_name()
    found = find_digest(job, name, digest)
    check_counts(job, user, is_approval=not reject)
    body = make_approval(
        job=name,
        namespace=cluster.namespace,
        digest=found,
        user=user,
        is_approval=not reject,
        reason=reason,
    )
    about = describe_data(job, body["spec"]["digest"])
    decide(
        cluster, body, about, what="reject it" if reject else "approve it", yes=yes, output=output
    )


def decide(
    cluster: Cluster,
    body: dict[str, Any],
    about: list[str],
    *,
    what: str,
    yes: bool,
    output: str = "text",
) -> None:
    """Create a FineTuneApproval after its user has confirmed it, and print it.

    Args:
        cluster: The cluster.
        body: The FineTuneApproval.
        about: Lines on the subject of the decision.
        what: The question to the user.
        yes: Do not ask.
        output: ``json`` and ``yaml`` print the object and send nothing; ``name`` prints its name.
    """
    from finetune_cli.cluster.errors import ApiError

    spec, metadata = body["spec"], body["metadata"]
    if output in ("json", "yaml"):
        print_object(body, output, "")
        return
    print("\n".join(about), file=sys.stderr)
    if not yes:
        typer.confirm(f"{what} as {spec['by']}?", abort=True, err=True)
    try:
        cluster.create_approval(body)
    except ApiError as error:
        if error.status != 409:
            raise
        raise CliError(
            f"{spec['by']} has decided so already: FineTuneApproval {metadata['name']}",
            exit_code=NOT_MET,
        ) from error
    name = f"finetuneapproval.finetune.dev/{metadata['name']}"
    print(name if output == "name" else f"{name} created: {spec['decision'].lower()}")


@with_cluster_options
def publish(
    target: JobOrFile,
    override: Annotated[
        bool,
        typer.Option(
            "--override",
            help="Publish it although it missed, or could not be published. Needs --reason.",
        ),
    ] = False,
    reject: Annotated[
        bool,
        typer.Option("--reject", help="Say no: a job that waits for a decision ends unpublished."),
    ] = False,
    reason: Annotated[str | None, typer.Option(help="Why, in a sentence.")] = None,
    panel: Annotated[
        str | None,
        typer.Option(metavar="DIGEST", help="Of a file: the result of its review, from submit."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask again.")] = False,
    output_dir: OutputDir = None,
    overrides: Overrides = None,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Decide on a candidate that waits, or missed its goal. Who and why goes on record.

    With -o yaml or -o json the decision is printed for Git, and nothing is sent.
    """
    from finetune_cli.files.documents import names_file
    from finetune_cli.local import publication

    if override and not reason:
        raise CliError(publication.NO_REASON)
    if reject and not reason:
        raise CliError("--reject needs --reason: it ends the job, which says why")
    if override and reject:
        raise CliError("--override and --reject exclude each other")
    if names_file(target):
        if reject:
            raise CliError(f"--reject goes with a FineTuneJob; {target} is a file")
        if panel and override:
            raise CliError("--panel and --override exclude each other: a review overrules nothing")
        why = reason if override or panel else None
        _publish_file(target, output_dir, overrides, why, where.namespace, panel)
        return
    if not reason:
        raise CliError(publication.BY_ITSELF)
    _publish_job(
        where.connect(),
        target,
        reason,
        is_override=override,
        is_approval=not reject,
        yes=yes,
        output=output,
    )


def _publish_job(
    cluster: Cluster,
    name: str,
    reason: str,
    *,
    is_override: bool,
    is_approval: bool,
    yes: bool,
    output: ObjectFormat,
) -> None:
    """Decide on the candidate of a FineTuneJob."""
    from finetune_cli.cluster.approval import check_counts, make_approval
    from finetune_cli.local import publication

    job = cluster.get_job(name)
    digest, user = publication.find_evaluation(job), cluster.user_name()
    publication.check_decidable(job, is_override=is_override, is_approval=is_approval)
    check_counts(job, user, is_approval=is_approval)
    body = make_approval(
        job=name,
        namespace=cluster.namespace,
        digest=digest,
        user=user,
        is_approval=is_approval,
        reason=reason,
        subject="Publication",
        attempt=publication.next_attempt(job),
    )
    about = publication.describe_candidate(job)
    what = "publish it" if is_approval else "reject it"
    decide(cluster, body, about, what=what, yes=yes, output=output)


def _publish_file(
    file: str,
    output_dir: str | None,
    overrides: list[str] | None,
    reason: str | None,
    namespace: str | None,
    panel: str | None = None,
) -> None:
    """Publish the candidate of a local run."""
    from rich.console import Console

    from finetune_cli.extras import DATA_MODULES, require_trainer
    from finetune_cli.files.documents import read_single
    from finetune_cli.local import publication
    from finetune_cli.local.publication import publish_locally
    from finetune_cli.local.record import find_run
    from finetune_cli.views.display import make_display

    require_trainer(DATA_MODULES, to="publishing from this machine")
    planned = find_run(
        read_single(file),
        namespace=namespace,
        output=output_dir,
        overrides=overrides,
        is_exact=True,
    )
    display = make_display(Console(stderr=True))
    try:
        found = publish_locally(planned, display, reason=reason, panel=panel)
    finally:
        display.close()
    if found.version is None:
        words = found.missed_words if found.is_missed else publication.UNREVIEWED
        raise CliError(f"nothing is published: {words}", exit_code=NOT_MET)
    print(f"version {found.version}  {found.manifest_uri}")
