"""What an image build takes over from this host: package mirror, pip settings, certificates, cache.

None of it is in the repository, and none of it stays in an image: files are mounted for the build,
and only paths inside the build are passed as arguments.
"""

from __future__ import annotations

import configparser
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from devcluster.errors import HostUnfitError
from devcluster.host import INSTEAD
from devcluster.paths import cache_root

CERTIFICATES_IN_BUILD = "/run/host-certificates.pem"
_PASSED_ON = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX")
_PIP_FILES = ("/etc/pip.conf", "~/.config/pip/pip.conf", "~/.pip/pip.conf")


def apt_mirror(etc: Path = Path("/etc")) -> tuple[str, str]:
    """This host's Debian mirror and release name.

    Raises:
        HostUnfitError: this host is no Debian.
    """
    text = (etc / "os-release").read_text() if (etc / "os-release").exists() else ""
    release = re.search(r"^VERSION_CODENAME=(\S+)", text, re.MULTILINE)
    if not re.search(r"^ID=debian$", text, re.MULTILINE) or release is None:
        raise HostUnfitError(
            f"base images are made from this host's Debian release, and this is none. {INSTEAD}"
        )
    for uri, suites in _apt_sources(etc / "apt"):
        if release[1] in suites:
            return uri, release[1]
    raise HostUnfitError(f"no apt source below {etc}/apt serves {release[1]}")


def builder_flags(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Flags of ``buildah bud`` that let package installers work as they do on this host."""
    flags = [
        f"--build-arg={name}={environment[name]}"
        for name in _PASSED_ON
        # an address with credentials would stay readable in the image's history
        if environment.get(name) and "@" not in environment[name]
    ]
    if certificates := _certificates(environment):
        flags.append(f"--volume={certificates}:{CERTIFICATES_IN_BUILD}:ro")
        flags += [
            f"--build-arg={name}={CERTIFICATES_IN_BUILD}" for name in ("PIP_CERT", "SSL_CERT_FILE")
        ]
    for path in (Path(each).expanduser() for each in _PIP_FILES):
        if path.is_file():
            flags.append(f"--volume={path}:/etc/pip.conf:ro")
            break
    return [*flags, *_uv_flags(environment)]


def _uv_flags(environment: Mapping[str, str]) -> list[str]:
    """Mount uv with its cache: what ``make setup`` downloaded is not downloaded again."""
    # The last is where `make setup` puts it if there is none.
    places = (Path(sys.executable).parent / "uv", cache_root().parent / "uv" / "bin" / "uv")
    uv = shutil.which("uv") or next((str(each) for each in places if each.exists()), None)
    if uv is None:
        return []
    cache = Path(environment.get("UV_CACHE_DIR") or Path.home() / ".cache" / "uv")
    cache.mkdir(parents=True, exist_ok=True)
    return [f"--volume={uv}:/usr/local/bin/uv:ro", f"--volume={cache}:/root/.cache/uv"]


def _certificates(environment: Mapping[str, str]) -> str | None:
    candidates = [environment.get("PIP_CERT"), environment.get("SSL_CERT_FILE")]
    for path in (Path(each).expanduser() for each in _PIP_FILES):
        if path.is_file():
            parser = configparser.ConfigParser(interpolation=None)
            parser.read(path)
            candidates.append(parser.get("global", "cert", fallback=None))
    return next((each for each in candidates if each and Path(each).is_file()), None)


def _apt_sources(apt: Path) -> Iterator[tuple[str, list[str]]]:
    """URI and suites of every binary source, from both file formats."""
    for path in [*sorted(apt.glob("sources.list.d/*.sources"))]:
        for stanza in re.split(r"\n\s*\n", path.read_text()):
            fields = dict(re.findall(r"^(\w[\w-]*):\s*(.*)$", stanza, re.MULTILINE))
            if "deb" in fields.get("Types", "").split():
                for uri in fields.get("URIs", "").split():
                    yield uri, fields.get("Suites", "").split()
    for path in [apt / "sources.list", *sorted(apt.glob("sources.list.d/*.list"))]:
        for line in path.read_text().splitlines() if path.exists() else []:
            match = re.match(r"deb\s+(?:\[[^\]]*\]\s+)?(\S+)\s+(\S+)", line)
            if match:
                yield match[1], [match[2]]
