"""Finds the network interface of Gloo, which takes only exact names of interfaces with an address.

NCCL chooses interfaces by prefixes and exclusions.
"""

from __future__ import annotations

import fcntl
import socket
import struct
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from finetune_api.v1alpha1.spec.resources import INTERFACE_VARIABLE
from finetune_trainer.errors import UserError

_GLOO_VARIABLE = "GLOO_SOCKET_IFNAME"
_SIOCGIFADDR = 0x8915
_IPV6_ADDRESSES = Path("/proc/net/if_inet6")
_GLOBAL_SCOPE = "00"


def gloo_interface(environment: Mapping[str, str]) -> str:
    """Return the interface that Gloo gets, so that it uses one of NCCL's.

    Empty if NCCL's are not set, or if Gloo's are.

    Raises:
        UserError: ``InterfaceNotFound``: this pod has none of them.
    """
    wanted = environment.get(INTERFACE_VARIABLE, "")
    if not wanted or environment.get(_GLOO_VARIABLE):
        return ""
    names = [name for _, name in socket.if_nameindex()]
    usable = [name for name in names if _has_address(name)]
    found = find_interface(wanted, usable)
    if found is None:
        raise UserError(
            "InterfaceNotFound",
            f"no network interface of this pod is one of {wanted!r} (resources.network.interface, "
            f"{INTERFACE_VARIABLE}); those with an address are {', '.join(usable) or 'none'}",
        )
    return found


def find_interface(wanted: str, names: Sequence[str]) -> str | None:
    """Return the first of these interfaces that NCCL would choose, or None.

    Args:
        wanted: Prefixes with commas; exact names after ``=``; after ``^``, those that are left out.
        names: Interfaces in the order of the kernel.
    """
    is_excluding = wanted.startswith("^")
    listed = wanted.removeprefix("^")
    is_exact = listed.startswith("=")
    parts = tuple(part for part in listed.removeprefix("=").split(",") if part)
    for name in names:
        is_listed = name in parts if is_exact else name.startswith(parts)
        if is_listed != is_excluding:
            return name
    return None


def _has_address(name: str) -> bool:
    """Return whether an interface has an IPv4 address, or an IPv6 address of global scope."""
    request = struct.pack("256s", name.encode())
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as channel:
        fcntl.ioctl(channel, _SIOCGIFADDR, request)
        return True
    with suppress(OSError):
        rows = [line.split() for line in _IPV6_ADDRESSES.read_text().splitlines()]
        return any(row[3] == _GLOBAL_SCOPE and row[5] == name for row in rows)
    return False
