"""Free TCP ports that several clusters starting at once cannot hand out twice.

A port is claimed by a file that names the cluster folder; a claim whose cluster folder is gone is
stale. The range lies below the kernel's ephemeral ports, so that no outgoing connection sits on a
port between its choice and the server's bind.
"""

from __future__ import annotations

import os
import random
import socket
from pathlib import Path

from devcluster.errors import HostUnfitError
from devcluster.paths import state_root

FIRST_PORT = 20000
LAST_PORT = 29999


def is_free(port: int, address: str = "127.0.0.1") -> bool:
    """Whether a server could bind `port` on `address` right now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # Servers written in Go set this too: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address, port))
        except OSError:
            return False
    return True


class PortClaims:
    """Claims of one cluster in the shared claims folder."""

    def __init__(self, cluster: Path, folder: Path | None = None) -> None:
        self._cluster = cluster
        self._folder = folder or state_root() / "ports"

    def claim(self, *, preferred: int | None = None, address: str = "127.0.0.1") -> int:
        """Claim a free port: `preferred` if it can be had, else a random one of the range.

        Raises:
            HostUnfitError: no port of the range is free.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        candidates = random.sample(range(FIRST_PORT, LAST_PORT + 1), 512)
        for port in [*([preferred] if preferred else []), *candidates]:
            if self._take(port):
                if is_free(port, address):
                    return port
                (self._folder / str(port)).unlink(missing_ok=True)
        raise HostUnfitError(
            f"no free TCP port on {address} between {FIRST_PORT} and {LAST_PORT}: "
            "stop what listens there, or run `python -m devcluster down --all`"
        )

    def release(self) -> None:
        """Give back every port of this cluster."""
        if not self._folder.is_dir():
            return
        for claim in self._folder.iterdir():
            if _owner(claim) == self._cluster:
                claim.unlink(missing_ok=True)

    def _take(self, port: int) -> bool:
        claim = self._folder / str(port)
        owner = _owner(claim)
        if owner is not None and owner != self._cluster and not owner.exists():
            claim.unlink(missing_ok=True)
        # The content must be there the moment the name is: write aside, then link exclusively.
        aside = self._folder / f".{port}.{os.getpid()}.{random.getrandbits(32):08x}"
        aside.write_text(str(self._cluster))
        try:
            os.link(aside, claim)
        except FileExistsError:
            return False
        finally:
            aside.unlink()
        return True


def _owner(claim: Path) -> Path | None:
    try:
        return Path(claim.read_text().strip())
    except OSError:
        return None
