"""Which files are read, by the endings of their names."""

from __future__ import annotations

from pathlib import PurePosixPath

PLAIN_EXTENSIONS = (".txt", ".md")
"""Those without rows of their own; in a folder they count where no file has other endings."""

TEXT_EXTENSIONS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", *PLAIN_EXTENSIONS)
TABLE_EXTENSIONS = (".parquet", ".xlsx")
HEADER_EXTENSIONS = (".csv", ".tsv", ".xlsx")
"""Those whose first row may name the columns."""

SHEET_EXTENSIONS = (".xlsx",)
EXTENSIONS = (*TEXT_EXTENSIONS, *TABLE_EXTENSIONS)
COMPRESSIONS = (".gz", ".zst")
"""Endings that may follow one of a text file: ``rows.jsonl.gz``."""

KNOWN_ENDINGS = f"{', '.join(EXTENSIONS)}, or a text file with {' or '.join(COMPRESSIONS)} after it"


def extension_of(name: str) -> str | None:
    """Return the one of :data:`EXTENSIONS` that decides how a file is read, or None."""
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSIONS:
        inner = PurePosixPath(path.stem).suffix
        return inner if inner in TEXT_EXTENSIONS else None
    return path.suffix if path.suffix in EXTENSIONS else None


def compression_of(name: str) -> str | None:
    """Return which of :data:`COMPRESSIONS` the name ends in, or None."""
    suffix = PurePosixPath(name.lower()).suffix
    return suffix if suffix in COMPRESSIONS else None


def is_plain(name: str) -> bool:
    """Whether the file is plain text or Markdown."""
    return extension_of(name) in PLAIN_EXTENSIONS


def is_text(name: str) -> bool:
    """Whether the file is text, so that it has an encoding."""
    return extension_of(name) in TEXT_EXTENSIONS
