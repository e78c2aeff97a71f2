"""The commands that work on a cluster; each loads its own code when it runs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune_cli.commandline import Timeout
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import ObjectFormat, OutputDir, Overrides, format_option

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster

Context = Annotated[str | None, typer.Option(help="Context of the kubeconfig.")]
Namespace = Annotated[
    str | None, typer.Option("--namespace", "-n", help="Namespace. Default: the context's.")
]
Kubeconfig = Annotated[Path | None, typer.Option(help="Kubeconfig file. Default: KUBECONFIG.")]
Name = Annotated[str, typer.Argument(help="Name of the FineTuneJob.")]
JobOrFile = Annotated[
    str, typer.Argument(help="Name of a FineTuneJob, or the file of a job run on this machine.")
]
Endpoint = Annotated[str | None, typer.Option(help="URL of the S3 server. Default: the job's.")]
Region = Annotated[str | None, typer.Option(help="S3 region. Default: the job's.")]


def register(app: typer.Typer) -> None:
    """Add the cluster's commands to the program."""
    for command in (
        submit, list_, queue, describe, logs, wait, approve, publish, suspend, resume, retry,
        delete, cp,
    ):  # fmt: skip
        app.command(command.__name__.rstrip("_"))(command)


def connect(context: str | None, namespace: str | None, kubeconfig: Path | None) -> Cluster:
    """Connect to the cluster that the options name."""
    from finetune_cli.cluster.client import Cluster

    return Cluster.connect(context=context, namespace=namespace, kubeconfig=kubeconfig)


def print_object(
    body: dict[str, Any], output: str, words: str, *, kind: str = "finetunejob"
) -> None:
    """Print an object as asked, or the words.

    Args:
        body: The object, or a list of such.
        output: ``json``, ``yaml`` or ``name``; else the words are printed.
        words: What a person reads.
        kind: What it is, for its name.
    """
    for item in body.get("items", [body]):
        item.get("metadata", {}).pop("managedFields", None)
    if output == "json":
        print(json.dumps(body, indent=2))
    elif output == "yaml":
        from finetune_cli.files.documents import to_yaml

        print(to_yaml(body), end="")
    elif output == "name":
        for item in body.get("items", [body]):
            print(f"{kind}.finetune.dev/{item['metadata']['name']}")
    else:
        print(words)


def submit(
    file: Annotated[str, typer.Argument(help="The job file; - reads standard input.")],
    wait_for_end: Annotated[bool, typer.Option("--wait", help="Wait for the job's end.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Have the API server check it, and store nothing.")
    ] = False,
    force_conflicts: Annotated[
        bool,
        typer.Option("--force-conflicts", help="Take over fields that kubectl or others have set."),
    ] = False,
    name_requester: Annotated[
        bool,
        typer.Option(
            "--name-requester",
            help="Write your user name, as the cluster knows you, to spec.requestedBy.",
        ),
    ] = False,
    output: ObjectFormat = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Send a job to a cluster. Sending it again changes what may change."""
    from finetune_cli.files.documents import parse_document, read_single
    from finetune_cli.local.job import find_local_uris

    document = read_single(file)
    parse_document(document)
    local = find_local_uris(document.body)
    if local:
        raise CliError(
            f"{file}: {', '.join(local)} lies on this machine, a cluster cannot read it; upload it "
            "and name it as s3://, or run the job here: finetune run"
        )
    metadata = document.body["metadata"]
    cluster = connect(context, namespace or metadata.get("namespace"), kubeconfig)
    body = with_requester(document.body, cluster.user_name()) if name_requester else document.body
    stored, verb = cluster.apply_job(body, is_dry_run=dry_run, force_conflicts=force_conflicts)
    name = stored["metadata"]["name"]
    note = " (dry run)" if dry_run else ""
    print_object(stored, output, f"finetunejob.finetune.dev/{name} {verb}{note}")
    if wait_for_end and not dry_run:
        _wait(cluster, name, "Complete", None)


def with_requester(body: dict[str, Any], user: str) -> dict[str, Any]:
    """Return a job that names who asks for it, and say so: a personal name is never sent silently.

    Raises:
        CliError: It names somebody else.
    """
    named = body["spec"].get("requestedBy")
    if named not in (None, user):
        raise CliError(f"the job is requested by {named}, and the cluster knows you as {user}")
    print(f"requested by {user}", file=sys.stderr)
    return {**body, "spec": {**body["spec"], "requestedBy": user}}


def list_(
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Jobs of all namespaces.")
    ] = False,
    selector: Annotated[str | None, typer.Option("--selector", "-l", help="Labels.")] = None,
    output: Annotated[str, format_option("yaml", "name", "wide")] = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """List jobs and how far they are."""
    from finetune_cli.views.job import COLUMNS, WIDE_COLUMNS, current_time, row

    cluster = connect(context, namespace, kubeconfig)
    found = cluster.list_jobs(all_namespaces=all_namespaces, selector=selector)
    is_wide = output == "wide"
    columns = WIDE_COLUMNS if is_wide else COLUMNS
    rows = [row(job, current_time(), is_wide=is_wide) for job in found["items"]]
    words = list_text(cluster, found, columns, rows, "FineTuneJobs", everywhere=all_namespaces)
    print_object(found, output, words)


def list_text(
    cluster: Cluster,
    found: dict[str, Any],
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    kinds: str,
    *,
    everywhere: bool,
) -> str:
    """Return listed objects as a table, of all namespaces with theirs; or that there are none."""
    from finetune_cli.views.job import table

    if not rows:
        where = "in any namespace" if everywhere else f"in namespace {cluster.namespace}"
        return f"no {kinds} {where}"
    if not everywhere:
        return "\n".join(table(rows, columns))
    spaces = [item["metadata"]["namespace"] for item in found["items"]]
    placed = [[space, *cells] for space, cells in zip(spaces, rows, strict=True)]
    return "\n".join(table(placed, ("NAMESPACE", *columns)))


def queue(
    name: Annotated[
        str | None, typer.Argument(help="Name of a LocalQueue. Default: all that jobs name.")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Queues of all namespaces.")
    ] = False,
    output: Annotated[str, format_option("wide")] = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show who runs and who waits in Kueue's queues, in which place and why.

    With -o wide the reason of each job is told in words.
    """
    from finetune_cli.views.job import current_time
    from finetune_cli.views.queue import LEGEND, STALE, entries, lines, queues_of

    cluster = connect(context, namespace, kubeconfig)
    jobs = cluster.list_jobs(all_namespaces=all_namespaces)["items"]
    pending, unknown = cluster.list_pending(queues_of(jobs, name))
    found = entries(jobs, pending, name)
    if output == "json":
        print(json.dumps({"items": [entry.to_wire() for entry in found]}, indent=2))
        return
    where = "in any namespace" if all_namespaces else f"in namespace {cluster.namespace}"
    if not found:
        print(f"no FineTuneJob runs or waits in {f'queue {name}' if name else 'a queue'} {where}")
        return
    shown = lines(found, current_time(), is_wide=output == "wide", with_namespace=all_namespaces)
    print("\n".join(shown))
    print(f"\n{LEGEND}", file=sys.stderr)
    if unknown:
        print(STALE.format(why=unknown), file=sys.stderr)


def describe(
    name: Name,
    output: ObjectFormat = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Show everything about one job. Conditions, scores, adapter, failure, events."""
    from finetune_cli.views import job as jobview

    cluster = connect(context, namespace, kubeconfig)
    job = cluster.get_job(name)
    events = [] if output != "text" else cluster.list_events(name)
    print_object(job, output, "\n".join(jobview.describe(job, events, jobview.current_time())))


def logs(
    name: Name,
    follow: Annotated[
        bool, typer.Option("--follow", "-f", help="Go on through all stages to the end.")
    ] = False,
    stage: Annotated[
        Literal["prepare", "train", "evaluate", "publish"] | None,
        typer.Option(help="Only this stage."),
    ] = None,
    tail: Annotated[int | None, typer.Option(help="Only the last lines of each pod.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Print the lines as they are.")] = False,
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Print what the stages of a job say."""
    from finetune_cli.cluster.follow import follow_logs, has_started, print_log

    def write(text: str) -> None:
        print(text, flush=True)

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    cluster = connect(context, namespace, kubeconfig)
    if follow:
        follow_logs(cluster, name, stage=stage, is_raw=raw, write=write, note=note)
        return
    cluster.get_job(name)
    pods = [pod for pod in cluster.list_pods(name, stage) if has_started(pod)]
    if not pods:
        raise CliError(f"no pod of {name} has started yet; finetune describe {name} says why")
    for pod in pods:
        print_log(cluster, pod, follow=False, tail=tail, is_raw=raw, write=write)


def wait(
    name: Name,
    wanted: Annotated[
        str, typer.Option("--for", help="Condition to wait for, for example DatasetReady.")
    ] = "Complete",
    timeout: Timeout = None,
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Wait for a job's end. Exit code 1 if it failed, was pruned, or time is up."""
    _wait(connect(context, namespace, kubeconfig), name, wanted, timeout)


def _wait(cluster: Cluster, name: str, wanted: str, timeout_seconds: float | None) -> None:
    from finetune_cli.cluster.follow import verdict, watch_until
    from finetune_cli.views.job import is_terminal, is_true

    shown: list[str] = []

    def show(job: dict[str, Any]) -> None:
        phase = job.get("status", {}).get("phase", "Pending")
        if not shown or shown[-1] != phase:
            shown.append(phase)
            print(phase, flush=True)

    job = watch_until(
        cluster,
        name,
        lambda body: is_true(body, wanted) or is_terminal(body),
        timeout_seconds=timeout_seconds,
        on_change=show,
    )
    is_held, words = verdict(job, wanted)
    if not is_held:
        raise CliError(f"FineTuneJob {name}: {words}", exit_code=NOT_MET)
    print(f"finetunejob.finetune.dev/{name}: {words}")


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
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Approve the data set of a job that waits for it, or reject it. Under your own name.

    With -o yaml or -o json the decision is printed for Git, and nothing is sent.
    """
    from finetune_cli.cluster.approval import (
        check_counts,
        describe_data,
        find_digest,
        make_approval,
    )

    if reject and not reason:
        raise CliError("--reject needs --reason: it ends the job, and whoever made it is told why")
    cluster = connect(context, namespace, kubeconfig)
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
    """Create a FineTuneApproval once its user has seen what it is about, and say so.

    Args:
        cluster: Where to.
        body: The FineTuneApproval.
        about: What is decided on, in lines.
        what: What the user is asked to do.
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
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Decide on a candidate that waits for it, or missed its goal. Who and why goes on record.

    With -o yaml or -o json the decision is printed for Git, and nothing is sent.
    """
    from finetune_cli.cluster.approval import check_counts, make_approval
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
        _publish_file(target, output_dir, overrides, why, namespace, panel)
        return
    if not reason:
        raise CliError(publication.BY_ITSELF)
    cluster = connect(context, namespace, kubeconfig)
    job = cluster.get_job(target)
    digest, user = publication.find_evaluation(job), cluster.user_name()
    publication.check_decidable(job, is_override=override, is_approval=not reject)
    check_counts(job, user, is_approval=not reject)
    body = make_approval(
        job=target,
        namespace=cluster.namespace,
        digest=digest,
        user=user,
        is_approval=not reject,
        reason=reason,
        subject="Publication",
        attempt=publication.next_attempt(job),
    )
    about = publication.describe_candidate(job)
    what = "reject it" if reject else "publish it"
    decide(cluster, body, about, what=what, yes=yes, output=output)


def _publish_file(
    file: str,
    output_dir: str | None,
    overrides: list[str] | None,
    reason: str | None,
    namespace: str | None,
    panel: str | None = None,
) -> None:
    """Publish what a job has left that ran on this machine."""
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


def suspend(
    name: Name,
    output: ObjectFormat = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Hold a job. Running pods save and stop, nothing new starts."""
    cluster = connect(context, namespace, kubeconfig)
    stored = cluster.patch_job(name, {"spec": {"suspend": True}})
    print_object(stored, output, f"finetunejob.finetune.dev/{name} suspended")


def resume(
    name: Name,
    output: ObjectFormat = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Let a held job go on from its last checkpoint."""
    cluster = connect(context, namespace, kubeconfig)
    stored = cluster.patch_job(name, {"spec": {"suspend": False}})
    print_object(stored, output, f"finetunejob.finetune.dev/{name} resumed")


def retry(
    name: Name,
    new_name: Annotated[
        str | None, typer.Option("--name", help="Name of the new job. Default: NAME-2, -3 ...")
    ] = None,
    overrides: Overrides = None,
    weights: Annotated[
        str | None,
        typer.Option("--from", help="What to begin from. Default: what the job has trained."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Take nothing over that the job has trained.")
    ] = False,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the new job as YAML and send nothing.")
    ] = False,
    endpoint: Endpoint = None,
    region: Region = None,
    output: ObjectFormat = "text",
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Begin a failed or pruned job again, from its adapter or last checkpoint. Writes a new job."""
    from finetune_cli.cluster.retry import check_failed, choose_name, find_weights, make_retry
    from finetune_cli.local.verify import make_access

    if fresh and weights:
        raise CliError("--from and --fresh exclude each other")
    cluster = connect(context, namespace, kubeconfig)
    job = cluster.get_job(name)
    check_failed(job)
    if not fresh and weights is None:
        s3 = job["spec"].get("s3", {})
        access = make_access(endpoint or s3.get("endpoint"), region or s3.get("region"))
        weights = find_weights(job, access)
    taken = [each["metadata"]["name"] for each in cluster.list_jobs()["items"]]
    chosen = choose_name(name, taken, new_name)
    body = make_retry(job, name=chosen, weights=weights, overrides=overrides)
    if job["spec"].get("requestedBy"):
        body = with_requester(body, cluster.user_name())
    if print_only:
        print_object(body, "yaml", "")
        return
    stored, _ = cluster.apply_job(body)
    origin = stored["spec"].get("initFrom", {}).get("uri")
    note = f", from {origin}" if origin else ", afresh"
    print_object(
        stored, output, f"finetunejob.finetune.dev/{stored['metadata']['name']} created{note}"
    )


def delete(
    names: Annotated[list[str], typer.Argument(help="Names of FineTuneJobs.")],
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Delete jobs and their pods. Files in object storage stay."""
    cluster = connect(context, namespace, kubeconfig)
    for name in names:
        cluster.delete_job(name)
        print(f"finetunejob.finetune.dev/{name} deleted")


def cp(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Local folder for the adapter.")],
    endpoint: Endpoint = None,
    region: Region = None,
    context: Context = None,
    namespace: Namespace = None,
    kubeconfig: Kubeconfig = None,
) -> None:
    """Copy a job's adapter to a local folder, checking every byte."""
    from finetune_cli.local.verify import fetch_uri

    job = connect(context, namespace, kubeconfig).get_job(name)
    artifact = job.get("status", {}).get("artifact", {})
    # The version, not the run's folder: its model card knows the scores.
    uri = artifact.get("manifestUri") or artifact.get("uri")
    if not uri:
        phase = job.get("status", {}).get("phase", "Pending")
        raise CliError(f"FineTuneJob {name} has published no adapter; it is {phase}")
    s3 = job["spec"].get("s3", {})
    count, num_bytes = fetch_uri(
        uri, folder, endpoint=endpoint or s3.get("endpoint"), region=region or s3.get("region")
    )
    print(f"copied and verified {count} files, {num_bytes:,} bytes: {uri} -> {folder}")
