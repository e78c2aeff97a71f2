"""The pins: every program is a tool of its go.mod, and a change of a pin is a new binary."""

from __future__ import annotations

import re
import subprocess

import pytest

from devcluster.errors import BuildError
from devcluster.host import go_program
from devcluster.paths import modules_root
from devcluster.programs.binaries import (
    BUILDS,
    CONTROL_PLANE,
    NODE,
    build_digest,
    linker_flags,
    pinned_version,
)

MODULES = sorted({build.module for build in BUILDS.values()})


def module_text(module: str) -> str:
    return (modules_root() / module / "go.mod").read_text()


@pytest.mark.parametrize("name", BUILDS)
def test_every_program_is_a_tool_of_its_module(name):
    build = BUILDS[name]
    tools = set(re.findall(r"^(?:tool\s+|\t)([\w./-]+)$", module_text(build.module), re.MULTILINE))
    assert set(build.programs.values()) <= tools


@pytest.mark.parametrize("module", MODULES)
def test_checksums_are_pinned_beside_versions(module):
    assert (modules_root() / module / "go.sum").stat().st_size > 0
    assert not list((modules_root() / module).glob("*.go"))


def test_every_module_folder_is_built():
    assert sorted(each.name for each in modules_root().iterdir()) == MODULES


def test_kubernetes_staging_modules_are_pinned_to_the_same_release():
    text = module_text("kubernetes")
    release = pinned_version(text, "k8s.io/kubernetes").removeprefix("v1.")
    staging = re.findall(r"^\t(k8s\.io/\S+) => \1 v0\.(\S+)$", text, re.MULTILINE)
    assert len(staging) > 25
    assert {version for _, version in staging} == {release}


def test_kubernetes_is_stamped_with_its_version():
    flags = linker_flags(BUILDS["kubectl"], module_text("kubernetes"))
    version = pinned_version(module_text("kubernetes"), "k8s.io/kubernetes")
    assert f"k8s.io/component-base/version.gitVersion={version}" in flags
    assert "gitMajor=1 " in flags + " "


def test_a_module_that_is_not_required_is_named():
    with pytest.raises(BuildError, match=r"example\.com/absent"):
        pinned_version(module_text("etcd"), "example.com/absent")


def test_the_digest_changes_with_all_that_decides_the_bytes():
    build = BUILDS["kubectl"]
    base = {
        "module_text": module_text("kubernetes"),
        "sums_text": "sums",
        "go_version": "go version go1.26.8 linux/amd64",
    }
    digests = {
        build_digest(build, **base),
        build_digest(build, **base | {"module_text": module_text("kubernetes") + "\n"}),
        build_digest(build, **base | {"sums_text": "other"}),
        build_digest(build, **base | {"go_version": "go version go1.27 linux/amd64"}),
        build_digest(BUILDS["kubernetes-node"], **base),
    }
    assert len(digests) == 5


def test_profiles_name_builds_that_exist():
    assert set(CONTROL_PLANE) < set(NODE) <= set(BUILDS)


@pytest.mark.slow
@pytest.mark.skipif(go_program() is None, reason="no Go on this host")
@pytest.mark.parametrize("module", MODULES)
def test_go_agrees_that_the_module_file_is_complete(module):
    """A module file that Go would change fails with -mod=readonly, in the middle of a build."""
    done = subprocess.run(
        [str(go_program()), "mod", "edit", "-json"],
        cwd=modules_root() / module,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
