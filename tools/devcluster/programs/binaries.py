"""Build the pinned binaries, once per content.

Each folder under ``modules/`` is a Go module with no code, only pins: ``go.mod`` names the tools,
``go.sum`` their checksums. A build goes into the cache under a digest of everything that decides
its bytes, so that changing a pin is all there is to do for an upgrade.
"""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

from devcluster.errors import BuildError, HostUnfitError
from devcluster.host import go_program, require, run, unfit_for_control_plane
from devcluster.paths import cache_root, modules_root
from devcluster.progress import step
from devcluster.state import locked

_KUBERNETES = "k8s.io/kubernetes"


@dataclass(frozen=True, kw_only=True, slots=True)
class Build:
    """One ``go build``: packages of one module folder that are used together.

    Attributes:
        name: Name in the cache and in messages.
        module: Folder under ``modules/``.
        programs: Program name -> Go package.
        tags: Build tags.
        cgo: Whether C is linked in.
        first_build: How long it takes on 2 cores from nothing, for the message.
    """

    name: str
    module: str
    programs: dict[str, str]
    tags: tuple[str, ...] = ()
    cgo: bool = False
    first_build: str = "about a minute"


def _kubernetes(*names: str) -> dict[str, str]:
    return {name: f"{_KUBERNETES}/cmd/{name}" for name in names}


BUILDS = {
    build.name: build
    for build in (
        Build(
            name="etcd",
            module="etcd",
            programs={"etcd": "go.etcd.io/etcd/server/v3"},
        ),
        Build(
            name="kubernetes-control-plane",
            module="kubernetes",
            programs=_kubernetes("kube-apiserver", "kube-controller-manager"),
            first_build="1 to 5 minutes",
        ),
        Build(name="kubectl", module="kubernetes", programs=_kubernetes("kubectl")),
        Build(
            name="kubernetes-node",
            module="kubernetes",
            programs=_kubernetes("kube-scheduler", "kubelet", "kube-proxy"),
            first_build="1 to 3 minutes",
        ),
        Build(
            name="containerd",
            module="containerd",
            programs={
                name: f"github.com/containerd/containerd/v2/cmd/{name}"
                for name in ("containerd", "containerd-shim-runc-v2", "ctr")
            },
        ),
        Build(
            name="runc",
            module="runc",
            programs={"runc": "github.com/opencontainers/runc"},
            tags=("seccomp",),
            cgo=True,
        ),
        Build(
            name="coredns",
            module="coredns",
            programs={"coredns": "github.com/coredns/coredns"},
        ),
        Build(
            name="registry",
            module="registry",
            programs={"registry": "github.com/distribution/distribution/v3/cmd/registry"},
        ),
        Build(name="helm", module="helm", programs={"helm": "helm.sh/helm/v4/cmd/helm"}),
        Build(
            name="kueue",
            module="kueue",
            programs={"kueue": "sigs.k8s.io/kueue/cmd/kueue"},
            first_build="about 2 minutes",
        ),
        Build(name="kwok", module="kwok", programs={"kwok": "sigs.k8s.io/kwok/cmd/kwok"}),
        Build(
            name="promtool",
            module="promtool",
            programs={"promtool": "github.com/prometheus/prometheus/cmd/promtool"},
            # without the clients of two dozen clouds, which find what to scrape
            tags=("remove_all_sd",),
            first_build="about 2 minutes",
        ),
    )
}

CONTROL_PLANE = ("etcd", "kubernetes-control-plane", "kubectl")
NODE = (*CONTROL_PLANE, "kubernetes-node", "containerd", "runc", "coredns", "registry", "helm")


def pinned_version(module_text: str, path: str) -> str:
    """The version of module `path` in a go.mod text.

    Raises:
        BuildError: it is not required there.
    """
    match = re.search(rf"^\s*(?:require\s+)?{re.escape(path)} (v\S+)", module_text, re.MULTILINE)
    if match is None:
        raise BuildError(f"no requirement on {path} in that go.mod")
    return match[1]


def linker_flags(build: Build, module_text: str) -> str:
    """Linker flags of a build: stripped, and Kubernetes stamped with its version.

    Without the stamp the API server reports v0.0.0-master, which Kueue refuses.
    """
    flags = ["-s", "-w"]
    if build.module == "kubernetes":
        version = pinned_version(module_text, _KUBERNETES)
        major, minor = version.lstrip("v").split(".")[:2]
        for package in ("k8s.io/component-base/version", "k8s.io/client-go/pkg/version"):
            for key, value in (
                ("gitVersion", version),
                ("gitMajor", major),
                ("gitMinor", minor),
                ("gitTreeState", "clean"),
            ):
                flags.append(f"-X {package}.{key}={value}")
    return " ".join(flags)


def build_digest(build: Build, *, module_text: str, sums_text: str, go_version: str) -> str:
    """Content digest of a build: same digest, same binaries."""
    parts = (
        module_text,
        sums_text,
        go_version,
        linker_flags(build, module_text),
        ",".join(build.tags),
        str(build.cgo),
        repr(sorted(build.programs.items())),
    )
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _target(build: Build, go: Path) -> Path:
    folder = modules_root() / build.module
    digest = build_digest(
        build,
        module_text=(folder / "go.mod").read_text(),
        sums_text=(folder / "go.sum").read_text(),
        go_version=run([str(go), "version"]).stdout.strip(),
    )
    return cache_root() / "bin" / f"{build.name}-{digest}"


@functools.cache
def ensure_built(name: str) -> Path:
    """The folder with the programs of a build, built if the cache has none.

    Raises:
        HostUnfitError: no Go on this host.
        BuildError: the compiler failed.
    """
    build = BUILDS[name]
    go = go_program()
    if go is None:
        require(unfit_for_control_plane())
        raise HostUnfitError("there is no Go on this host")
    folder = modules_root() / build.module
    target = _target(build, go)
    if not target.is_dir():
        with locked(target.parent / f"{name}.lock", f"building {name}"):
            if not target.is_dir():
                with step(f"building {name} (first time {build.first_build})"):
                    _compile(build, str(go), folder, target)
    return target


def program(name: str) -> Path:
    """Path of one program, built if need be; KUBEBUILDER_ASSETS goes first for what it holds."""
    assets = os.environ.get("KUBEBUILDER_ASSETS")
    if assets and (Path(assets) / name).exists():
        return Path(assets) / name
    for build in BUILDS.values():
        if name in build.programs:
            return ensure_built(build.name) / name
    raise BuildError(f"no build makes a program called {name}")


def module_folder(build_name: str, path: str) -> Path:
    """Folder of a Go module in Go's module cache (its manifests and C sources are used as is)."""
    folder = modules_root() / BUILDS[build_name].module
    listed = run(
        [str(go_program()), "list", "-mod=readonly", "-m", "-f", "{{.Dir}}", path],
        cwd=folder,
        env=_go_environment(cgo=False),
    ).stdout.strip()
    if not listed:
        run([str(go_program()), "mod", "download", path], cwd=folder)
        return module_folder(build_name, path)
    return Path(listed)


def _compile(build: Build, go: str, folder: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{build.name}-", dir=target.parent))
    aside.chmod(0o755)
    command = [
        *("nice", go, "build", "-mod=readonly", "-trimpath", "-buildvcs=false"),
        *(("-tags", ",".join(build.tags)) if build.tags else ()),
        f"-ldflags={linker_flags(build, (folder / 'go.mod').read_text())}",
        *("-o", f"{aside}/"),
        *build.programs.values(),
    ]
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=_go_environment(cgo=build.cgo),
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0:
            raise BuildError(
                f"go build of {build.name} in {folder} failed. If the module proxy cannot be "
                f"reached, set GOPROXY as for your other Go work.\n{done.stderr[-3000:]}"
            )
        for name, package in build.programs.items():
            # `go build` names a program after its package, less a version suffix
            made = aside / re.sub(r"/v\d+$", "", package).rpartition("/")[2]
            if made.name != name:
                made.rename(aside / name)
        aside.rename(target)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _go_environment(*, cgo: bool) -> dict[str, str]:
    return {**os.environ, "CGO_ENABLED": "1" if cgo else "0", "GOWORK": "off", "GOFLAGS": ""}
