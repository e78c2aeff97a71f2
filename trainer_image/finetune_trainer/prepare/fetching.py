"""Fetch the files of a job's sources and benchmarks to the work folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from finetune_api.protocol.trainer import RAW_COPIES
from finetune_api.v1alpha1.spec.dataset import Source
from finetune_trainer.prepare.benchmarks import as_source
from finetune_trainer.prepare.reading.sources import (
    NUM_NAMES_SHOWN,
    SourceFile,
    fetch_source,
    find_skipped,
    locate,
)
from finetune_trainer.prepare.reading.traffic import endpoint_of, fetch_traffic
from finetune_trainer.prepare.report.summary import report_encodings
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import open_patiently


@contextmanager
def removing_raw_copies(workspace: Workspace) -> Iterator[None]:
    """Remove the raw copies after the block, also when it fails."""
    try:
        yield
    finally:
        shutil.rmtree(workspace.folder / RAW_COPIES, ignore_errors=True)


def raw_folder(workspace: Workspace, name: str, *, fresh: bool = False) -> Path:
    """Return a folder for rows as the user wrote them; only the user may look into it."""
    workspace.scratch(RAW_COPIES).chmod(0o700)
    return workspace.scratch(f"{RAW_COPIES}/{name}", fresh=fresh)


def fetch_sources(storage: RunStorage, workspace: Workspace) -> list[list[SourceFile]]:
    """Fetch the files of all sources to the work folder."""
    return _fetch(storage, workspace, storage.job.spec.dataset.sources, "sources")


def fetch_benchmarks(storage: RunStorage, workspace: Workspace) -> list[list[SourceFile]]:
    """Fetch the files of ``dataset.contamination.against`` to the work folder."""
    benchmarks = list(map(as_source, storage.job.spec.dataset.benchmarks))
    return _fetch(storage, workspace, benchmarks, "benchmarks")


def _fetch(
    storage: RunStorage, workspace: Workspace, sources: Sequence[Source], folder_name: str
) -> list[list[SourceFile]]:
    fetched = []
    for index, source in enumerate(sources):
        if source.is_traffic:
            fetched.append([_fetch_traffic(storage, workspace, source, index)])
            continue
        location = locate(source.uri)
        store = open_patiently(location.root, storage.access(source.credentials_ref), storage.say)
        folder = raw_folder(workspace, f"{folder_name}/{index}")
        files = fetch_source(source, store, location, folder)
        num_bytes = sum(file.num_bytes for file in files)
        skipped = find_skipped(location)
        left_out = f"; left out {', '.join(skipped[:NUM_NAMES_SHOWN])}" if skipped else ""
        storage.say(f"read {source.uri}: {len(files)} file(s), {num_bytes:,} bytes{left_out}")
        report_encodings(storage.say, files)
        fetched.append(files)
    return fetched


def _fetch_traffic(
    storage: RunStorage, workspace: Workspace, source: Source, index: int
) -> SourceFile:
    folder = raw_folder(workspace, f"sources/{index}", fresh=True)
    file, words = fetch_traffic(
        source,
        storage.open_traffic(endpoint_of(source)),
        folder,
        objective=storage.job.spec.method.objective,
    )
    storage.say(f"read {source.uri}: {words}")
    return file
