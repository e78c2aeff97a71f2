"""A control plane as its users see it: what works, how fast, and what is left afterwards."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest

from devcluster.paths import cluster_dir, repository_root
from devcluster.process import is_alive, marked_processes, start_ticks
from devcluster.teardown import remove_cluster, remove_orphans
from kit.processes.eventually import eventually

pytestmark = pytest.mark.slow


def test_namespaces_get_their_service_account_from_the_controller_manager(control_plane, namespace):
    def has_account() -> bool:
        listed = control_plane.kubectl("-n", namespace, "get", "serviceaccounts", "-o", "name")
        return "serviceaccount/default" in listed

    eventually(has_account, timeout=20)


def test_the_api_server_reports_the_pinned_release(control_plane):
    version = json.loads(control_plane.kubectl("version", "-o", "json"))["serverVersion"]
    assert version["gitVersion"].startswith("v1.")
    assert "master" not in version["gitVersion"]


def test_two_control_planes_stand_side_by_side(control_plane_factory):
    first, second = control_plane_factory(), control_plane_factory()
    assert first.url != second.url
    first.kubectl("create", "namespace", "only-here")
    assert "only-here" not in second.kubectl("get", "namespaces", "-o", "name")
    remove_cluster(first.name)
    assert second.client().ready()
    remove_cluster(second.name)


def test_a_restart_keeps_address_and_objects(private_control_plane):
    cluster = private_control_plane
    cluster.kubectl("create", "configmap", "kept", "--from-literal=a=b")
    cluster.stop_api_server()
    assert not cluster.client().ready()
    cluster.start_api_server()
    assert cluster.kubectl("get", "configmap", "kept", "-o", "jsonpath={.data.a}") == "b"


def test_etcd_comes_back_with_what_it_held(private_control_plane):
    cluster = private_control_plane
    cluster.kubectl("create", "configmap", "kept", "-n", "default")
    cluster.restart_etcd(pause_seconds=1)
    found = eventually(lambda: cluster.kubectl("get", "configmap", "kept", "-n", "default"), 60)
    assert "kept" in found


def test_the_audit_log_has_one_line_per_write(private_control_plane):
    cluster = private_control_plane
    cluster.kubectl("create", "configmap", "counted")
    events = [json.loads(line) for line in cluster.audit_log.read_text().splitlines()]
    writes = [
        event
        for event in events
        if event["verb"] == "create" and event.get("objectRef", {}).get("name") == "counted"
    ]
    assert len(writes) == 1
    assert "requestObject" not in writes[0]


def test_a_kubeconfig_for_a_user_is_bound_by_rbac(private_control_plane):
    cluster = private_control_plane
    path = cluster.kubeconfig_for("dev@example.com", ["team-a"])
    answer = cluster.kubectl(
        "auth", "whoami", "--kubeconfig", str(path), "-o", "jsonpath={.status.userInfo.username}"
    )
    assert answer == "dev@example.com"
    with pytest.raises(Exception, match="forbidden"):
        cluster.kubectl("get", "secrets", "--kubeconfig", str(path))


def test_removal_leaves_no_process_no_folder_and_no_port(control_plane_factory):
    cluster = control_plane_factory()
    processes = list(cluster.state.processes)
    remove_cluster(cluster.name)
    assert not any(map(is_alive, processes))
    assert not marked_processes(cluster.folder)
    assert not cluster.folder.exists()


OWNER_THAT_DIES = """
import os, signal
from devcluster.control_plane.controlplane import ControlPlaneOptions
from devcluster.starting import start_control_plane
cluster = start_control_plane(
    options=ControlPlaneOptions(controllers=None), owner_pid=os.getpid()
)
print(cluster.name, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_cluster_whose_test_run_was_killed_goes_at_the_next_start(control_plane_factory):
    done = subprocess.run(
        [sys.executable, "-c", OWNER_THAT_DIES],
        cwd=repository_root(),
        env={**os.environ, "PYTHONPATH": "tools"},
        capture_output=True,
        text=True,
        check=False,
    )
    name = done.stdout.strip()
    assert done.returncode == -9, done.stderr
    assert marked_processes(cluster_dir(name))
    assert name in remove_orphans()
    assert not marked_processes(cluster_dir(name))


def test_processes_that_were_never_recorded_are_found_by_their_mark(tmp_path: Path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    folder = cluster_dir("crashed")
    folder.mkdir(parents=True)
    stray = subprocess.Popen(["sleep", "600"], env={"FINETUNE_DEVCLUSTER": str(folder)})
    try:
        eventually(lambda: bool(marked_processes(folder)), timeout=5)
        assert remove_cluster("crashed")
        assert start_ticks(stray.pid) is None
        assert not folder.exists()
    finally:
        stray.kill()
        stray.wait()


def test_two_ups_at_once_end_with_one_cluster(control_plane_factory):
    name = f"twice-{secrets.token_hex(2)}"
    command = [sys.executable, "-m", "devcluster"]
    options = {
        "env": {**os.environ, "PYTHONPATH": "tools"},
        "cwd": repository_root(),
        "stdout": subprocess.PIPE,
        "stderr": subprocess.STDOUT,
        "text": True,
    }
    up = [*command, "up", "--profile", "control-plane", "--name", name]
    try:
        both = [subprocess.Popen(up, **options) for _ in range(2)]
        outputs = [each.communicate()[0] for each in both]
        assert [each.returncode for each in both] == [0, 0], outputs
        assert sum("is running already" in output for output in outputs) == 1, outputs
    finally:
        subprocess.run([*command, "down", "--name", name], **options, check=False)
    assert not cluster_dir(name).exists()
