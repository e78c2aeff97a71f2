"""What this host can do, and what to use instead where it cannot."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from devcluster.errors import CommandError, HostUnfitError
from devcluster.progress import say, step

INSTEAD = (
    "Use another cluster instead: set USE_EXISTING_CLUSTER=1 to work on the current kubectl "
    "context, for example one made with `kind create cluster --config kind-config.yaml`"
)

# program -> Debian package that holds it; an absolute path stands for itself
NODE_PROGRAMS: Mapping[str, str] = {
    "/usr/lib/cni/bridge": "containernetworking-plugins",
    "conntrack": "conntrack",
    "iptables": "iptables",
    "ipset": "ipset",
    "ip": "iproute2",
    "ethtool": "ethtool",
    "socat": "socat",
    "pkg-config": "pkg-config",
    "gcc": "gcc",
    "/usr/include/seccomp.h": "libseccomp-dev",
}
IMAGE_PROGRAMS: Mapping[str, str] = {"buildah": "buildah", "debootstrap": "debootstrap"}


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
    timeout_seconds: float | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a host command and return its output.

    Raises:
        CommandError: it failed and `check` is set, or the time is up.
    """
    line = " ".join(map(str, argv))
    try:
        done = subprocess.run(
            [str(each) for each in argv],
            check=False,
            capture_output=True,
            text=True,
            env=env,
            cwd=cwd,
            input=stdin,
            timeout=timeout_seconds,
        )
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"`{line}` has not ended after {timeout_seconds:.0f}s") from error
    if check and done.returncode != 0:
        output = (done.stderr or done.stdout).strip()[-2000:]
        raise CommandError(f"`{line}` failed with status {done.returncode}: {output}")
    return done


def go_program() -> Path | None:
    """The Go compiler: from PATH, or where its own installer puts it."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    return Path(found) if found else None


def unfit_for_control_plane() -> str | None:
    """Why this host cannot run a control plane; None if it can."""
    if not sys.platform.startswith("linux"):
        return f"the dev cluster needs Linux (this is {sys.platform}). {INSTEAD}"
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets:
        missing = [p for p in ("etcd", "kube-apiserver") if not (Path(assets) / p).exists()]
        if missing:
            return f"KUBEBUILDER_ASSETS={assets} lacks {' and '.join(missing)}"
        return None
    if go_program() is None:
        return (
            "the dev cluster builds Kubernetes from source and needs Go 1.26 or newer on PATH or "
            "in /usr/local/go/bin; or set KUBEBUILDER_ASSETS to a folder with etcd and "
            f"kube-apiserver (setup-envtest fetches one). {INSTEAD}"
        )
    return None


def unfit_for_node() -> str | None:
    """Why this host cannot run the node profile; None if it can."""
    if not sys.platform.startswith("linux"):
        return f"the node profile needs Linux (this is {sys.platform}). {INSTEAD}"
    if go_program() is None:
        return f"the node profile needs Go 1.26 or newer to build Kubernetes. {INSTEAD}"
    if os.geteuid() != 0:
        return f"the node profile starts containers and needs root. {INSTEAD}"
    if missing_packages(NODE_PROGRAMS) and not shutil.which("apt-get"):
        missing = ", ".join(missing_programs(NODE_PROGRAMS))
        return f"missing on this host: {missing}; only Debian's are installed for you. {INSTEAD}"
    return None


def require(reason: str | None) -> None:
    """Raise with `reason` if there is one.

    Raises:
        HostUnfitError: there is a reason.
    """
    if reason is not None:
        raise HostUnfitError(reason)


def missing_programs(programs: Mapping[str, str]) -> list[str]:
    """Those of `programs` this host lacks."""
    return [p for p in programs if not (Path(p).exists() if p[0] == "/" else shutil.which(p))]


def missing_packages(programs: Mapping[str, str]) -> list[str]:
    """Debian packages of the missing programs."""
    return sorted({programs[p] for p in missing_programs(programs)})


def install_packages(programs: Mapping[str, str]) -> None:
    """Install what is missing with apt-get, and say so.

    Raises:
        HostUnfitError: no root or no apt-get.
        CommandError: apt-get failed.
    """
    packages = missing_packages(programs)
    if not packages:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *packages]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise HostUnfitError(f"missing on this host; as root, run: {' '.join(command)}")
    say(f"missing on this host, installing from Debian: {' '.join(packages)}")
    env = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    with step("apt-get install"):
        if run(command, env=env, check=False).returncode == 0:
            return
        try:
            run(["apt-get", "update"], env=env)  # the package lists were too old, or absent
            run(command, env=env)
        except CommandError as error:
            raise CommandError(f"cannot install {' '.join(packages)}: {error}") from error
