"""Undo what a node did to the host, in an order that works after any crash."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from pathlib import Path

from devcluster import process
from devcluster.host import run
from devcluster.node import network
from devcluster.node.runtime import Runtime, remove_containers, runtime_of
from devcluster.paths import cluster_dir
from devcluster.state import ClusterState

# These would start, or re-create, what is being removed.
_FIRST = re.compile(r"kubelet(-.+)?|kube-(proxy|controller-manager|scheduler)")


def remove_node_parts(state: ClusterState) -> None:
    """Remove containers, mounts, network, rules, control groups and kernel settings of a node."""
    if not state.interfaces:
        return  # it was refused before it made anything: what is there is another's
    same_boot = state.boot == process.boot_id()
    runtime = runtime_of(state.name)
    if same_boot:
        for record in state.processes:
            if _FIRST.fullmatch(record.name):
                process.stop(record, grace_seconds=0)
        process.kill_all(pid for folder in state.cgroups for pid in cgroup_pids(Path(folder)))
        _stop_runtime(state, runtime)
    unmount_below([cluster_dir(state.name), *map(Path, state.folders), runtime.root])
    if same_boot:
        network.remove_bridge()
        remove_rules(state.chain_prefixes)
        for folder in state.cgroups:
            remove_cgroup(Path(folder))
        for name, value in state.sysctls.items():
            network.write_sysctl(name, value)
    _remove_host_files(state)


def cgroup_pids(folder: Path) -> list[int]:
    """All processes in a control group and below."""
    pids: list[int] = []
    for path in folder.rglob("cgroup.procs") if folder.is_dir() else []:
        with contextlib.suppress(OSError):
            pids.extend(int(line) for line in path.read_text().split())
    return pids


def remove_cgroup(folder: Path) -> None:
    """Remove a control group and its children; they empty a moment after their processes die."""
    deadline = time.monotonic() + process.KILL_PATIENCE_SECONDS
    while folder.is_dir():
        for each, _, _ in os.walk(folder, topdown=False):
            with contextlib.suppress(OSError):
                Path(each).rmdir()
        if time.monotonic() > deadline:
            return
        time.sleep(process.POLL_SECONDS)


def unmount_below(folders: list[Path]) -> None:
    """Unmount everything mounted at or below `folders`, innermost first."""
    mounted = [
        # mountinfo writes a blank as \040
        re.sub(r"\\(\d{3})", lambda match: chr(int(match[1], 8)), line.split()[4])
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
    ]
    for point in reversed(mounted):
        if any(Path(point).is_relative_to(folder) for folder in folders):
            done = run(["umount", point], check=False)
            if done.returncode != 0:
                run(["umount", "--lazy", point], check=False)


def remove_rules(prefixes: list[str]) -> None:
    """Remove the packet-filter chains of kube-proxy, the kubelet and CNI, by their prefixes."""
    for save, restore in (
        ("iptables-save", "iptables-restore"),
        ("ip6tables-save", "ip6tables-restore"),
    ):
        if not shutil.which(save):
            continue
        saved = run([save], check=False).stdout
        kept = without_cluster_rules(saved, prefixes)
        if kept != saved:
            # It replaces whole tables: the chains it is not told of are gone.
            run([restore], check=False, stdin=kept)


def without_cluster_rules(saved: str, prefixes: list[str]) -> str:
    """The text of ``iptables-save`` without a cluster's chains.

    Args:
        saved: What ``iptables-save`` printed.
        prefixes: Prefixes of the chains to drop, with all rules in them and jumps to them.
    """
    names = "|".join(map(re.escape, prefixes)) or "(?!)"
    chain = re.compile(rf"(^:|^-A |\s-[jg] )({names})")
    comment = f"--comment {network.RULE_COMMENT} "
    return "".join(
        line
        for line in saved.splitlines(keepends=True)
        if not chain.search(line) and comment not in line
    )


def _stop_runtime(state: ClusterState, runtime: Runtime) -> None:
    for record in state.processes:
        if record.name == "containerd" and process.is_alive(record):
            # While it still answers: forget the containers, keep the images.
            with contextlib.suppress(Exception):
                names = runtime.ctr("containers", "list", "--quiet", check=False).split()
                remove_containers(runtime, names)
            process.stop(record, grace_seconds=5)
        elif record.name.startswith("containerd-"):  # of a further node: its images go with it
            process.stop(record, grace_seconds=0)
    for record in process.marked_processes(cluster_dir(state.name)):
        if "shim" in _command_name(record.pid):
            process.stop(record, grace_seconds=0)


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def _remove_host_files(state: ClusterState) -> None:
    for folder in state.folders:
        shutil.rmtree(folder, ignore_errors=True)
        with contextlib.suppress(OSError):
            Path(folder).parent.rmdir()
    own = cluster_dir(state.name)
    containers = Path("/var/log/containers")  # the kubelet's links into the pod logs
    for link in containers.iterdir() if containers.is_dir() else []:
        if link.is_symlink() and link.readlink().is_relative_to(own):
            link.unlink(missing_ok=True)
    for cached in Path("/var/lib/cni/results").glob(f"{network.CNI_NETWORK}-*"):
        cached.unlink(missing_ok=True)
