"""Finds the network interface of Gloo, which takes only exact names of interfaces with an address.

NCCL chooses interfaces by prefixes and exclusions.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from finetune_api.v1alpha1.spec.resources import INTERFACE_VARIABLE
from finetune_trainer.errors import RetryableError

_GLOO_VARIABLE = "GLOO_SOCKET_IFNAME"
_WAIT_SECONDS = 30.0
"""How long an address may come late, as those of DHCP and SLAAC do."""
_SIOCGIFFLAGS = 0x8913
_SIOCGIFADDR = 0x8915
_RUNNING = 0x1 | 0x40
"""Flags of an interface that is up and has a carrier: IFF_UP and IFF_RUNNING."""
_LOOPBACK = "lo"
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_GLOBAL_SCOPE = "00"


def gloo_interface(environment: Mapping[str, str]) -> str:
    """Return the interface that Gloo gets, so that it uses one of NCCL's.

    Empty if NCCL's are not set, or if Gloo's are.

    Raises:
        RetryableError: ``InterfaceNotFound``: this pod has none of them. A pod on another node, or
            after a mend of the operator's settings, may have one.
    """
    wanted = environment.get(INTERFACE_VARIABLE, "")
    if not wanted or environment.get(_GLOO_VARIABLE):
        return ""
    deadline = time.monotonic() + _WAIT_SECONDS
    while (found := find_interface(wanted, usable := _usable_interfaces())) is None:
        if time.monotonic() >= deadline:
            raise RetryableError(
                "InterfaceNotFound",
                f"no network interface of this pod is one of {wanted!r} ({INTERFACE_VARIABLE}: the "
                "job's resources.network.interface or podTemplate.env, or the operator's "
                "defaultNetworkInterface or trainerEnvironment); those with an address are "
                f"{', '.join(usable) or 'none'}",
            )
        time.sleep(1)
    return found


def find_interface(wanted: str, names: Sequence[str]) -> str | None:
    """Return the first of these interfaces that NCCL would choose, or None.

    An exclusion never leaves the loopback: no other node reaches it.

    Args:
        wanted: Prefixes with commas; exact names after ``=``; after ``^``, those that are left out.
        names: Interfaces in the order of the kernel.
    """
    is_excluding = wanted.startswith("^")
    listed = wanted.removeprefix("^")
    is_exact = listed.startswith("=")
    parts = tuple(part for part in listed.removeprefix("=").split(",") if part)
    for name in names:
        if is_excluding and name == _LOOPBACK:
            continue
        is_listed = name in parts if is_exact else name.startswith(parts)
        if is_listed != is_excluding:
            return name
    return None


def _usable_interfaces() -> list[str]:
    """Return the interfaces that are up, have a carrier and an address, in the kernel's order."""
    return [name for _, name in socket.if_nameindex() if _is_running(name) and _has_address(name)]


def _is_running(name: str) -> bool:
    flags: int = struct.unpack_from("H", _ask_kernel(_SIOCGIFFLAGS, name) or bytes(32), 16)[0]
    return flags & _RUNNING == _RUNNING


def _has_address(name: str) -> bool:
    """Return whether an interface has an IPv4 address, or an IPv6 address of global scope."""
    if _ask_kernel(_SIOCGIFADDR, name):
        return True
    with suppress(OSError):
        rows = [line.split() for line in _IPV6_ADDRESSES.read_text().splitlines()]
        return any(row[3] == _GLOBAL_SCOPE and row[5] == name for row in rows)
    return False


def _ask_kernel(request: int, name: str) -> bytes:
    """Return the kernel's ``ifreq`` of an interface, or nothing if it has no answer."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        return fcntl.ioctl(channel, request, struct.pack("256s", name.encode()))
    return b""
