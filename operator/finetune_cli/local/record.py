"""Records the runs of a job file on this machine: ``--set`` makes another run.

A run is filed under a digest of its job. A command with the file alone takes the run of the present
file, else the last run, and prints it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from finetune_cli.local.job import LocalRun, cache_root, plan_run

if TYPE_CHECKING:
    from finetune_cli.files.documents import Document

MAX_RECORDS = 50
"""Runs of one file that are remembered; the last ones."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRecord:
    """One run of a job file.

    Attributes:
        work_dir: Its scratch folder, which holds its job.
        options: Options that changed it, as on the command line.
    """

    uid: str
    work_dir: str
    options: str

    @property
    def words(self) -> str:
        """How the run was made, for people."""
        return f"with {self.options}" if self.options else "before the file was changed"


def note_run(
    file: str,
    run: LocalRun,
    *,
    namespace: str = "default",
    output: str | None = None,
    overrides: list[str] | None = None,
    is_fresh: bool = False,
) -> None:
    """Remember a run of a file; where the cache cannot be written, the run counts more."""
    words = [part for override in overrides or [] for part in ("--set", override)]
    words += ["--output-dir", output] if output else []
    words += ["--namespace", namespace] if namespace != "default" else []
    words += ["--fresh"] if is_fresh else []
    record = RunRecord(uid=run.job.uid, work_dir=str(run.work_dir), options=shlex.join(words))
    kept = [each for each in _read(file) if each.uid != record.uid]
    if (place := _place(file)) is None:
        return
    with suppress(OSError):
        place.parent.mkdir(parents=True, exist_ok=True)
        beside = place.with_suffix(f".{os.getpid()}")
        beside.write_text(json.dumps([asdict(each) for each in [*kept, record][-MAX_RECORDS:]]))
        beside.replace(place)


def find_run(
    document: Document,
    *,
    namespace: str | None = None,
    output: str | None = None,
    overrides: list[str] | None = None,
    is_exact: bool = False,
) -> LocalRun:
    """Return the run of a job file: as it is with these options, else its last one.

    If there are several, it is printed to standard error.

    Args:
        document: The job as written.
        namespace: Namespace of the run.
        output: URI or folder that replaces ``spec.output.uri``.
        overrides: ``path=value`` texts applied to the job first.
        is_exact: Take no other run, for actions that cannot be undone.

    Raises:
        CliError: The job is invalid, or needs a cluster.
    """
    planned = plan_run(
        document, namespace=namespace or "default", output=output, overrides=overrides
    )
    known = _read(document.source)
    if not known:
        return planned
    last, uid = known[-1], planned.job.uid
    same = [each for each in known if each.uid == uid or each.uid.startswith(f"{uid}-")]
    if same or is_exact or namespace or output or overrides or planned.job_file.exists():
        if last not in same[-1:]:
            other = _load(last)
            job = other.job if other else None
            place = f" ({job.spec.output.uri.rstrip('/')}/{job.run_prefix})" if job else ""
            _say(f"{document.source} was last run {last.words}{place}; this is another run of it")
        return (_load(same[-1]) if same else None) or planned
    found = _load(last)
    if found is None:
        return planned
    _say(f"{document.source} was not run as it stands; this is its last run, {last.words}")
    return found


def _say(text: str) -> None:
    print(f"note: {text}", file=sys.stderr)


def _place(file: str) -> Path | None:
    """Return where the runs of a file are listed; None for standard input."""
    if file == "-":
        return None
    name = hashlib.sha256(str(Path(file).resolve()).encode()).hexdigest()[:16]
    return cache_root() / "files" / f"{name}.json"


def _read(file: str) -> list[RunRecord]:
    place = _place(file)
    if place is None:
        return []
    try:
        return [RunRecord(**each) for each in json.loads(place.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def _load(record: RunRecord) -> LocalRun | None:
    """Return a run by the job in its scratch folder; None if that was deleted."""
    from finetune_api.protocol.trainer import ResolvedJob

    work_dir = Path(record.work_dir)
    try:
        job = ResolvedJob.from_json((work_dir / "job.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if job.uid != record.uid:
        return None
    needs_approval = job.spec.dataset.approval == "Required"
    return LocalRun(job=job, work_dir=work_dir, needs_approval=needs_approval)
