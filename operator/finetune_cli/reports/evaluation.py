"""Finds the report of an evaluation: of a local run, in storage, or of a cluster's job.

Remote files are checked against their manifest and kept in the user's cache, laid out as in
storage, so that links between pages work.
"""

from __future__ import annotations

import hashlib
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_cli.errors import CliError
from finetune_cli.exits import STORAGE
from finetune_cli.local.job import cache_root
from finetune_cli.local.record import find_run
from finetune_cli.local.verify import storage_error
from finetune_cli.reports.reviews import TAILS, Source, find_source

if TYPE_CHECKING:
    from finetune_trainer.storage import ObjectStore

PAGE_NAME = "report.html"
JOB_FILES = (".yaml", ".yml", ".json")
REMOTE = "s3://"
"""What a cluster's storage must be for this machine to read it."""
RUN_DEPTH = 5
"""Parts of the path of an evaluation below its output: ``runs/NAMESPACE/NAME/UID/evaluation``."""


@dataclass(frozen=True, kw_only=True)
class FoundReport:
    """A report on this machine.

    Attributes:
        told: Facts from the cluster that the page lacks: the version, the cost.
    """

    page: Path
    told: list[str]


def is_job_file(target: str) -> bool:
    """Whether this names a job file, and not a folder, a URI or a job on a cluster."""
    is_named_so = target.endswith(JOB_FILES) and not f"/{target}".endswith(TAILS)
    return target == "-" or (is_named_so and "://" not in target)


def source_of_file(
    file: str,
    *,
    namespace: str | None,
    output: str | None,
    overrides: list[str] | None,
    endpoint: str | None,
    region: str | None,
) -> Source:
    """Return the evaluation that ``finetune run`` made for a job file.

    Args:
        file: The job file.
        namespace: Namespace of the run, unless the file names one.
        output: URI or folder that replaces ``spec.output.uri``.
        overrides: ``path=value`` texts applied to the job first.
        endpoint: URL of the S3 server.
        region: S3 region.

    Raises:
        CliError: The job is invalid, or needs a cluster.
    """
    from finetune_cli.files.documents import read_single

    found = find_run(read_single(file), namespace=namespace, output=output, overrides=overrides)
    job = found.job
    uri = f"{job.spec.output.uri.rstrip('/')}/{job.run_prefix}"
    s3 = job.spec.s3
    return find_source(
        uri,
        None,
        endpoint=endpoint or (s3.endpoint if s3 else None),
        region=region or (s3.region if s3 else None),
    )


def find_report(source: Source, *, target: str) -> FoundReport:
    """Return the path of the page, or of its verified copy.

    Args:
        source: The evaluation.
        target: The user's name for it, for messages.

    Raises:
        CliError: There is no evaluation, or storage cannot be read from here.
    """
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import is_local, open_store, read_manifest

    if source.job is not None and not source.uri.startswith(REMOTE):
        raise CliError(
            f"the report of {target} lies in a volume of the cluster, {source.uri}/{PAGE_NAME}: "
            "mount that in a pod and copy it from there (kubectl cp)"
        )
    try:
        store = open_store(source.uri, source.access)
        held = {file.path for file in read_manifest(store, "").files}
        if PAGE_NAME not in held:
            raise CliError(f"{source.uri} holds no {PAGE_NAME}", exit_code=STORAGE)
        page = _verified(source.uri, store) if is_local(source.uri) else _fetch(source, store)
    except TrainerError as error:
        raise CliError(
            f"{error.message.rstrip('.')}; the report of {target} would be {source.uri}/{PAGE_NAME}"
            f"{_hint(source)}",
            exit_code=storage_error(error).exit_code,
        ) from error
    return FoundReport(page=page / PAGE_NAME, told=_tell(source.job))


def _verified(uri: str, store: ObjectStore) -> Path:
    """Return a folder of this machine once its page is what its manifest says."""
    from finetune_trainer.storage import fetch_folder, local_path

    with tempfile.TemporaryDirectory() as copy:
        fetch_folder(store, "", Path(copy), only={PAGE_NAME})
    return local_path(uri)


def _hint(source: Source) -> str:
    if source.job is None:
        return ": give the --set and --output-dir of its run, or name the folder of its run"
    return (
        ": it is read with this machine's credentials (AWS_ACCESS_KEY_ID and its like), not with "
        "the Secret of the job"
    )


def _fetch(source: Source, store: ObjectStore) -> Path:
    """Fetch the page, and its data set's where that can be had; returns the folder of the page."""
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import fetch_folder, open_store, read_json

    root, below = _split(source.uri)
    cache = cache_root() / "pages" / hashlib.sha256(root.encode()).hexdigest()[:16]
    folder = cache / below
    folder.mkdir(parents=True, exist_ok=True)
    fetch_folder(store, "", folder, only={PAGE_NAME})
    try:
        pointer = read_json(open_store(source.run_uri, source.access), "dataset.json") or {}
        if pointer and below != "evaluation":
            data = cache / str(pointer["prefix"])
            data.mkdir(parents=True, exist_ok=True)
            fetch_folder(open_store(str(pointer["uri"]), source.access), "", data, only={PAGE_NAME})
    except TrainerError:
        pass  # the page names the command that opens its data set's report
    return folder


def _split(uri: str) -> tuple[str, str]:
    """Return the output of a run and the evaluation's path below it; else its parent folder."""
    parts = uri.rsplit("/", RUN_DEPTH)
    if len(parts) == RUN_DEPTH + 1 and parts[1] == "runs":
        return parts[0], "/".join(parts[1:])
    return uri.rsplit("/", 1)[0], "evaluation"


def _tell(job: dict[str, Any] | None) -> list[str]:
    if job is None:
        return []
    status = job.get("status", {})
    told = [f"phase    {status.get('phase', 'Pending')}"]
    version = status.get("artifact", {}).get("version")
    if version is not None:
        told.append(f"version  {version}")
    cost = status.get("cost", {})
    if cost:
        amount = f", {cost['amount']} at the operator's price"
        told.append(f"cost     {cost['gpuHours']} GPU hours{amount if 'amount' in cost else ''}")
    return told
