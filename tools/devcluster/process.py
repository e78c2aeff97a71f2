"""Start, watch and stop server processes that outlive the command that started them.

A process is known by its pid *and* its start time (field 22 of ``/proc/<pid>/stat``), so that a
recycled pid is never signalled. Every process also carries the cluster folder in its environment
(`MARKER`): after a crash between start and record, ``down`` still finds it, and with it the
containerd shims that nobody recorded.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

MARKER = "FINETUNE_DEVCLUSTER"
# What a test run started, as ``<pid>-<start time>`` of the run (tools/test.sh).
RUN_MARKER = "FINETUNE_TEST_RUN"
POLL_SECONDS = 0.02
# A process that waits for a busy disk does not even die before it gets its answer.
KILL_PATIENCE_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True, slots=True)
class ProcessRecord:
    """One started process.

    Attributes:
        name: Component, for example ``kube-apiserver``.
        pid: Process id.
        start_ticks: Start time in clock ticks since boot.
        log: File with its standard output and error.
    """

    name: str
    pid: int
    start_ticks: int
    log: Path


def boot_id() -> str:
    """Identity of the running boot: pids recorded under another one are gone."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """Start time of a live process, None if there is none.

    A zombie counts as none once its last thread is gone: until then its sockets are open.
    """
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, os.WNOHANG)  # reap it if it was ours, or it stays visible as a zombie
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command name, in parentheses, may hold blanks: split after it. Field 3 is the state,
    # field 20 the number of threads (proc_pid_stat(5)).
    fields = stat.rpartition(")")[2].split()
    is_gone = fields[0] == "X" or (fields[0] == "Z" and int(fields[17]) <= 1)
    return None if is_gone else int(fields[19])


def is_alive(record: ProcessRecord) -> bool:
    """Whether exactly this process still runs."""
    return start_ticks(record.pid) == record.start_ticks


def spawn(
    name: str, argv: Sequence[str], *, log: Path, cluster: Path, env: Mapping[str, str]
) -> ProcessRecord:
    """Start `argv` in a session of its own with its output appended to `log`.

    `os.posix_spawn` rather than `subprocess`: the child belongs to the cluster, not to an object
    of this interpreter that would complain when it is collected. Descriptors that this process
    was given (a lock, a pipe) are closed: held by a server, they would outlive the command.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    append = os.O_WRONLY | os.O_CREAT | os.O_APPEND
    pid = os.posix_spawn(
        argv[0],
        list(argv),
        {**env, MARKER: str(cluster)},
        file_actions=[
            (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
            (os.POSIX_SPAWN_OPEN, 1, str(log), append, 0o644),
            (os.POSIX_SPAWN_DUP2, 1, 2),
            *((os.POSIX_SPAWN_CLOSE, descriptor) for descriptor in _inheritable()),
        ],
        setsid=True,
    )
    return ProcessRecord(name=name, pid=pid, start_ticks=start_ticks(pid) or 0, log=log)


def _inheritable() -> list[int]:
    """Descriptors beyond the standard three that a child of this process would get."""
    found = []
    for entry in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):  # the one that listed the folder is closed
            if int(entry) > 2 and os.get_inheritable(int(entry)):
                found.append(int(entry))
    return found


def stop(record: ProcessRecord, *, grace_seconds: float = 5.0) -> None:
    """Ask a process to end, wait, then kill it; returns when it is gone."""
    if not is_alive(record):
        return
    for signum, patience in (
        (signal.SIGTERM, grace_seconds),
        (signal.SIGKILL, KILL_PATIENCE_SECONDS),
    ):
        if patience <= 0:
            continue
        # A stopped process (SIGSTOP in a test) would never see the SIGTERM.
        for each in (signum, signal.SIGCONT):
            with contextlib.suppress(ProcessLookupError):
                os.kill(record.pid, each)
        deadline = time.monotonic() + patience
        while time.monotonic() < deadline:
            if not is_alive(record):
                return
            time.sleep(POLL_SECONDS)


def marked_processes(cluster: Path) -> list[ProcessRecord]:
    """Every live process whose environment names `cluster`, recorded or not."""
    return [record for record, value in _marked(MARKER) if value == str(cluster)]


def processes_of_ended_runs(*ended: str) -> list[ProcessRecord]:
    """What test runs have started that are gone, or that `ended` names."""
    return [record for record, run in _marked(RUN_MARKER) if run in ended or not _is_running(run)]


def _is_running(run: str) -> bool:
    pid, _, ticks = run.partition("-")
    # Of a name that we do not understand we know nothing, so we leave its processes alone.
    return not (pid.isdigit() and ticks.isdigit()) or start_ticks(int(pid)) == int(ticks)


def _marked(variable: str) -> Iterator[tuple[ProcessRecord, str]]:
    """Live processes that were started with `variable` in their environment, and its value."""
    prefix = f"{variable}=".encode()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environment = (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        values = [each for each in environment if each.startswith(prefix)]
        ticks = start_ticks(int(entry.name)) if values else None
        if ticks is not None:
            pid = int(entry.name)
            yield (
                ProcessRecord(name="unrecorded", pid=pid, start_ticks=ticks, log=Path(os.devnull)),
                values[0].removeprefix(prefix).decode(errors="replace"),
            )


def kill_all(pids: Iterable[int], *, patience_seconds: float = KILL_PATIENCE_SECONDS) -> None:
    """Kill pids at once and wait until they are gone (containers of a cgroup)."""
    alive = {pid: ticks for pid in pids if (ticks := start_ticks(pid)) is not None}
    deadline = time.monotonic() + patience_seconds
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    while time.monotonic() < deadline:
        if all(start_ticks(pid) != ticks for pid, ticks in alive.items()):
            return
        time.sleep(POLL_SECONDS)


def log_tail(log: Path, *, num_lines: int = 15) -> str:
    """Last lines of a log, indented for an error message."""
    try:
        lines = log.read_text(errors="replace").splitlines()[-num_lines:]
    except OSError:
        return "    (no log)"
    return "\n".join(f"    {line[:400]}" for line in lines) or "    (log is empty)"
