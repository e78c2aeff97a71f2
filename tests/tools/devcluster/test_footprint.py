"""A node's removal leaves the host as it was: after `down`, after a crash, after half a start.

Runs before the tests that share a node (by file name): a host has room for one.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster import host
from devcluster.node import network
from devcluster.node.node import FIXED_FOLDERS
from devcluster.node.removal import cgroup_pids
from devcluster.paths import cluster_dir, repository_root, state_root
from devcluster.process import marked_processes, start_ticks
from devcluster.starting import start_node
from devcluster.state import load_state
from devcluster.teardown import remove_cluster, remove_orphans
from kit.processes.eventually import eventually, patient

pytestmark = pytest.mark.slow

OWN_FOLDERS = ("/run/ft-devcluster", "/var/lib/ft-devcluster")


def host_footprint() -> dict[str, object]:
    """All that a node changes on a host, comparable."""

    def output(*argv: str) -> list[str]:
        return host.run(argv).stdout.splitlines()

    rules = [
        line
        for save in ("iptables-save", "ip6tables-save")
        for line in output(save)
        # built-in chains and their counters come with the first look at a table
        if not line.startswith((":PREROUTING", ":INPUT", ":FORWARD", ":OUTPUT", ":POSTROUTING"))
        and line[:1] not in "#*"
        and line != "COMMIT"
    ]
    # Of cgroup v2, and of each hierarchy of v1.
    groups = [
        group
        for pattern in ("finetune-devcluster*", "*/finetune-devcluster*")
        for group in Path("/sys/fs/cgroup").glob(pattern)
    ]
    mounts = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    return {
        "rules": rules,
        "interfaces": sorted(link["ifname"] for link in json.loads(output("ip", "-j", "link")[0])),
        "mounts": sorted(each for each in mounts if "devcluster" in each),
        "cgroups": sorted(map(str, groups)),
        "sysctls": network.read_sysctls(),
        "folders": [each for each in (*FIXED_FOLDERS, *OWN_FOLDERS) if Path(each).exists()],
    }


@pytest.fixture
def own_node(request):
    """A node of this test alone, and the host as it was before."""
    reason = host.unfit_for_node()
    if reason:
        pytest.skip(reason)
    remove_orphans()
    state = load_state(cluster_dir("node"))
    if state is not None:
        pytest.skip("a node cluster is up; removal is tested on a node of its own: `down` first")
    if any(name.name.startswith("node-") for name in (state_root() / "clusters").glob("*")):
        pytest.skip("another test's node cluster is up")
    host.install_packages(host.NODE_PROGRAMS)
    before = host_footprint()
    node = start_node(owner_pid=os.getpid())
    yield node, before
    remove_cluster(node.name)


def start_sleeping_pod(node) -> list[int]:
    """Start a pod from the one image that is always there; returns its processes."""
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "sleeper"},
        "spec": {
            "containers": [
                {
                    "name": "main",
                    "image": "finetune-devcluster.invalid/pause:1",
                    "imagePullPolicy": "Never",
                }
            ]
        },
    }
    node.kubectl("create", "-f", "-", stdin=json.dumps(pod))
    node.kubectl("wait", "--for=condition=ready", "pod/sleeper", f"--timeout={patient(60)}s")
    pids = [pid for folder in node.state.cgroups for pid in cgroup_pids(Path(folder))]
    assert pids
    return pids


def assert_nothing_is_left(node, before: dict[str, object], pods: list[int]) -> None:
    eventually(lambda: host_footprint() == before, timeout=10)
    assert not marked_processes(node.folder)
    assert not [pid for pid in pods if start_ticks(pid) is not None]
    assert not node.folder.exists()


def assert_still_there(running: dict[str, object]) -> None:
    """The bridge, its rule and the folders; kube-proxy may add and drop rules at any time."""
    now = host_footprint()
    assert now["interfaces"] == running["interfaces"]
    assert now["folders"] == running["folders"]
    assert any(network.RULE_COMMENT in rule for rule in now["rules"])


def test_removal_leaves_the_host_as_it_was(own_node):
    node, before = own_node
    pods = start_sleeping_pod(node)
    assert host_footprint() != before
    remove_cluster(node.name)
    assert_nothing_is_left(node, before, pods)


def test_removal_after_every_process_was_killed_leaves_the_host_as_it_was(own_node):
    node, before = own_node
    pods = start_sleeping_pod(node)
    for record in marked_processes(node.folder):
        os.kill(record.pid, signal.SIGKILL)
    remove_cluster(node.name)
    assert_nothing_is_left(node, before, pods)


def test_a_second_node_is_refused_and_says_how_to_go_on(own_node):
    node, _ = own_node
    running = host_footprint()
    with pytest.raises(host.HostUnfitError, match="down --all"):
        start_node(owner_pid=os.getpid())
    assert node.is_ready()
    assert_still_there(running)


def test_a_node_stopped_halfway_through_its_start_is_removed(own_node):
    node, before = own_node
    remove_cluster(node.name)
    # It belongs to this test run, also if that is killed here.
    start = f"start_node('node-halfway', owner_pid={os.getpid()})"
    starting = subprocess.Popen(
        [sys.executable, "-c", f"from devcluster import start_node; {start}"],
        env={**os.environ, "PYTHONPATH": str(repository_root() / "tools")},
    )
    try:
        containerd = cluster_dir("node-halfway") / "logs" / "containerd.log"
        eventually(containerd.exists, timeout=120)
    finally:
        starting.kill()
        starting.wait()
    assert remove_cluster("node-halfway")
    eventually(lambda: host_footprint() == before, timeout=10)
