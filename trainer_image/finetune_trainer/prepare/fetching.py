"""Fetch the files of a job's sources and benchmarks to the work folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

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
from finetune_trainer.prepare.report.summary import report_encodings
from finetune_trainer.storage import open_patiently

if TYPE_CHECKING:
    from finetune_trainer.context import StageContext


@contextmanager
def removing_raw_copies(context: StageContext) -> Iterator[None]:
    """Remove the raw copies after the block, also when it fails."""
    try:
        yield
    finally:
        shutil.rmtree(context.work_dir / RAW_COPIES, ignore_errors=True)


def raw_folder(context: StageContext, name: str, *, fresh: bool = False) -> Path:
    """Return a folder for rows as the user wrote them; only the user may look into it."""
    context.scratch(RAW_COPIES).chmod(0o700)
    return context.scratch(f"{RAW_COPIES}/{name}", fresh=fresh)


def fetch_sources(context: StageContext) -> list[list[SourceFile]]:
    """Fetch the files of all sources to the work folder."""
    return _fetch(context, context.job.spec.dataset.sources, "sources")


def fetch_benchmarks(context: StageContext) -> list[list[SourceFile]]:
    """Fetch the files of ``dataset.contamination.against`` to the work folder."""
    benchmarks = context.job.spec.dataset.benchmarks
    return _fetch(context, list(map(as_source, benchmarks)), "benchmarks")


def _fetch(
    context: StageContext, sources: Sequence[Source], folder_name: str
) -> list[list[SourceFile]]:
    fetched = []
    for index, source in enumerate(sources):
        location = locate(source.uri)
        access = context.access(source.credentials_ref)
        store = open_patiently(location.root, access, context.emit.message)
        folder = raw_folder(context, f"{folder_name}/{index}")
        files = fetch_source(source, store, location, folder)
        num_bytes = sum(file.num_bytes for file in files)
        skipped = find_skipped(location)
        left_out = f"; left out {', '.join(skipped[:NUM_NAMES_SHOWN])}" if skipped else ""
        context.emit.message(
            f"read {source.uri}: {len(files)} file(s), {num_bytes:,} bytes{left_out}"
        )
        report_encodings(context.emit.message, files)
        fetched.append(files)
    return fetched
