"""Makes a FineTuneJob runnable on this machine: overrides, local paths, identity, work folder."""

from __future__ import annotations

import copy
import os
import secrets
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from finetune_api.protocol.trainer import ResolvedJob, local_uid, resolve_job
from finetune_api.uris import find_uris, replace_uris
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.spec.dataset import TRAFFIC
from finetune_api.v1alpha1.status.traffic import TrafficPlace
from finetune_cli.errors import CliError
from finetune_cli.files.documents import (
    Document,
    parse_document,
)
from finetune_cli.files.overrides import apply_override

DEFAULT_OUTPUT = "out"
"""Folder beside the job file that results go to when the job names no output."""


@dataclass(frozen=True, kw_only=True, slots=True)
class LocalRun:
    """One run on this machine.

    Attributes:
        work_dir: Its scratch folder; the same job always gets the same one.
        needs_approval: Whether its data set needs an approval before training.
    """

    job: ResolvedJob
    work_dir: Path
    needs_approval: bool = False

    @property
    def job_file(self) -> Path:
        """Where the stages read the job from."""
        return self.work_dir / "job.json"

    @property
    def log_dir(self) -> Path:
        """Where the stages' logs go."""
        return self.work_dir / "logs"


def cache_root() -> Path:
    """Return the user's cache folder of this project."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "finetune"


def plan_run(
    document: Document,
    *,
    namespace: str,
    output: str | None = None,
    overrides: list[str] | None = None,
    work_dir: Path | None = None,
    is_fresh: bool = False,
    capture: str | None = None,
) -> LocalRun:
    """Resolve a document to a local run.

    Args:
        document: The job as written.
        namespace: Namespace of the run, unless the job names one.
        output: URI or folder that replaces ``spec.output.uri``.
        overrides: ``path=value`` texts applied to the job first.
        work_dir: Scratch folder; default: one of the run's own in the user's cache.
        is_fresh: Start anew instead of resuming or reusing an earlier run of the same job.
        capture: URI or folder in which the endpoints of its ``traffic://`` sources store answers.

    Raises:
        CliError: The job is invalid, or needs a cluster.
    """
    if not isinstance(document.body, dict):
        parse_document(document)
    body = copy.deepcopy(document.body)
    for override in overrides or []:
        apply_override(body, override)
    spec = body.get("spec")
    if isinstance(spec, dict):
        set_output(spec, output, document.folder)
        replace_uris(spec, lambda uri: absolute_uri(uri, document.folder))
    job = parse_document(replace(document, body=body))
    namespace = job.metadata.namespace or namespace
    uid = local_uid(job, namespace=namespace)
    if is_fresh:
        uid = f"{uid}-{secrets.token_hex(3)}"
    traffic = [] if capture is None else places_of(job, capture)
    resolved = resolve_job(job, namespace=namespace, uid=uid, traffic=traffic)
    return LocalRun(
        job=resolved,
        work_dir=(work_dir or cache_root() / "runs" / uid).absolute(),
        needs_approval=job.spec.dataset.approval == "Required",
    )


def places_of(job: FineTuneJob, capture: str) -> list[TrafficPlace]:
    """Return where each endpoint that the job's sources name stores answers: all in one place.

    Raises:
        CliError: No source names an endpoint.
    """
    sources = [source for source in job.spec.dataset.sources if source.is_traffic]
    if not sources:
        raise CliError(
            "--capture is for sources traffic://ENDPOINT, and the job has none; leave it out, or "
            "name the endpoint in dataset.sources"
        )
    if "://" in capture:
        uri = absolute_uri(capture, Path.cwd())
    else:
        uri = Path(capture).absolute().as_uri()
    names = {source.uri.removeprefix(TRAFFIC) for source in sources}
    return [TrafficPlace(endpoint=name, uri=uri) for name in sorted(names)]


def set_output(spec: dict[str, Any], output: str | None, folder: Path) -> None:
    """Have a job's results go where the command line says; beside its file by default."""
    current = spec.get("output") if isinstance(spec.get("output"), dict) else {}
    if output is None and "output" in spec:
        return
    uri = output or str(folder / DEFAULT_OUTPUT)
    if "://" not in uri:
        uri = f"file://{Path(uri).absolute()}"
    spec["output"] = {**(current or {}), "uri": uri}


def absolute_uri(uri: str, folder: Path) -> str:
    """Resolve ``file://./x`` and ``file://../x`` against a folder; leave other URIs alone.

    Raises:
        CliError: A ``pvc://`` URI, which only a cluster can read.
    """
    if uri.startswith("pvc://"):
        raise CliError(
            f"{uri}: a volume claim exists only on a cluster; to run here name a folder or bucket "
            "in its place (for one run: --set dataset.sources.0.uri=file:///folder), or use "
            "`finetune submit` to run it there"
        )
    path = uri.removeprefix("file://")
    if path == uri or not is_relative(uri):
        return uri
    absolute = Path(os.path.normpath(folder / path))
    return f"file://{absolute}"


def is_relative(uri: str) -> bool:
    """Whether this is a ``file://`` URI with a path relative to the job file."""
    path = uri.removeprefix("file://")
    return path != uri and (path in (".", "..") or path.startswith(("./", "../")))


def find_local_uris(body: dict[str, Any]) -> list[str]:
    """Return the URIs of a valid job that count from its file's folder."""
    return [uri for _, uri in find_uris(body["spec"]) if is_relative(uri)]
