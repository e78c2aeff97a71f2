"""Finds runs to compare, on this machine or a cluster, and reads what they have left."""

from __future__ import annotations

import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.names import run_uid
from finetune_cli.cluster.client import Cluster
from finetune_cli.cluster.errors import looking_up
from finetune_cli.errors import CliError
from finetune_cli.local.verify import make_access, storage_error
from finetune_cli.reports.reviews import is_place

if TYPE_CHECKING:
    from finetune_trainer.experiments.reading import Documents
    from finetune_trainer.experiments.run import Run
    from finetune_trainer.storage import ObjectStore, StorageAccess

Body = dict[str, Any]

MAX_RUNS = 100
RUN_FILE = "job.json"
BELOW = (f"*/{RUN_FILE}", f"*/*/{RUN_FILE}", f"*/*/*/{RUN_FILE}", f"runs/*/*/*/{RUN_FILE}")
"""Where runs lie below a folder: of a job, of a namespace, of all, of an output."""
_TAIL = re.compile(r"/(evaluation|adapter)(/[\w.-]+)?$|/job\.json$")


@dataclass(frozen=True, kw_only=True)
class Found:
    """A run to compare.

    Attributes:
        job: The FineTuneJob, of a cluster.
        result: Its file of ``finetune run --result``.
    """

    name: str
    uri: str
    job: Body | None = None
    result: Body | None = None


@dataclass(frozen=True, kw_only=True)
class Asking:
    """Access to runs.

    Attributes:
        connect: Connects to the cluster to look up a name.
        namespace: Namespace of the runs of job files.
        output: Where the results of job files are, as ``run --output-dir``.
        hour_price: Price of a GPU hour.
    """

    connect: Callable[[], Cluster]
    namespace: str | None = None
    output: str | None = None
    endpoint: str | None = None
    region: str | None = None
    hour_price: float | None = None
    clusters: list[Cluster] = field(default_factory=list)

    @property
    def cluster(self) -> Cluster:
        """The cluster; one for all names."""
        if not self.clusters:
            self.clusters.append(self.connect())
        return self.clusters[0]


def read_runs(targets: Sequence[str], asking: Asking) -> list[Run]:
    """Return the runs behind names, folders, URIs and files, each under a unique name.

    Raises:
        CliError: One of them is no run, or cannot be read.
    """
    found = [each for target in targets for each in find_runs(target, asking)]
    return read_found(found, asking)


def read_found(found: Sequence[Found], asking: Asking) -> list[Run]:
    """Return runs that were found already.

    Raises:
        CliError: They are too many, or one of them cannot be read.
    """
    unique = list({each.uri: each for each in found}.values())
    if len(unique) > MAX_RUNS:
        raise CliError(f"{len(unique)} runs are too many to compare; name at most {MAX_RUNS}")
    from finetune_trainer.experiments.reading import read_run

    read = [_read(each, asking) for each in unique]
    # A folder may have been copied: the name in the job counts.
    named = [
        str(documents.job.get("name") or each.name)
        for each, (documents, _) in zip(unique, read, strict=True)
    ]
    names = name_apart([(name, each.uri) for name, each in zip(named, unique, strict=True)])
    return [
        read_run(name, documents, place=each.uri, hour_price=asking.hour_price, notes=notes)
        for name, each, (documents, notes) in zip(names, unique, read, strict=True)
    ]


def name_apart(named: Sequence[tuple[str, str]]) -> list[str]:
    """Return unique names: equal names get the end of their UID.

    Args:
        named: Name and folder of each run.
    """
    taken = [name for name, _ in named]
    shown = [
        f"{name}-{uri.rstrip('/').rsplit('/', 1)[-1][-6:]}" if taken.count(name) > 1 else name
        for name, uri in named
    ]
    if len(set(shown)) == len(shown):
        return shown
    return [f"{name}-{place}" for place, name in enumerate(taken, start=1)]


def find_runs(target: str, asking: Asking) -> list[Found]:
    """Return the runs of a name, folder, URI or file; of a folder all runs below it.

    Raises:
        CliError: There is none.
    """
    path = Path(target).expanduser()
    if not is_place(target):
        with looking_up(target):
            return [found_on_cluster(asking.cluster.get_job(target))]
    if "://" in target:
        return [_found_at(target)]
    if not path.exists():
        raise CliError(f"{target}: no such file or folder")
    if path.is_file():
        return [_found_by_file(path, asking)]
    whole = path.absolute()
    if (whole / RUN_FILE).is_file() or _TAIL.search(str(whole)):
        return [_found_at(f"file://{whole}")]
    for pattern in BELOW:
        if files := sorted(whole.glob(pattern)):
            return [_found_at(f"file://{file.parent}") for file in files]
    raise CliError(
        f"{target}: no run lies here: name the folder of a run (it holds {RUN_FILE}), one that "
        "holds several, or the job file that was run"
    )


def found_on_cluster(job: Body) -> Found:
    """Return the run of a FineTuneJob."""
    metadata = job["metadata"]
    run = f"runs/{metadata['namespace']}/{metadata['name']}/{run_uid(job)}"
    root = str(job["spec"].get("output", {}).get("uri", "")).rstrip("/")
    return Found(name=metadata["name"], uri=f"{root}/{run}", job=job)


def _found_at(uri: str) -> Found:
    folder = _TAIL.sub("", uri.rstrip("/"))
    parts = folder.rsplit("/", 2)
    return Found(name=parts[-2] if len(parts) > 2 else parts[-1], uri=folder)


def _found_by_file(path: Path, asking: Asking) -> Found:
    if path.suffix == ".json" and path.name != RUN_FILE:
        result = _read_result(path)
        if result is not None:
            return result
    if _TAIL.search(str(path.absolute())):
        return _found_at(f"file://{path.absolute()}")
    from finetune_cli.files.documents import read_single
    from finetune_cli.local.record import find_run

    planned = find_run(read_single(str(path)), namespace=asking.namespace, output=asking.output)
    job = planned.job
    return Found(name=job.name, uri=f"{job.spec.output.uri.rstrip('/')}/{job.run_prefix}")


def _read_result(path: Path) -> Found | None:
    """Return the run of a file that ``finetune run --result`` wrote; None if it is none."""
    try:
        body = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CliError(f"{path}: no JSON that can be read: {error}") from error
    if not isinstance(body, dict) or "results" not in body:
        return None
    results = body["results"]
    uri = results.get("evaluate", {}).get("reportUri") or results.get("train", {}).get("uri")
    if not uri:
        raise CliError(f"{path}: this run has not trained, there is nothing to compare")
    return Found(name=str(body["name"]), uri=_TAIL.sub("", str(uri)), result=body)


def _read(found: Found, asking: Asking) -> tuple[Documents, list[str]]:
    """Read the files of a run, and return notes on how they were read."""
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.experiments.reading import Documents

    s3 = (found.job or {}).get("spec", {}).get("s3", {})
    access = make_access(asking.endpoint or s3.get("endpoint"), asking.region or s3.get("region"))
    notes: list[str] = []
    try:
        return _read_documents(found, access, notes), notes
    except TrainerError as error:
        if found.job is None:
            raise storage_error(error) from error
        why = f"its files could not be read, so scores have no intervals: {error.message}"
        return Documents(job=found.job, status=_status_of(found.job)), [why]


def _read_documents(found: Found, access: StorageAccess, notes: list[str]) -> Documents:
    """Read the files of a run; of a published one, only those of its manifest.

    Raises:
        CliError: There is no run here.
        TrainerError: Storage cannot be read.
    """
    from finetune_trainer.experiments.reading import Documents
    from finetune_trainer.storage import open_store, read_json

    store = open_store(found.uri, access)
    job = read_json(store, RUN_FILE)
    if job is None and found.job is None:
        raise CliError(
            f"{found.uri} holds no {RUN_FILE}: it is not the folder of a run, or the job has not "
            "been run yet",
        )
    published = _read_published(store)
    samples = _lines(published.get("samples.jsonl", b""))
    if samples and "group" not in samples[0]:
        notes.append(
            "an earlier version evaluated it: each question counts as independent of the others"
        )
    dataset = read_json(store, "dataset.json")
    return Documents(
        job=job or found.job or {},
        dataset=dataset,
        data_report=_read_data_report(dataset, access),
        record=_parsed(published.get("run.json")),
        points=_lines(store.read_bytes("metrics.jsonl") if store.exists("metrics.jsonl") else b""),
        report=_parsed(published.get("report.json")),
        samples=samples,
        validation_score=_parsed(published.get("validation/score.json")),
        validation_samples=_lines(published.get("validation/samples.jsonl", b"")),
        status=_status_of(found.job),
        result=found.result,
    )


def _status_of(job: Body | None) -> Body:
    if job is None:
        return {}
    return {"phase": "Pending", **job.get("status", {})}


def _read_published(store: ObjectStore) -> dict[str, bytes]:
    """Return files of the run's folders, where those are whole; of `validation` with its name."""
    from finetune_trainer.storage import fetch_folder, find_manifest

    found: dict[str, bytes] = {}
    for prefix, names in _FOLDERS.items():
        if find_manifest(store, prefix) is None:
            continue
        with tempfile.TemporaryDirectory() as folder:
            fetch_folder(store, prefix, Path(folder), only=names)
            before = f"{prefix}/" if prefix == "validation" else ""
            found |= {before + path.name: path.read_bytes() for path in Path(folder).iterdir()}
    return found


_FOLDERS = {
    "adapter": {"run.json"},
    "evaluation": {"report.json", "samples.jsonl"},
    "validation": {"score.json", "samples.jsonl"},
}


def _read_data_report(
    dataset: Mapping[str, Any] | None, access: StorageAccess
) -> dict[str, Any] | None:
    """Return the report of the data set; None if it is gone."""
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import open_store, read_json

    if not dataset:
        return None
    try:
        return read_json(open_store(str(dataset["uri"]), access), "report.json")
    except TrainerError:
        return None


def _parsed(content: bytes | None) -> dict[str, Any] | None:
    if content is None:
        return None
    body: dict[str, Any] = json.loads(content)
    return body


def _lines(content: bytes) -> list[dict[str, Any]]:
    return [json.loads(line) for line in content.decode().split("\n") if line.strip()]
