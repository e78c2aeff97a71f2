"""Fetch the files of a job's sources and benchmarks to the work folder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from finetune_api.v1alpha1.dataset import Source
from finetune_trainer.prepare.benchmarks import as_source
from finetune_trainer.prepare.reading.sources import SourceFile, fetch_source, locate
from finetune_trainer.prepare.summary import tell_encodings
from finetune_trainer.storage import open_patiently

if TYPE_CHECKING:
    from finetune_trainer.context import StageContext


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
        folder = context.scratch(f"{folder_name}/{index}")
        files = fetch_source(source, store, location, folder)
        num_bytes = sum(file.num_bytes for file in files)
        context.emit.message(f"read {source.uri}: {len(files)} file(s), {num_bytes:,} bytes")
        tell_encodings(context.emit.message, files)
        fetched.append(files)
    return fetched
