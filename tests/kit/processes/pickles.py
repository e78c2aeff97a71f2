"""Pickles that tell when they are loaded, planted into checkpoints; and a search for pickles."""

from __future__ import annotations

import hashlib
import json
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any


class Opener:
    """Creates a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return open, (str(self.path), "w")


def forge_checkpoint(good: Path, forged: Path, mark: Path, *, renamed: bool) -> None:
    """Copy a stored checkpoint to a later step, its states replaced by pickles.

    Args:
        good: Folder of the checkpoint in storage.
        forged: Folder of the forged one, ``step-<n>``.
        mark: File that a pickle creates when somebody loads it.
        renamed: Whether the pickles bear the names that the training libraries load; otherwise
            they are called safetensors.
    """
    shutil.copytree(good, forged)
    for path in [*forged.rglob("*.safetensors")]:
        if path.name.endswith((".pt.safetensors", ".pth.safetensors")):
            path.write_bytes(pickle.dumps({"state": Opener(mark)}))
            if renamed:
                path.rename(path.with_suffix(""))
    manifest = json.loads((good / "manifest.json").read_text())
    manifest["inputs"]["step"] = forged.name.removeprefix("step-")
    manifest["files"] = [
        {
            "path": path.relative_to(forged).as_posix(),
            "bytes": path.stat().st_size,
            "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
        }
        for path in sorted(forged.rglob("*"))
        if path.is_file() and path.name != "manifest.json"
    ]
    (forged / "manifest.json").write_text(json.dumps(manifest))


def find_pickles(folder: Path) -> list[str]:
    """Return the files below a folder that pickle or torch would unpickle."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file():
            continue
        is_torch = zipfile.is_zipfile(path) and any(
            name.endswith(".pkl") for name in zipfile.ZipFile(path).namelist()
        )
        with path.open("rb") as file:
            is_pickle = file.read(1) == b"\x80"
        if is_torch or is_pickle or path.suffix in (".pt", ".pth", ".bin", ".pkl"):
            found.append(path.relative_to(folder).as_posix())
    return found
