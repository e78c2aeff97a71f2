"""Starts processes of the trainer and the CLI as forks of one that has imported their libraries.

A stage of a test takes one second of work and ten of imports, and the trainer's tests run some
hundreds. A *host* imports the libraries once and forks for each process; what a fork then runs is
the same module by ``runpy``, with the arguments, environment, files and session that it would have
had. Of this project only the contract (`finetune_api`) is imported beforehand, and no library whose
import reads what a stage sets (datasets, deepspeed).

`PreloadedPopen` is ``subprocess.Popen`` for all else: the fork becomes a child of whoever asked, so
signals, groups and exit codes are the kernel's. Source: prctl(2), PR_SET_CHILD_SUBREAPER.

What this hides: an import that a library of ours forgets and another's import makes up for, the
hash seed, and what goes wrong while an interpreter takes its modules apart. So whole chains of
stages run as plain processes too: `undisturbed` in `tests/trainer/conftest.py`,
`tests/cli/test_run.py`, `make demo`, the images on the dev cluster.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import inspect
import json
import os
import random
import runpy
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy

STAGES = [["finetune_trainer", stage] for stage in ("train", "evaluate", "publish")]
CLI = "finetune_cli"
WITHOUT_TORCH = [["finetune_trainer", "prepare"], ["finetune_trainer", "inspect"]]
"""They hide torch from their libraries, unless a model has code of its own: that wants `is_plain`.
The CLI needs none, and starts these two as forks of itself."""
LEAVES_TORCH_TO_WORKERS = ["finetune_trainer", "evaluate"]
"""It does so too, and starts processes that have it."""
WORKERS = ("finetune_trainer.train.ranks.worker", "finetune_trainer.evaluate.inference.worker")
LAUNCHERS = ("accelerate.commands.launch",)
LIBRARIES = {
    True: (
        *("torch", "torch._dynamo", "torch.distributed.tensor"),
        *("transformers.generation.utils", "transformers.models.auto.modeling_auto"),
        *("transformers.models.llama.modeling_llama", "peft", "scipy.optimize", "scipy.stats"),
        *("rich.console", "rich.live", "rich.markup", "rich.table", "rich.progress"),
        *("transformers.training_args", "transformers.trainer_pt_utils", "trl"),
        *("transformers.data.data_collator", "transformers.conversion_mapping"),
    ),
    False: ("transformers.tokenization_utils_tokenizers", "scipy.special", "typer"),
}
"""By whether they may see torch."""
LIBRARIES_OF_ALL = (
    *("transformers.models.auto.tokenization_auto", "transformers.models.auto.configuration_auto"),
    *("pandas", "pyarrow.parquet", "yaml", "boto3"),
    *("pyarrow.dataset", "fsspec.implementations.local", "xxhash"),
    *("finetune_api.protocol.trainer", "finetune_api.protocol.termination"),
    *("finetune_api.messages.prompt_template", "finetune_api.messages.answer_checks"),
)
FORBIDDEN = ("datasets", "deepspeed", "finetune_trainer")
FIXED_BY_HOST = {"OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"}
"""Read by the interpreter or a library as it starts: who wants others gets a plain process."""
READ_AT_START = ("PYTHON", "LD_")
"""So are all variables that begin so, and a host has them from the tests."""
UNBUFFERED = "PYTHONUNBUFFERED"
"""But for this one, which a fork heeds as it does ``-u``."""
PR_SET_CHILD_SUBREAPER = 36


@dataclass(frozen=True, kw_only=True, slots=True)
class Order:
    """A process to be forked.

    Attributes:
        parent: Whose child it is to be.
        command: As it would be started: ``python [-u] -m module argument...``.
        environment: All of it.
        folder: Where it runs.
        new_session: Whether it leads a session of its own.
        prepare: ``module:function`` to call before all else; empty for none.
    """

    parent: int
    command: list[str]
    environment: dict[str, str]
    folder: str
    new_session: bool
    prepare: str

    @property
    def module(self) -> list[str]:
        """Name of the module, and its arguments."""
        return self.command[self.command.index("-m") + 1 :]

    @property
    def sees_torch(self) -> bool:
        """Whether it is forked from a host that has torch."""
        return self.module[0] != CLI and self.module[:2] not in WITHOUT_TORCH


class Host:
    """The asking side of a process that forks; made by the process that will ask.

    Args:
        connection: Socket to it.
    """

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection
        self._lock = threading.Lock()
        # Orphans of our descendants come to us: that is how a fork of a fork becomes our child.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)

    def fork(self, order: Order, files: Sequence[int]) -> int:
        """Have a process forked that is a child of this one; returns its id.

        Args:
            order: The process.
            files: What it gets as standard input, output and error.

        Raises:
            OSError: The host is gone.
        """
        text = json.dumps(asdict(order)).encode()
        with self._lock:
            socket.send_fds(self._connection, [len(text).to_bytes(8, "big")], list(files))
            self._connection.sendall(text)
            return int.from_bytes(_receive(self._connection, 8), "big")


_NAMES = tuple(inspect.signature(subprocess.Popen._execute_child).parameters)[1:]  # type: ignore[attr-defined]

_hosts: dict[tuple[int, bool], Host] = {}
"""By the process that asks, as a fork must not use its parent's, and by whether torch is there."""


def _host(*, with_torch: bool) -> Host:
    host = _hosts.get((os.getpid(), with_torch))
    if host is None:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno()), "torch" if with_torch else ""],
                env={**os.environ, **FIXED_BY_HOST},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        host = _hosts[os.getpid(), with_torch] = Host(ours)
        atexit.register(_end, ours, process)
    return host


def _end(connection: socket.socket, process: subprocess.Popen[bytes]) -> None:
    connection.close()
    process.wait()


class PreloadedPopen(subprocess.Popen[Any]):
    """A process of the trainer, forked from a host; any other command starts as usual."""

    def _execute_child(self, *given: Any) -> None:
        call = dict(zip(_NAMES, given, strict=True))
        command = call["args"]
        environment = dict(os.environ if call["env"] is None else call["env"])
        plain = call["pass_fds"] or call["shell"] or call["executable"]
        if plain or not is_preloadable(command, environment):
            super()._execute_child(*given)  # type: ignore[misc]
            return
        prepare = call["preexec_fn"]
        order = Order(
            parent=os.getpid(),
            command=[str(part) for part in command],
            environment=environment,
            folder=str(call["cwd"] or Path.cwd()),
            new_session=bool(call["start_new_session"]),
            prepare=f"{prepare.__module__}:{prepare.__name__}" if prepare else "",
        )
        ends = (call["p2cread"], call["c2pwrite"], call["errwrite"])
        files = [own if end == -1 else end for own, end in enumerate(ends)]
        host = _host(with_torch=order.sees_torch)
        self.pid = host.fork(order, files)
        self._child_created = True
        self._close_pipe_fds(  # type: ignore[attr-defined]
            *(call[name] for name in inspect.signature(self._close_pipe_fds).parameters)  # type: ignore[attr-defined]
        )


def is_preloadable(command: Any, environment: dict[str, str]) -> bool:
    """Return whether a fork of the host is what this command would start."""
    if sys.platform != "linux" or isinstance(command, str | bytes) or len(command) < 4:
        return False
    program, *options = (str(part) for part in command if part != "-u")
    known = options[1] in (*LAUNCHERS, *WORKERS, CLI) or options[1:3] in [*STAGES, *WITHOUT_TORCH]
    return (
        (program, options[0]) == (sys.executable, "-m")
        and known
        and all(environment.get(key, value) == value for key, value in FIXED_BY_HOST.items())
        and _read_at_start(environment) == _read_at_start(os.environ)
    )


def _read_at_start(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        key: value
        for key, value in environment.items()
        if key.startswith(READ_AT_START) and key not in (*FIXED_BY_HOST, UNBUFFERED)
    }


def serve(connection: socket.socket) -> NoReturn:
    """Fork for every order until nobody is left to give one; each fork runs what it is for."""
    while True:
        try:
            files, order = _read_order(connection)
        except ConnectionError:
            os._exit(0)
        between = os.fork()
        if between == 0:
            if os.fork():
                os._exit(0)
            _become(order, files, connection)
            _run_to_the_end()
        os.waitpid(between, 0)
        for file in files:
            os.close(file)


def _run_to_the_end() -> NoReturn:
    """Run the module, and end as an interpreter does, but leave the memory to the kernel.

    A dying interpreter takes its modules apart: half a second, in which a fork copies most of its
    host's memory.
    """
    code = 0
    try:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
    except SystemExit as error:
        if error.code is not None and not isinstance(error.code, int):
            raise
        code = error.code or 0
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    with contextlib.suppress(OSError):  # nobody reads any more
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code & 0xFF)
    raise SystemExit(code)


def _read_order(connection: socket.socket) -> tuple[list[int], Order]:
    start, files, _, _ = socket.recv_fds(connection, 8, 3)
    start += _receive(connection, 8 - len(start))
    text = _receive(connection, int.from_bytes(start, "big"))
    return files, Order(**json.loads(text))


def _become(order: Order, files: list[int], connection: socket.socket) -> None:
    """Turn this fork into the process that was ordered; what it runs comes after."""
    try:
        _wait_for_parent(order.parent)
        _take_on(order, files)
    finally:
        # Not before: whoever waits for this may at once kill the session, or die itself.
        connection.sendall(os.getpid().to_bytes(8, "big"))
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if order.module[0] not in WORKERS and order.module[:2] not in WITHOUT_TORCH:
        _open_own_host(with_torch=order.sees_torch)
    if order.module[:2] == LEAVES_TORCH_TO_WORKERS:
        _hide_torch()


def _hide_torch() -> None:
    """Do as `hide_torch`, where torch has been imported: whoever imports it from now on fails."""
    sys.modules["torch"] = None  # type: ignore[assignment]
    importlib.import_module("transformers.utils").is_torch_available.cache_clear()


def _wait_for_parent(parent: int) -> None:
    until = time.monotonic() + 10
    while os.getppid() != parent:  # until the process between has ended, some microseconds
        if time.monotonic() > until:
            os._exit(1)  # whoever asked is dead
        time.sleep(0.001)


def _take_on(order: Order, files: list[int]) -> None:
    if order.new_session:
        os.setsid()
    for number, file in enumerate(files):
        os.dup2(file, number)
    os.environ.clear()
    os.environ.update(order.environment)
    os.chdir(order.folder)
    random.seed()
    numpy.random.seed()  # the states that every fork would share
    if "-u" in order.command[1:2] or order.environment.get(UNBUFFERED):
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(write_through=True)  # type: ignore[union-attr]
    sys.path[0] = order.folder
    sys.argv = order.module
    if order.prepare:
        module, _, function = order.prepare.partition(":")
        getattr(importlib.import_module(module), function)()


def _open_own_host(*, with_torch: bool) -> None:
    """Leave a fork of this process behind, as it is now, for the processes that it will start."""
    ours, theirs = socket.socketpair()
    if os.fork() == 0:
        ours.close()
        nothing = os.open(os.devnull, os.O_RDWR)
        for number in range(3):  # who reads what this process writes must not wait for its host
            os.dup2(nothing, number)
        serve(theirs)
    theirs.close()
    _hosts[os.getpid(), with_torch] = Host(ours)
    plain = subprocess.Popen
    for module in list(sys.modules.values()):  # torchrun's has taken the name already
        if getattr(module, "__dict__", {}).get("Popen") is plain:
            module.Popen = PreloadedPopen  # type: ignore[attr-defined]


def _receive(connection: socket.socket, num_bytes: int) -> bytes:
    received = b""
    while len(received) < num_bytes:
        part = connection.recv(num_bytes - len(received))
        if not part:
            raise ConnectionError("the host of preloaded processes is gone")
        received += part
    return received


def main() -> None:
    """Import the libraries, then serve."""
    connection = socket.socket(fileno=int(sys.argv[1]))
    with_torch = bool(sys.argv[2])
    if not with_torch:
        sys.modules["torch"] = None  # type: ignore[assignment]  # as `hide_torch` does
    for name in (*LIBRARIES[with_torch], *LIBRARIES_OF_ALL):
        importlib.import_module(name)
    if with_torch:  # some hundred expressions are compiled when it is asked for the first time
        sys.modules["transformers.conversion_mapping"].get_checkpoint_conversion_mapping("llama")
    early = [name for name in FORBIDDEN if name in sys.modules]
    assert not early, f"{early} are imported before their time"
    gc.collect()
    gc.freeze()  # else the collector of each fork would look at, and so copy, all of this
    serve(connection)


if __name__ == "__main__":
    main()
