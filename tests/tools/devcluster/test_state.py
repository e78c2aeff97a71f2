"""The record of a cluster, its processes and its ports."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devcluster.__main__ import main
from devcluster.control_plane.apiclient import wait_until
from devcluster.errors import CommandError, StartError, StateError
from devcluster.host import run
from devcluster.paths import cluster_dir
from devcluster.ports import FIRST_PORT, LAST_PORT, PortClaims, is_free
from devcluster.process import (
    RUN_MARKER,
    ProcessRecord,
    is_alive,
    kill_all,
    log_tail,
    processes_of_ended_runs,
    spawn,
    start_ticks,
    stop,
)
from devcluster.state import ClusterState, load_state, save_state
from kit.processes.eventually import eventually
from kit.servers.ports import free_port

names = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=20)
records = st.builds(
    ProcessRecord,
    name=names,
    pid=st.integers(1, 2**22),
    start_ticks=st.integers(0, 2**63),
    log=st.just(Path("/var/log/some.log")),
)
states = st.builds(
    ClusterState,
    name=names,
    profile=st.sampled_from(["control-plane", "node"]),
    boot=names,
    owner_pid=st.none() | st.integers(1, 2**22),
    owner_start_ticks=st.none() | st.integers(0, 2**63),
    ready=st.booleans(),
    processes=st.lists(records, max_size=4),
    values=st.dictionaries(names, names, max_size=4),
    interfaces=st.lists(names, max_size=2),
    cgroups=st.lists(names, max_size=2),
    folders=st.lists(names, max_size=2),
    sysctls=st.dictionaries(names, names, max_size=3),
    chain_prefixes=st.lists(names, max_size=2),
)


@given(state=states)
def test_a_record_reads_back_as_written(tmp_path_factory, state):
    folder = tmp_path_factory.mktemp("cluster")
    save_state(folder, state)
    assert load_state(folder) == state


def test_a_folder_without_a_record_is_no_cluster(tmp_path):
    assert load_state(tmp_path / "absent") is None
    assert load_state(tmp_path) is None


@pytest.mark.parametrize(
    "content", ["", "{", "{}", "[]", '{"format": 99}', '{"format": 1, "name": "x"}']
)
def test_a_damaged_record_names_the_file_and_the_way_out(tmp_path, content):
    (tmp_path / "state.json").write_text(content)
    with pytest.raises(StateError, match=r"state\.json"):
        load_state(tmp_path)


def test_an_owner_of_another_boot_is_gone():
    state = ClusterState(
        name="x",
        profile="node",
        boot="another",
        owner_pid=os.getpid(),
        owner_start_ticks=start_ticks(os.getpid()),
    )
    assert state.owner_is_gone()


def test_a_running_owner_is_not_gone():
    state = ClusterState(
        name="x",
        profile="node",
        owner_pid=os.getpid(),
        owner_start_ticks=start_ticks(os.getpid()),
    )
    assert not state.owner_is_gone()


def test_a_process_is_stopped_and_only_that_one(tmp_path):
    record = spawn("sleeper", ["/bin/sleep", "600"], log=tmp_path / "log", cluster=tmp_path, env={})
    assert is_alive(record)
    recycled = ProcessRecord(
        name="other", pid=record.pid, start_ticks=record.start_ticks + 1, log=record.log
    )
    stop(recycled)  # same pid, another start time: somebody else's process
    assert is_alive(record)
    stop(record)
    assert not is_alive(record)


def test_what_runs_that_are_gone_have_started_is_found_and_nothing_else(tmp_path):
    running = f"{os.getpid()}-{start_ticks(os.getpid())}"
    runs = {
        "of one that is gone": f"{os.getpid()}-1",  # its process id is another's by now
        "of one that runs": running,
        "of one that we cannot read": "yesterday",
    }
    started = {
        each: spawn(
            each,
            ["/bin/sleep", "600"],
            log=tmp_path / "log",
            cluster=tmp_path,
            env={RUN_MARKER: run},
        ).pid
        for each, run in runs.items()
    }

    def found(*ended: str) -> set[str]:
        pids = {record.pid for record in processes_of_ended_runs(*ended)}
        return {each for each, pid in started.items() if pid in pids}

    try:
        eventually(lambda: found() == {"of one that is gone"}, timeout=10)
        assert found(running) == {"of one that is gone", "of one that runs"}
    finally:
        kill_all(started.values())


def test_a_process_does_not_keep_what_its_starter_was_given(tmp_path):
    reader, writer = os.pipe()
    os.set_inheritable(writer, True)
    record = spawn("sleeper", ["/bin/sleep", "600"], log=tmp_path / "log", cluster=tmp_path, env={})
    try:
        os.close(writer)
        assert os.read(reader, 1) == b""  # nobody else holds the other end
    finally:
        stop(record)
        os.close(reader)


def test_a_process_that_ignores_the_request_is_killed(tmp_path):
    script = "trap '' TERM; echo ready; while :; do sleep 0.1; done"
    log = tmp_path / "log"
    record = spawn("stubborn", ["/bin/sh", "-c", script], log=log, cluster=tmp_path, env={})
    eventually(lambda: "ready" in log.read_text(), timeout=10)
    stop(record, grace_seconds=0.2)
    assert not is_alive(record)


def test_the_end_of_a_log_is_quoted(tmp_path):
    log = tmp_path / "log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    assert log_tail(log, num_lines=2) == "    line 98\n    line 99"
    assert "no log" in log_tail(tmp_path / "absent")


def test_ports_of_two_clusters_never_meet(tmp_path):
    claims = tmp_path / "ports"
    clusters = [tmp_path / name for name in ("a", "b")]
    for cluster in clusters:
        cluster.mkdir()
    taken = [PortClaims(cluster, claims).claim() for cluster in clusters for _ in range(20)]
    assert len(set(taken)) == len(taken)
    assert all(FIRST_PORT <= port <= LAST_PORT for port in taken)


def test_a_preferred_port_is_given_once(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    port = next(each for each in range(LAST_PORT, FIRST_PORT, -1) if is_free(each))
    first = PortClaims(tmp_path / "a", tmp_path / "ports")
    second = PortClaims(tmp_path / "b", tmp_path / "ports")
    assert first.claim(preferred=port) == port
    assert second.claim(preferred=port) != port
    first.release()
    assert second.claim(preferred=port) == port


def test_a_port_somebody_listens_on_is_not_given(tmp_path):
    (tmp_path / "a").mkdir()
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        port = server.getsockname()[1]
        assert PortClaims(tmp_path / "a", tmp_path / "ports").claim(preferred=port) != port


def test_claims_of_a_vanished_cluster_are_free_again(tmp_path):
    gone, here = tmp_path / "gone", tmp_path / "here"
    here.mkdir()
    gone.mkdir()
    port = PortClaims(gone, tmp_path / "ports").claim()
    gone.rmdir()
    assert PortClaims(here, tmp_path / "ports").claim(preferred=port) == port


def test_a_zombie_counts_as_gone():
    process = subprocess.Popen(["/bin/true"])
    try:
        eventually(lambda: start_ticks(process.pid) is None, timeout=5)
    finally:
        process.wait()


LEADER_ENDS_FIRST = """
import ctypes, socket, threading, time
server = socket.create_server(("127.0.0.1", 0))
print(server.getsockname()[1], flush=True)
threading.Thread(target=time.sleep, args=(600,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""


def test_a_stopped_process_has_freed_its_port_also_where_its_first_thread_ended_before(tmp_path):
    log = tmp_path / "log"
    record = spawn(
        "server", [sys.executable, "-c", LEADER_ENDS_FIRST], log=log, cluster=tmp_path, env={}
    )

    def is_zombie() -> bool:
        return Path(f"/proc/{record.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"

    eventually(is_zombie, timeout=10)
    assert is_alive(record)
    stop(record)
    assert not is_alive(record)
    assert is_free(int(log.read_text()))


def test_tests_take_no_port_of_a_cluster():
    assert not any(FIRST_PORT <= free_port() <= LAST_PORT for _ in range(200))


def test_what_killed_test_runs_have_left_is_removed_and_nothing_else(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    own = {"profile": "control-plane", "owner_start_ticks": start_ticks(os.getpid())}
    for name, state in {
        "killed": ClusterState(name="killed", boot="another", owner_pid=os.getpid(), **own),
        "running": ClusterState(name="running", owner_pid=os.getpid(), **own),
        "of-a-person": ClusterState(name="of-a-person", profile="node"),
    }.items():
        save_state(cluster_dir(name), state)
    for name in ("starting", "half-removed"):
        cluster_dir(name).mkdir()
    os.utime(cluster_dir("half-removed"), (0, 0))
    assert main(["tidy"]) == 0
    left = sorted(each.name for each in cluster_dir("any").parent.iterdir())
    assert left == ["of-a-person", "running", "starting"]


def test_a_server_that_gives_no_answer_is_asked_again():
    answers = iter([TimeoutError("timed out"), ConnectionRefusedError(), True])

    def answer() -> bool:
        found = next(answers)
        if isinstance(found, OSError):
            raise found
        return found

    wait_until("an answer", answer, poll_seconds=0)
    assert not list(answers)

    def refuse() -> bool:
        raise ConnectionRefusedError("refused")

    with pytest.raises(StartError, match=r"an answer: not after 0s \(refused\)"):
        wait_until("an answer", refuse, timeout_seconds=0)


def test_a_command_that_hangs_is_ended():
    with pytest.raises(CommandError, match="`sleep 600` has not ended after 1s"):
        run(["sleep", "600"], timeout_seconds=1)
