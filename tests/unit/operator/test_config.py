"""Where settings come from, and that their fields decide what a word of YAML means."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic.alias_generators import to_camel

from finetune_operator.__main__ import overrides_of, parse_arguments
from finetune_operator.config import ENVIRONMENT_PREFIX, ConfigError, OperatorConfig


def from_file(name: str, text: str, tmp_path: Any) -> OperatorConfig:
    path = tmp_path / "config.yaml"
    path.write_text(f"{to_camel(name)}: {text}\n")
    return OperatorConfig.load(path, environment={})


def from_environment(name: str, text: str, tmp_path: Any) -> OperatorConfig:
    return OperatorConfig.load(environment={ENVIRONMENT_PREFIX + name.upper(): text})


def from_flags(name: str, text: str, tmp_path: Any) -> OperatorConfig:
    options = parse_arguments(["--set", f"{to_camel(name)}={text}"])
    return OperatorConfig.load(environment={}, overrides=overrides_of(options))


SOURCES = [from_file, from_environment, from_flags]

VALUES: list[tuple[str, str, object]] = [
    ("kueue", "off", "off"),
    ("kueue", "on", "on"),
    ("kueue", "auto", "auto"),
    ("default_cpu", "2", "2"),
    ("default_cpu", "0.5", "0.5"),
    ("default_cpu", '"2"', "2"),
    ("default_memory", "1024", "1024"),
    ("cache_claim", "on", "on"),
    ("leader_election_name", "2026-11-25", "2026-11-25"),
    ("allow_cpu", "true", True),
    ("allow_cpu", "On", True),
    ("allow_cpu", "no", False),
    ("num_workers", "8", 8),
    ("requests_per_second", "12.5", 12.5),
    ("namespaces", "[on, team-a]", ["on", "team-a"]),
    ("trainer_environment", "{HF_HUB_OFFLINE: 1, DEBUG: yes}",
     {"HF_HUB_OFFLINE": "1", "DEBUG": "yes"}),
]  # fmt: skip


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize(
    ("name", "text", "expected"), VALUES, ids=[f"{name}={text}" for name, text, _ in VALUES]
)
def test_a_value_is_what_its_field_takes_it_for(source, name, text, expected, tmp_path):
    assert getattr(source(name, text, tmp_path), name) == expected


@pytest.mark.parametrize("source", SOURCES[1:], ids=lambda source: source.__name__)
def test_text_that_is_no_scalar_of_yaml_stays_text(source, tmp_path):
    assert source("cache_claim", "", tmp_path).cache_claim == ""
    assert source("progress_url", "[::1]:80", tmp_path).progress_url == "[::1]:80"


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.__name__)
@pytest.mark.parametrize(
    ("name", "text"),
    [("kueue", "yes"), ("allow_cpu", "maybe"), ("num_workers", "many"), ("namespaces", "[a")],
)
def test_what_a_field_cannot_take_is_refused(source, name, text, tmp_path):
    with pytest.raises(ConfigError):
        source(name, text, tmp_path)


def test_nothing_is_not_text(tmp_path):
    with pytest.raises(ConfigError, match="cacheClaim"):
        from_file("cache_claim", "null", tmp_path)
