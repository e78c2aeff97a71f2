"""The commands that work on jobs of a cluster; each loads its own code when it runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import Name, print_object, with_requester
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.options import JobEndpoint, JobRegion, ObjectFormat, Overrides, format_option

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster


_KINDS = {
    **dict.fromkeys(("", "job", "jobs", "ftj", "finetunejob", "finetunejobs"), "finetunejob"),
    **dict.fromkeys(("sweep", "sweeps", "fts", "finetunesweep", "finetunesweeps"), "finetunesweep"),
    **dict.fromkeys(
        ("endpoint", "endpoints", "fte", "finetuneendpoint", "finetuneendpoints"),
        "finetuneendpoint",
    ),
    **dict.fromkeys(
        ("schedule", "schedules", "ftsch", "finetuneschedule", "finetuneschedules"),
        "finetuneschedule",
    ),
}
_KIND_WORDS = "write the name of a FineTuneJob, or sweep/NAME, endpoint/NAME or schedule/NAME"


def register(app: typer.Typer) -> None:
    """Add the cluster's commands to the program."""
    for command in (submit, queue, status, logs, retry, cp):
        app.command()(command)


@with_cluster_options
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
    where: ClusterOptions = CURRENT_CONTEXT,
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
    cluster = where.connect(namespace=metadata.get("namespace"))
    body = with_requester(document.body, cluster.user_name()) if name_requester else document.body
    stored, verb = cluster.apply_job(body, is_dry_run=dry_run, force_conflicts=force_conflicts)
    name = stored["metadata"]["name"]
    note = " (dry run)" if dry_run else ""
    print_object(stored, output, f"finetunejob.finetune.dev/{name} {verb}{note}")
    if wait_for_end and not dry_run:
        _wait(cluster, name)


@with_cluster_options
def queue(
    name: Annotated[
        str | None, typer.Argument(help="Name of a LocalQueue. Default: all that jobs name.")
    ] = None,
    all_namespaces: Annotated[
        bool, typer.Option("--all-namespaces", "-A", help="Queues of all namespaces.")
    ] = False,
    output: Annotated[str, format_option("wide")] = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Show who runs and who waits in Kueue's queues, and why.

    With -o wide the reason of each job is explained.
    """
    from finetune_cli.views.layout import current_time
    from finetune_cli.views.queue import LEGEND, STALE, entries, lines, queues_of

    cluster = where.connect()
    jobs = cluster.list_jobs(all_namespaces=all_namespaces)["items"]
    pending, unknown = cluster.list_pending(queues_of(jobs, name))
    found = entries(jobs, pending, name)
    if output == "json":
        print(json.dumps({"items": [entry.to_wire() for entry in found]}, indent=2))
        return
    place = "in any namespace" if all_namespaces else f"in namespace {cluster.namespace}"
    if not found:
        print(f"no FineTuneJob runs or waits in {f'queue {name}' if name else 'a queue'} {place}")
        return
    shown = lines(found, current_time(), is_wide=output == "wide", with_namespace=all_namespaces)
    print("\n".join(shown))
    print(f"\n{LEGEND}", file=sys.stderr)
    if unknown:
        print(STALE.format(why=unknown), file=sys.stderr)


@with_cluster_options
def status(
    target: Annotated[
        str,
        typer.Argument(
            metavar="[KIND/]NAME",
            help="A FineTuneJob, or sweep/NAME, endpoint/NAME, schedule/NAME.",
        ),
    ],
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Show everything about one object. Conditions, scores, trials, versions, cycles, events."""
    from finetune_cli.views import endpoint, job, schedule, sweep
    from finetune_cli.views.layout import current_time

    word, _, name = target.rpartition("/")
    kind = _KINDS.get(word.lower().partition(".")[0])
    if kind is None:
        raise CliError(f"{target}: there is no kind {word}; {_KIND_WORDS}")
    cluster = where.connect()
    now = current_time()
    body = cluster.get(kind, name)
    if kind == "finetunejob":
        lines = job.describe(body, cluster.list_events(name) if output == "text" else [], now)
    else:
        views = {
            "finetunesweep": sweep.describe,
            "finetuneendpoint": endpoint.describe,
            "finetuneschedule": schedule.describe,
        }
        lines = views[kind](body, now)
    print_object(body, output, "\n".join(lines), kind=kind)


@with_cluster_options
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
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Print what the stages of a job say."""
    from finetune_cli.cluster.follow import follow_logs, has_started, print_log

    def write(text: str) -> None:
        print(text, flush=True)

    def note(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    cluster = where.connect()
    if follow:
        follow_logs(cluster, name, stage=stage, is_raw=raw, write=write, note=note)
        return
    cluster.get_job(name)
    pods = [pod for pod in cluster.list_pods(name, stage) if has_started(pod)]
    if not pods:
        raise CliError(f"no pod of {name} has started yet; finetune status {name} says why")
    for pod in pods:
        print_log(cluster, pod, follow=False, tail=tail, is_raw=raw, write=write)


def _wait(cluster: Cluster, name: str) -> None:
    from finetune_cli.cluster.follow import verdict, watch_until
    from finetune_cli.views.state import is_terminal

    shown: list[str] = []

    def show(job: dict[str, Any]) -> None:
        phase = job.get("status", {}).get("phase", "Pending")
        if not shown or shown[-1] != phase:
            shown.append(phase)
            print(phase, flush=True)

    job = watch_until(
        cluster,
        name,
        is_terminal,
        on_change=show,
    )
    is_held, words = verdict(job)
    if not is_held:
        raise CliError(f"FineTuneJob {name}: {words}", exit_code=NOT_MET)
    print(f"finetunejob.finetune.dev/{name}: {words}")


@with_cluster_options
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
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    output: ObjectFormat = "text",
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Begin a failed or pruned job again from what it has trained.

    That is its adapter or its last checkpoint. Writes a new job.
    """
    from finetune_cli.cluster.retry import check_failed, choose_name, find_weights, make_retry
    from finetune_cli.local.verify import make_access

    if fresh and weights:
        raise CliError("--from and --fresh exclude each other")
    cluster = where.connect()
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


@with_cluster_options
def cp(
    name: Name,
    folder: Annotated[Path, typer.Argument(help="Local folder for the adapter.")],
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """Copy a job's adapter to a local folder, checking every byte."""
    from finetune_cli.local.verify import fetch_uri

    job = where.connect().get_job(name)
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
