"""Finds the page and the report of a prepared data set, wherever it lies."""

from __future__ import annotations

import hashlib
import json
from contextlib import suppress
from pathlib import Path
from typing import Any

from finetune_cli.errors import CliError
from finetune_cli.exits import STORAGE
from finetune_cli.local.job import cache_root
from finetune_cli.local.verify import make_access, storage_error

PAGE_NAME = "report.html"
REPORT_NAME = "report.json"


def find_page(uri: str, *, endpoint: str | None = None, region: str | None = None) -> Path:
    """Return the local path of the page, or of its verified copy.

    Args:
        uri: Folder of the data set, or of a run that points at one.
        endpoint: URL of the S3 server.
        region: S3 region.

    Raises:
        CliError: There is no prepared data set, or storage cannot be read.
    """
    return fetch_files(uri, [PAGE_NAME], endpoint=endpoint, region=region) / PAGE_NAME


def read_report(uri: str, *, endpoint: str | None = None, region: str | None = None) -> Any:
    """Return the content of ``report.json``.

    Raises:
        CliError: As :func:`find_page`.
    """
    folder = fetch_files(uri, [REPORT_NAME], endpoint=endpoint, region=region)
    return json.loads((folder / REPORT_NAME).read_text(encoding="utf-8"))


def fetch_files(
    uri: str, names: list[str], *, endpoint: str | None = None, region: str | None = None
) -> Path:
    """Fetch files of a data set; remote files are checked against its manifest.

    Returns:
        Their folder: the data set's own if it is local.

    Raises:
        CliError: As :func:`find_page`.
    """
    access = make_access(endpoint, region)
    from finetune_trainer.errors import TrainerError
    from finetune_trainer.storage import (
        fetch_folder,
        is_local,
        local_path,
        open_store,
        read_json,
        read_manifest,
    )

    folder_uri = uri.removesuffix("/manifest.json").removesuffix(f"/{PAGE_NAME}").rstrip("/")
    try:
        store = open_store(folder_uri, access)
        pointer = read_json(store, "dataset.json")
        if pointer is not None:  # the folder of a run
            folder_uri = str(pointer["uri"])
            store = open_store(folder_uri, access)
        held = {file.path for file in read_manifest(store, "").files}
        missing = [name for name in names if name not in held]
        if missing:
            raise CliError(
                f"{folder_uri} holds no {', '.join(missing)}: it is no prepared data set, or an "
                "earlier version made it",
                exit_code=STORAGE,
            )
        if is_local(folder_uri):
            return local_path(folder_uri)
        target = cache_root() / "pages" / hashlib.sha256(folder_uri.encode()).hexdigest()[:16]
        target.mkdir(parents=True, exist_ok=True)
        fetch_folder(store, "", target, only=set(names))
    except TrainerError as error:
        raise storage_error(error) from error
    return target


def open_page(page: Path) -> None:
    """Open a page in the user's browser; nothing happens where there is none."""
    import webbrowser

    with suppress(webbrowser.Error):
        webbrowser.open(page.absolute().as_uri())
