"""Build the project's images and put them where the node finds them.

buildah builds without a daemon, into a storage of its own in the cache. The base image comes from
debootstrap: this host's own Debian release and mirror, so that no other registry is needed. Layers
are keyed by content; the gigabytes of the trainer's dependencies are one layer that changes with
their lock file only, and a change of code builds, pushes and pulls in seconds.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from devcluster import host
from devcluster.errors import BuildError
from devcluster.node.buildhost import apt_mirror, builder_flags
from devcluster.node.removal import unmount_below
from devcluster.node.runtime import Runtime, choose_snapshotter, runtime_of
from devcluster.paths import cache_root, cluster_dir, repository_root
from devcluster.progress import step
from devcluster.state import ClusterState, load_state, locked, save_state, starting_or_stopping

_RUN_ROOT = Path("/run/ft-devcluster-build")
BASE_PACKAGES = ("ca-certificates", "python3", "python3-venv")


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectImage:
    """One image of the project.

    Attributes:
        name: Name on the command line.
        repository: Name in the registry.
        dockerfile: Path, below the repository root unless absolute; that root is the context.
    """

    name: str
    repository: str
    dockerfile: str


IMAGES = {
    image.name: image
    for image in (
        ProjectImage(
            name="operator", repository="finetune-operator", dockerfile="operator/Dockerfile"
        ),
        ProjectImage(
            name="trainer", repository="finetune-trainer", dockerfile="trainer_image/Dockerfile"
        ),
    )
}


def load_images(
    state: ClusterState, names: Sequence[str] = (), *, tag: str = "dev"
) -> dict[str, str]:
    """Build, push and pull the project's images.

    Args:
        state: The node cluster.
        names: Images to load; empty for all.
        tag: Tag to move to the new image. The returned references carry the image's content
            in their tag, so that a pod with ``IfNotPresent`` gets the new one.

    Returns:
        Name -> reference to put into a pod.

    Raises:
        BuildError: no such image, or a build failed.
        HostUnfitError: a program is missing and cannot be installed.
    """
    unknown = set(names) - set(IMAGES)
    if unknown:
        raise BuildError(
            f"no image called {', '.join(sorted(unknown))}; known: {', '.join(IMAGES)}"
        )
    with _building():
        base = ensure_base_image()
        return {name: _load(state, IMAGES[name], tag, base) for name in names or IMAGES}


def load_variant(state: ClusterState, of: str, name: str, instructions: str) -> str:
    """Put a changed image of the project onto the node, for what another one would do.

    Args:
        state: The node cluster, which has the project's image.
        of: Name of that image.
        name: Name of the variant.
        instructions: What follows ``FROM`` in its Dockerfile.

    Returns:
        Its reference.

    Raises:
        BuildError: the build failed.
    """
    base = state.values[f"image-{of}"].rpartition("-")[2]
    dockerfile = cache_root() / "images" / f"{name}.Dockerfile"
    dockerfile.write_text(f"ARG BASE_IMAGE\nFROM ${{BASE_IMAGE}}\n{instructions}\n")
    image = ProjectImage(
        name=name, repository=f"{IMAGES[of].repository}-{name}", dockerfile=str(dockerfile)
    )
    with _building():
        return _load(state, image, "dev", base)


def build_images() -> dict[str, str]:
    """Build the project's images into the cache, without a cluster; returns name -> id.

    Raises:
        BuildError: a build failed.
        HostUnfitError: a program is missing and cannot be installed.
    """
    with _building():
        base = ensure_base_image()
        return {name: _build(image, base) for name, image in IMAGES.items()}


def _build(image: ProjectImage, base: str) -> str:
    with step(f"building {image.repository}"):
        return build_image(image, base)


def _load(state: ClusterState, image: ProjectImage, tag: str, base: str) -> str:
    identity = _build(image, base)
    repository = f"{state.values['registry']}/{image.repository}"
    reference = f"{repository}:{tag}-{identity[:12]}"
    with step(f"pushing {reference}"):
        push_image(identity, reference)
        push_image(identity, f"{repository}:{tag}")
    with step(f"unpacking {reference} on the node"):
        pull_image(runtime_of(state.name), reference)
    _record(state, f"image-{image.name}", reference)
    return reference


def _record(state: ClusterState, key: str, value: str) -> None:
    """Note a value, unless the cluster went down during the build."""
    state.values[key] = value
    folder = cluster_dir(state.name)
    with starting_or_stopping(state.name):
        current = load_state(folder)
        if current is not None:
            current.values[key] = value
            save_state(folder, current)


def ensure_base_image() -> str:
    """A minimal Debian with Python: this host's release; built once.

    Raises:
        HostUnfitError: this host is no Debian, so that there is no mirror to build from.
    """
    mirror, release = apt_mirror()
    key = hashlib.sha256(" ".join((release, *BASE_PACKAGES)).encode()).hexdigest()[:12]
    reference = f"localhost/finetune-base:{release}-{key}"
    if _buildah("inspect", "--type", "image", reference, check=False).returncode == 0:
        return reference
    with step(f"base image: Debian {release} with Python, by debootstrap"):
        container = _buildah("from", "scratch").stdout.strip()
        try:
            root = _buildah("mount", container).stdout.strip()
            packages = ",".join(BASE_PACKAGES)
            host.run(
                ["debootstrap", "--variant=minbase", f"--include={packages}", release, root, mirror]
            )
            host.run(["chroot", root, "apt-get", "clean"])
            host.run(["sh", "-c", f"rm -rf {root}/var/lib/apt/lists/* {root}/var/log/*.log"])
            _buildah("config", "--cmd", "/usr/bin/python3", container)
            _buildah("umount", container)
            _buildah("commit", container, reference)
        finally:
            _buildah("rm", container, check=False)
    return reference


def build_image(image: ProjectImage, base: str) -> str:
    """Build one image from the working tree; returns its id.

    Raises:
        BuildError: buildah failed; the message ends with its last lines.
    """
    folder = cache_root() / "images"
    identity_file = folder / f"{image.name}.id"
    command = [
        *_buildah_command("bud"),
        "--layers",
        "--isolation=chroot",
        "--network=host",
        "--format=oci",
        f"--build-arg=BASE_IMAGE={base}",
        *builder_flags(),
        f"--iidfile={identity_file}",
        f"--file={repository_root() / image.dockerfile}",
        str(repository_root()),
    ]
    log = folder / f"{image.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w") as output:
        done = subprocess.run(command, stdout=output, stderr=subprocess.STDOUT, check=False)
    if done.returncode != 0:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-25:])
        raise BuildError(f"buildah could not build {image.dockerfile}; all of it in {log}:\n{tail}")
    return identity_file.read_text().strip().removeprefix("sha256:")


def push_image(identity: str, reference: str) -> None:
    """Push an image to the loopback registry; layers it has are not sent again."""
    _buildah(
        "push",
        "--tls-verify=false",
        "--format=oci",
        # Five times as fast as gzip at the same size, and it is only for this host.
        "--compression-format=zstd",
        "--compression-level=1",
        identity,
        f"docker://{reference}",
    )


def pull_image(runtime: Runtime, reference: str) -> None:
    """Pull and unpack an image before a pod waits for it; older ones of its name go."""
    runtime.ctr(
        *("images", "pull", "--hosts-dir", str(runtime.configuration / "hosts")),
        *("--snapshotter", choose_snapshotter(runtime.root), reference),
    )
    repository = reference.rpartition(":")[0]
    for other in runtime.ctr("images", "list", "--quiet").split():
        if other.startswith(f"{repository}:") and other != reference:
            runtime.ctr("images", "delete", other, check=False)


def _buildah(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    return host.run(_buildah_command(*arguments), check=check)


def _buildah_command(verb: str, *arguments: str) -> list[str]:
    options = [f"--root={_storage()}", f"--runroot={_RUN_ROOT}"]
    return ["buildah", *options, verb, *arguments]


def _storage() -> Path:
    return cache_root() / "images" / "storage"


@contextmanager
def _building() -> Iterator[None]:
    """Have what builds images; one process at a time, as each removes at its end what all use.

    Buildah keeps its storage bound to itself, and a folder in /run.
    """
    with locked(cache_root() / "images" / "lock", "building images"):
        host.install_packages(host.IMAGE_PROGRAMS)
        try:
            yield
        finally:
            unmount_below([_storage(), _RUN_ROOT])
            shutil.rmtree(_RUN_ROOT, ignore_errors=True)
