"""The pytest options `--suite`, `--lane` and `--record`: what runs, and how it ended."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kit.suites import ROOT, read_suites

NUM_LINES_OF_FAILURE = 40


def add_options(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("suites", "which tests run: tests/suites.toml")
    group.addoption("--suite", action="append", default=[], help="run tests of this suite; repeat")
    group.addoption("--lane", help="run tests of this lane: local, api or node")
    group.addoption("--record", type=Path, help="append one JSON line for each test to this file")


def register(config: pytest.Config) -> None:
    """Let the options act on all tests of this session, wherever they lie."""
    if config.option.suite or config.option.lane:
        config.pluginmanager.register(_Selection(config))
    # A process of xdist reports to the one that started it.
    if config.option.record and not hasattr(config, "workerinput"):
        config.pluginmanager.register(_Record(config.option.record))


class _Selection:
    """Runs only what `--suite` and `--lane` name."""

    def __init__(self, config: pytest.Config) -> None:
        self._wanted = frozenset(config.option.suite)
        self._lane: str | None = config.option.lane
        self._suites = read_suites()

    def pytest_ignore_collect(self, collection_path: Path) -> bool | None:
        if collection_path.suffix != ".py" or not self._wanted:
            return None
        file = _name(collection_path)
        return None if self._suites.may_hold(file, self._wanted, self._lane) else True

    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        chosen, others = [], []
        for item in items:
            (chosen if self._is_chosen(item) else others).append(item)
        config.hook.pytest_deselected(items=others)
        items[:] = chosen

    def _is_chosen(self, item: pytest.Item) -> bool:
        fast = item.get_closest_marker("fast") is not None
        has_suite = self._suites.suite_of(item.nodeid, fast=fast) in self._wanted
        has_lane = self._lane is None or self._suites.lane_of(item.nodeid) == self._lane
        return has_lane and (has_suite or not self._wanted)


class _Record:
    """Appends name, suite, seconds, outcome and the end of a failure's report, as tests end."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self._suites = read_suites()
        self._open: dict[str, dict[str, Any]] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        line = self._open.setdefault(report.nodeid, {"seconds": 0.0, "outcome": "passed"})
        line["seconds"] += report.duration
        if report.skipped and line["outcome"] == "passed":
            line["outcome"] = "skipped"
        if report.failed:
            line.update(outcome="failed" if report.when == "call" else "error", end=_end_of(report))
        # The report of a process that died has no phase.
        if report.when not in ("setup", "call"):
            self._append(report.nodeid, self._open.pop(report.nodeid), "fast" in report.keywords)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            line = {"seconds": 0.0, "outcome": "error", "end": _end_of(report)}
            self._append(report.nodeid, line, is_fast=False)

    def _append(self, test: str, line: dict[str, Any], is_fast: bool) -> None:
        named = {"name": test, "suite": self._suites.suite_of(test, fast=is_fast)}
        whole = {**named, **line, "seconds": round(line["seconds"], 2)}
        with self._file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(whole) + "\n")


def _end_of(report: pytest.TestReport | pytest.CollectReport) -> str:
    return "\n".join(report.longreprtext.splitlines()[-NUM_LINES_OF_FAILURE:])


def _name(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)
