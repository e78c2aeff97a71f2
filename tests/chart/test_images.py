"""What both Dockerfiles promise; needs no builder."""

from __future__ import annotations

import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILES = {
    "finetune_operator": ROOT / "operator" / "Dockerfile",
    "finetune_trainer": ROOT / "trainer_image" / "Dockerfile",
}


def instructions(path: Path) -> list[tuple[str, str]]:
    """Instructions and their arguments, continuation lines joined, comments gone."""
    lines = [line for line in path.read_text().splitlines() if not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(lines))
    return [
        (word, rest)
        for word, _, rest in (line.partition(" ") for line in joined.split("\n"))
        if word
    ]


@pytest.fixture(params=DOCKERFILES)
def module(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_image_runs_its_module_as_a_numbered_user(module: str) -> None:
    final = dict(instructions(DOCKERFILES[module]))  # the last one of each kind counts
    assert final["USER"] == "65532:65532"
    assert final["ENTRYPOINT"] == f'["python", "-m", "{module}"]'
    assert final["WORKDIR"] == "/tmp"


def test_every_stage_starts_from_the_base_argument_or_another_stage(module: str) -> None:
    names = {"${BASE_IMAGE}"}
    for word, rest in instructions(DOCKERFILES[module]):
        if word == "FROM":
            image, _, name = rest.partition(" AS ")
            assert image in names
            names.add(name)


def test_base_image_has_a_fixed_tag(module: str) -> None:
    default = next(
        rest for word, rest in instructions(DOCKERFILES[module]) if rest.startswith("BASE_IMAGE=")
    )
    assert re.fullmatch(r"BASE_IMAGE=python:3\.\d+-slim-\w+", default)


def test_dependencies_depend_on_the_lock_alone(module: str) -> None:
    """Nothing is copied before the install but the lock: code cannot invalidate the layer."""
    copied: list[str] = []
    for word, rest in instructions(DOCKERFILES[module]):
        if word == "COPY":
            copied.append(rest)
        if word == "RUN" and "pip install" in rest:
            assert "--require-hashes" in rest
            assert "--no-cache-dir" in rest
            break
    assert copied == ["${REQUIREMENTS} /opt/finetune/requirements.lock"]


def test_only_the_modules_of_this_image_are_copied(module: str) -> None:
    folders = {"finetune_operator": "operator", "finetune_trainer": "trainer_image"}
    copied = [
        rest.split()[0]
        for word, rest in instructions(DOCKERFILES[module])
        if word == "COPY" and "finetune_" in rest and not rest.startswith("--from")
    ]
    assert copied == ["operator/finetune_api", f"{folders[module]}/{module}"]


def test_trainer_keeps_every_cache_below_tmp() -> None:
    settings = next(
        rest
        for word, rest in instructions(DOCKERFILES["finetune_trainer"])
        if word == "ENV" and "HF_HOME" in rest
    )
    values = dict(item.split("=", 1) for item in settings.split())
    folders = {
        n: v for n, v in values.items() if n.endswith(("_HOME", "_DIR", "CACHE", "CACHE_PATH"))
    }
    assert len(folders) >= 9
    assert [n for n, v in folders.items() if not v.startswith("/tmp/")] == []
    assert values["HOME"] == "/tmp"


def test_context_holds_what_is_copied_and_no_more() -> None:
    rules = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]

    def is_sent(path: str) -> bool:
        parents = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
        sent = True
        for rule in rules:
            pattern = rule.removeprefix("!").removeprefix("**/")
            anywhere = "**/" in rule
            for parent in parents:
                name = parent.split("/")[-1] if anywhere else parent
                depth_fits = anywhere or parent.count("/") == pattern.count("/")
                if depth_fits and fnmatch.fnmatch(name, pattern):
                    sent = rule.startswith("!")
        return sent

    for path in ("LICENSE", "requirements/operator.lock", "requirements/trainer.lock"):
        assert is_sent(path), path
    for path in (
        "operator/finetune_api/meta.py",
        "operator/finetune_operator/app.py",
        "trainer_image/finetune_trainer/train/stage.py",
    ):
        assert is_sent(path), path
    for path in (
        "README.md",
        ".git/config",
        ".venv/bin/python",
        "requirements/dev.lock",
        "operator/finetune_cli/__main__.py",
        "operator/finetune_api/__pycache__/meta.cpython-311.pyc",
        "trainer_image/data.jsonl",
        "tests/conftest.py",
        ".env",
    ):
        assert not is_sent(path), path


def test_trainer_image_has_the_libraries_that_nccl_opens_by_name() -> None:
    system = [rest for word, rest in instructions(DOCKERFILES["finetune_trainer"]) if word == "RUN"]
    packages = re.search(r'packages="([^"]*)"', system[0])
    assert packages
    wanted = {"libibverbs1", "ibverbs-providers", "librdmacm1", "libnuma1"}
    assert wanted <= set(packages[1].split())
