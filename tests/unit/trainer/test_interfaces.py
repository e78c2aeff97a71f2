"""Gloo gets one of the interfaces that NCCL would choose."""

from __future__ import annotations

import itertools
import os
import socket
from pathlib import Path

import pytest

from finetune_trainer.errors import RetryableError
from finetune_trainer.train.parent import interfaces
from finetune_trainer.train.parent.interfaces import find_interface, gloo_interface
from finetune_trainer.train.parent.launch import _environment, read_topology

POD = ("lo", "eth0", "net1", "eth10")


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ("eth0", "eth0"),
        ("eth", "eth0"),
        ("net,eth1", "net1"),  # in the kernel's order, as NCCL takes them
        ("=eth1", None),
        ("=eth10,net1", "net1"),
        ("^docker0,lo", "eth0"),
        ("^eth,lo", "net1"),
        ("^=eth0,lo", "net1"),
        ("^=eth1,lo", "eth0"),
        ("^lo,eth,net", None),
        ("^docker0", "eth0"),  # never the loopback, which NCCL would take
        ("ib", None),
    ],
)
def test_names_are_read_as_nccl_reads_them(wanted: str, found: str | None) -> None:
    assert find_interface(wanted, POD) == found


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [(1, "tunl0"), (2, "lo"), (3, "eth9")]
    monkeypatch.setattr(socket, "if_nameindex", lambda: names)
    monkeypatch.setattr(interfaces, "_WAIT_SECONDS", 0.0)
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)


@pytest.mark.usefixtures("loopback")
def test_an_interface_without_address_is_passed_over() -> None:
    """Gloo fails on one; the kernel of this test has no tunl0 and eth9 with an address."""
    assert gloo_interface({"NCCL_SOCKET_IFNAME": "tunl,lo,eth9"}) == "lo"
    with pytest.raises(RetryableError) as ended:
        gloo_interface({"NCCL_SOCKET_IFNAME": "net1"})
    assert ended.value.reason == "InterfaceNotFound"
    assert "'net1' (NCCL_SOCKET_IFNAME" in ended.value.message
    assert "defaultNetworkInterface" in ended.value.message
    assert ended.value.message.endswith("those with an address are lo")


def test_addresses_of_ipv6_count_if_their_scope_is_global(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "if_inet6"
    table.write_text(
        "fd000000000000000000000000000001 05 40 00 80    net6\n"
        "fe800000000000000000000000000001 06 40 20 80    link6\n"
    )
    monkeypatch.setattr(interfaces, "_IPV6_ADDRESSES", table)
    monkeypatch.setattr(socket, "if_nameindex", lambda: [(1, "link6"), (2, "net6")])
    monkeypatch.setattr(interfaces, "_is_running", lambda _: True)
    assert gloo_interface({"NCCL_SOCKET_IFNAME": "link6,net6"}) == "net6"


@pytest.mark.usefixtures("loopback")
def test_an_interface_without_carrier_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(interfaces, "_is_running", lambda name: name != "lo")
    with pytest.raises(RetryableError, match="with an address are none"):
        gloo_interface({"NCCL_SOCKET_IFNAME": "lo"})


@pytest.mark.usefixtures("loopback")
def test_an_address_may_come_late(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = itertools.count()
    monkeypatch.setattr(interfaces, "_WAIT_SECONDS", 30.0)
    monkeypatch.setattr(interfaces.time, "monotonic", lambda: float(next(seconds)))
    monkeypatch.setattr(interfaces.time, "sleep", lambda _: next(seconds))
    has_address = interfaces._has_address
    monkeypatch.setattr(
        interfaces, "_has_address", lambda name: next(seconds) > 10 and has_address(name)
    )
    assert gloo_interface({"NCCL_SOCKET_IFNAME": "lo"}) == "lo"


@pytest.mark.usefixtures("loopback")
@pytest.mark.parametrize(
    ("num_processes", "own", "expected"),
    [(2, None, "lo"), (2, "eth9", "eth9"), (1, None, None)],
)
def test_ranks_get_the_interface_unless_the_job_names_one_or_there_is_one_rank(
    num_processes: int,
    own: str | None,
    expected: str | None,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "=lo")
    if own:
        monkeypatch.setenv("GLOO_SOCKET_IFNAME", own)
    topology = read_topology(1, num_processes)
    environment = _environment(topology, tmp_path, use_gpu=False)
    assert environment.get("GLOO_SOCKET_IFNAME") == expected
    assert environment["NCCL_SOCKET_IFNAME"] == os.environ["NCCL_SOCKET_IFNAME"]


@pytest.mark.usefixtures("loopback")
def test_one_rank_needs_no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NCCL_SOCKET_IFNAME", "net1")
    assert read_topology(1, 1).interface == ""
    with pytest.raises(RetryableError, match="net1"):
        read_topology(2, 1)
