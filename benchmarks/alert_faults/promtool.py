"""Asks promtool, Prometheus' own engine, when an alert fired over samples that were scraped."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml
from benchmarks.alert_faults.samples import Samples

_METRIC = re.compile(r"\b([a-z_:]+)\s*\{")
_UNEXPECTED = re.compile(r"alertname: \w+, time: ([0-9smhd]+),\s*exp:\[\s*\],\s*got:\[\s*[^\]\s]")
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_STEP_SECONDS = 60

Rule = dict[str, Any]
Labels = dict[str, str]


class Disagreement(Exception):  # noqa: N818 - reads as the answer it is
    """promtool found otherwise; says what."""


def metrics_of(rules: Iterable[Rule]) -> frozenset[str]:
    """Return the names of the metrics that rules ask for."""
    return frozenset(name for rule in rules for name in _METRIC.findall(rule["expr"]))


class Engine:
    """Evaluates the chart's rules over samples.

    Args:
        promtool: The program.
        groups: Rule groups of the chart, as rendered.
        folder: Where to write what it reads.
    """

    def __init__(self, promtool: Path, groups: list[dict[str, Any]], folder: Path) -> None:
        self._promtool = promtool
        self._folder = folder
        self._rules = {rule["alert"]: rule for group in groups for rule in group["rules"]}
        # Texts for people are not compared; everything that decides is as in the chart.
        bare = [
            {
                **group,
                "rules": [
                    {key: value for key, value in rule.items() if key != "annotations"}
                    for rule in group["rules"]
                ],
            }
            for group in groups
        ]
        (folder / "rules.yaml").write_text(yaml.safe_dump({"groups": bare}))

    def severity_of(self, alert: str) -> str:
        """Return the label ``severity`` of an alert."""
        return str(self._rules[alert]["labels"]["severity"])

    def first_firing(self, alert: str, samples: Samples) -> int | None:
        """Return the first whole minute at which an alert fires; None if it never does."""
        minutes = range(int(samples.seconds // _STEP_SECONDS) + 1)
        said = self._run(alert, samples, {minute: [] for minute in minutes})
        found = [_seconds_of(match[1]) // 60 for match in _UNEXPECTED.finditer(said)]
        return min(found, default=None)

    def expect(self, alert: str, samples: Samples, firing: dict[int, list[Labels]]) -> None:
        """Check what fires at some minutes, exactly.

        Raises:
            Disagreement: promtool found otherwise.
        """
        if said := self._run(alert, samples, firing):
            raise Disagreement(said)

    def _run(self, alert: str, samples: Samples, firing: dict[int, list[Labels]]) -> str:
        """Return what promtool says against this; nothing if it agrees."""
        severity = {"severity": self.severity_of(alert)}
        checks = [
            {
                "alertname": alert,
                "eval_time": f"{minute}m",
                "exp_alerts": [{"exp_labels": {**severity, **labels}} for labels in expected],
            }
            for minute, expected in firing.items()
        ]
        case = {
            "name": alert,
            "interval": f"{samples.interval_seconds:.0f}s",
            "start_timestamp": datetime.fromtimestamp(int(samples.start), UTC).isoformat(),
            "input_series": samples.to_input_series(),
            "alert_rule_test": checks,
        }
        document = {"rule_files": ["rules.yaml"], "evaluation_interval": "1m", "tests": [case]}
        path = self._folder / f"{alert}.yaml"
        path.write_text(yaml.safe_dump(document, width=10**9))
        done = subprocess.run(
            [str(self._promtool), "test", "rules", path.name],
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        return "" if done.returncode == 0 else done.stdout + done.stderr


def _seconds_of(duration: str) -> int:
    """Return a duration of Prometheus, such as ``1h5m``, in seconds."""
    return sum(
        int(number) * _UNITS[unit] for number, unit in re.findall(r"(\d+)([smhd])", duration)
    )
