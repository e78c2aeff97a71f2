"""The parents of a run's nodes meet before any of them starts its ranks.

Pods of one run may start long apart: one waits for a new node, another for its image. Ranks give
up after minutes, and each try costs a restart of all. So the parents wait instead. Node 0 listens
at the rendezvous port. The others connect, name the run and their rank, read that node 0 waits, and
wait for the word to start. A connection that closes counts as a node that left. The port is
free again for the ranks when the meeting ends. A node whose ranks have ended gives a question mark
in place of its rank, to ask whether node 0 has begun anew and waits.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress

from finetune_trainer.errors import RetryableError
from finetune_trainer.train.parent.launch import Topology

MEETING_SECONDS = 3600.0
"""How long a node waits for the others."""
SAY_SECONDS = 300.0
"""How often a waiting node says so."""
RETRY_SECONDS = 1.0
HELLO_SECONDS = 5.0
"""How long a connection may take to name itself; strangers may connect too."""
_START = b"start\n"
_QUESTION = "?"
_WAITING = b"waiting\n"
_MAX_HELLO = 256

Clock = Callable[[], float]


def meet(
    topology: Topology,
    run: str,
    say: Callable[[str], None],
    *,
    is_over: Callable[[], bool],
    seconds: float = MEETING_SECONDS,
    clock: Clock = time.monotonic,
) -> bool:
    """Return True when all nodes of a run are ready to start their ranks.

    Args:
        topology: Place of this node. A run of one node meets nobody.
        run: Name of the run, without blanks; nodes of other runs are turned away.
        say: Told who is missing.
        is_over: Asked by other nodes, while node 0 does not answer, whether it has finished the
            run. They return False then.
        seconds: How long to wait.
        clock: Seconds that have passed.

    Raises:
        RetryableError: ``PeersMissing``: some did not come in time.
    """
    if topology.num_nodes == 1:
        return True
    patience = _Patience(say, seconds, clock)
    if topology.node_rank == 0:
        _receive(topology, run, patience)
        return True
    return _join(topology, run, patience, is_over)


def is_awaited(topology: Topology, run: str) -> bool:
    """Return whether node 0 waits for the others: it has begun anew."""
    with suppress(OSError), _connect(topology) as peer:
        return _say_hello(peer, run, _QUESTION)
    return False


class _Patience:
    """Says who is missing from time to time, and ends the wait."""

    def __init__(self, say: Callable[[str], None], seconds: float, clock: Clock) -> None:
        self._say, self._seconds, self._clock = say, seconds, clock
        self._started = clock()
        self._said_at: float | None = None

    def wait_for(self, whom: str) -> None:
        """Say it if it is time to.

        Raises:
            RetryableError: The time is over.
        """
        now = self._clock()
        minutes = round((now - self._started) / 60)
        if now - self._started >= self._seconds:
            raise RetryableError(
                "PeersMissing",
                f"{whom} did not come within {minutes} minutes; look at the job's pods "
                "(kubectl get pods), and at what keeps theirs from starting or from reaching this "
                "one (NetworkPolicy, DNS)",
            )
        if self._said_at is None or now - self._said_at >= SAY_SECONDS:
            self._said_at = now
            self._say(f"ready to train; waiting for {whom} ({minutes} minutes so far)")


def _receive(topology: Topology, run: str, patience: _Patience) -> None:
    """Wait on node 0 for all others, then tell them to start."""
    expected = range(1, topology.num_nodes)
    peers: dict[int, socket.socket] = {}
    with ExitStack() as sockets:
        server = sockets.enter_context(_listen(topology.port))
        while missing := [rank for rank in expected if rank not in peers]:
            patience.wait_for(f"node {', '.join(map(str, missing))} of {topology.num_nodes}")
            watched = [server, *peers.values()]
            for ready in select.select(watched, [], [], RETRY_SECONDS)[0]:
                if ready is not server:  # a node that waits says nothing: it has left
                    peers = {rank: peer for rank, peer in peers.items() if peer is not ready}
                    ready.close()
                    continue
                peer = sockets.enter_context(server.accept()[0])
                rank = _read_hello(peer, run)
                if rank is None or rank not in expected:
                    peer.close()
                    continue
                if rank in peers:
                    peers[rank].close()  # its pod was replaced
                peers[rank] = peer
        for peer in peers.values():
            with suppress(OSError):  # the ranks miss a node that has left just now
                peer.sendall(_START)


def _join(topology: Topology, run: str, patience: _Patience, is_over: Callable[[], bool]) -> bool:
    """Wait on another node for node 0's word; return False if the run is over instead."""
    while True:
        patience.wait_for(f"node 0 ({topology.host})")
        with suppress(OSError), _connect(topology) as peer:
            _keep_alive(peer)
            # The store of ranks that node 0 still runs would keep the connection, and say nothing.
            if _say_hello(peer, run, str(topology.node_rank)):
                while not select.select([peer], [], [], RETRY_SECONDS)[0]:
                    patience.wait_for("the other nodes")
                if _read_line(peer) == _START:
                    return True
        if is_over():
            return False
        time.sleep(RETRY_SECONDS)


def _connect(topology: Topology) -> socket.socket:
    return socket.create_connection((topology.host, topology.port), timeout=HELLO_SECONDS)


def _listen(port: int) -> socket.socket:
    """Listen on all addresses of this pod, of IPv4 and IPv6 where it has both."""
    if socket.has_dualstack_ipv6():
        with suppress(OSError):
            return socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True)
    return socket.create_server(("", port))


def _read_hello(peer: socket.socket, run: str) -> int | None:
    """Return the rank of the node that connected; None of a stranger or of one that only asks."""
    _keep_alive(peer)
    peer.settimeout(HELLO_SECONDS)
    try:
        name, _, rank = _read_line(peer).decode(errors="replace").strip().partition(" ")
        if name != run or not (rank == _QUESTION or rank.isdecimal()):
            return None
        peer.sendall(_WAITING)
    except OSError:
        return None
    return None if rank == _QUESTION else int(rank)


def _say_hello(peer: socket.socket, run: str, rank: str) -> bool:
    """Return whether this is node 0 of the run, and it waits. Raise ``OSError`` if it is silent."""
    peer.sendall(f"{run} {rank}\n".encode())
    return _read_line(peer) == _WAITING


def _read_line(peer: socket.socket) -> bytes:
    line = b""
    while not line.endswith(b"\n") and len(line) < _MAX_HELLO and (byte := peer.recv(1)):
        line += byte
    return line


def _keep_alive(peer: socket.socket) -> None:
    """Have the kernel notice within a minute that the other node is gone."""
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (
        (socket.TCP_KEEPIDLE, 30),
        (socket.TCP_KEEPINTVL, 10),
        (socket.TCP_KEEPCNT, 3),
    ):
        peer.setsockopt(socket.IPPROTO_TCP, option, value)
