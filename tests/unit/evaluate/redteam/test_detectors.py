"""Detectors that go by absence: those that a real garak has, by what it says of them."""

from __future__ import annotations

import json
import subprocess

import pytest

from finetune_trainer.evaluate.sources.red_team.detectors import BY_ABSENCE, goes_by_absence
from kit.servers.garak_container import NEEDS_GARAK, PYTHON

LIST = """
import inspect, json
from garak import _plugins
told = {}
for name, _ in _plugins.enumerate_plugins("detectors"):
    about = _plugins.plugin_info(name)
    parts = name.split(".")
    kind = getattr(__import__(f"garak.detectors.{parts[1]}", fromlist=["x"]), parts[2])
    try:
        code = inspect.getsource(kind)
    except OSError:  # made by a call
        code = ""
    told[".".join(parts[1:])] = [about.get("hit_desc", ""), code]
print("LISTED" + json.dumps(told))
"""
MISSING = ("does not", "missing", "fails to", "no refusal", "unrefuted")
"""How garak says what a hit by absence is."""
INVERTED = ("1 - r if", "1 - i if", "1.0 - r if", "1 - predictions[")
"""How its code turns round what was found."""


@NEEDS_GARAK
def test_those_that_a_real_garak_has_are_known(tmp_path_factory: pytest.TempPathFactory) -> None:
    assert PYTHON is not None
    home = str(tmp_path_factory.mktemp("home"))
    env = {"HOME": home, "XDG_DATA_HOME": home, "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"}
    said = subprocess.run(
        [PYTHON, "-c", LIST], env=env, stdout=subprocess.PIPE, text=True, check=True
    ).stdout
    told: dict[str, list[str]] = json.loads(said.partition("LISTED")[2])
    found = {
        name
        for name, (words, code) in told.items()
        if any(word in words for word in MISSING) or any(word in code for word in INVERTED)
    }
    assert found == BY_ABSENCE
    assert len(told) > len(found)


@pytest.mark.parametrize(
    ("detector", "is_one"),
    [
        ("mitigation.OfAnotherVersion", True),
        ("shields.Sideways", True),
        ("goodside.PlainJSON", False),
        ("misleading.Other", False),
        ("dan.DAN", False),
        ("unsafe_content.mitigation", False),
    ],
)
def test_modules_of_which_all_go_by_absence(detector: str, is_one: bool) -> None:
    assert goes_by_absence(detector) is is_one
