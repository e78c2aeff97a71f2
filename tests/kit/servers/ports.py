"""Ports for servers that a test starts in a moment."""

from __future__ import annotations

import random
import socket
from pathlib import Path

from devcluster import FIRST_PORT, LAST_PORT


def free_port() -> int:
    """Return a port below those that the kernel hands out: a server may bind it only later.

    None of the dev cluster's: an API server that restarts wants the one that it had.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()
    first = int(limits[0])
    ports = [port for port in range(1024, first) if not FIRST_PORT <= port <= LAST_PORT][-5000:]
    random.shuffle(ports)
    for port in ports:
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port below {first}")
