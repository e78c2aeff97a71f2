"""The command ``checkpoints``, for jobs on a cluster and runs on this machine."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from finetune_cli.cluster.options import CURRENT_CONTEXT, ClusterOptions, with_cluster_options
from finetune_cli.commands.objects import JobOrFile
from finetune_cli.errors import CliError
from finetune_cli.options import Format, JobEndpoint, JobRegion, OutputDir, Overrides

if TYPE_CHECKING:
    from finetune_cli.local.job import LocalRun
    from finetune_cli.reports.checkpoints import Step

FROM_STATUS = "{why}; this is what the job's status says, storage may hold more"


@with_cluster_options
def checkpoints(
    target: JobOrFile,
    output_dir: OutputDir = None,
    overrides: Overrides = None,
    format_: Format = "text",
    endpoint: JobEndpoint = None,
    region: JobRegion = None,
    where: ClusterOptions = CURRENT_CONTEXT,
) -> None:
    """List the steps of a run. Shows losses, what is stored and where, and the choice.

    Storage is read with your own credentials; else the job's status is shown.
    """
    from finetune_cli.files.documents import names_file
    from finetune_cli.reports.checkpoints import COLUMNS, rows_of
    from finetune_cli.views.layout import table

    if names_file(target):
        steps = _steps_of_file(target, output_dir, overrides, where.namespace, endpoint, region)
    else:
        if output_dir or overrides:
            raise CliError(f"--output-dir and --set go with the file of a job; {target} is a name")
        steps = _steps_of_job(target, where, endpoint, region)
    if format_ == "json":
        print(json.dumps({"items": [step.to_wire() for step in steps]}, indent=2))
    elif steps:
        print("\n".join(table(rows_of(steps), COLUMNS)))
    else:
        print(f"{target} has no checkpoint and no validation yet")


def _steps_of_file(
    file: str,
    output_dir: str | None,
    overrides: list[str] | None,
    namespace: str | None,
    endpoint: str | None,
    region: str | None,
) -> list[Step]:
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.record import find_run

    planned = find_run(
        read_single(file), namespace=namespace, output=output_dir, overrides=overrides
    )
    return steps_of_planned(planned, endpoint, region)


def steps_of_planned(planned: LocalRun, endpoint: str | None, region: str | None) -> list[Step]:
    """Return the steps of a run on this machine.

    Raises:
        CliError: Its storage cannot be read.
    """
    from finetune_cli.local.verify import make_access
    from finetune_cli.reports.checkpoints import read_run

    job = planned.job
    return read_run(
        job.spec.output.uri,
        job.run_prefix,
        make_access(endpoint or job.spec.s3.endpoint, region or job.spec.s3.region),
        versions=job.versions_prefix,
        uid=job.uid,
    )


def _steps_of_job(
    name: str,
    where: ClusterOptions,
    endpoint: str | None,
    region: str | None,
) -> list[Step]:
    from finetune_cli.cluster.errors import looking_up
    from finetune_cli.reports.checkpoints import steps_of_status

    with looking_up(name):
        cluster = where.connect()
    job = cluster.get_job(name)
    try:
        return steps_of_object(job, endpoint, region)
    except CliError as error:
        known = steps_of_status(job)
        if not known:
            raise
        print(FROM_STATUS.format(why=str(error).rstrip(".")), file=sys.stderr)
        return known


def steps_of_object(job: Mapping[str, Any], endpoint: str | None, region: str | None) -> list[Step]:
    """Return the steps of a FineTuneJob's run.

    Raises:
        CliError: Its storage cannot be read from here.
    """
    from finetune_api.names import published_name
    from finetune_cli.local.verify import make_access
    from finetune_cli.reports.checkpoints import read_run

    metadata, s3 = job["metadata"], job["spec"].get("s3", {})
    home = f"{metadata['namespace']}/{metadata['name']}"
    return read_run(
        job["spec"]["output"]["uri"],
        f"runs/{home}/{metadata['uid']}",
        make_access(endpoint or s3.get("endpoint"), region or s3.get("region")),
        versions=f"versions/{metadata['namespace']}/{published_name(job)}",
        uid=metadata["uid"],
    )
