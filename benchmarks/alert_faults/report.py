"""The table of alerts that were seen to fire."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parents[2] / "benchmarks" / "results"
RESULTS, PAGE = _FOLDER / "alerts.json", _FOLDER / "alerts.md"

_INTRODUCTION = """# Alerts, fired by real faults

<!-- Written by `make alert-faults`. Do not edit. -->

Each alert of the chart, the fault that was done, and how long after it Prometheus' engine
(promtool) let the alert fire, by the operator's clock. At the fault's beginning it was still, and
it fired with exactly these labels.

Real: the API server, the Job controller, Kueue, the operator as a process with its endpoints and
its `/metrics`, scraped every 30 s of its clock; the rules, with their thresholds, windows and
`for`, as the chart renders them (`queuedSeconds` set to half an hour; a day by default). Not real:
there is no kubelet, so pods are played (but the front whose engine fails and its recorder are
processes of their own, before an engine without a model); and the operators' clock runs faster (the
column *speed*), samples being stamped by the same clock, so that hours pass in minutes. Back-off
and time-outs stay as they are, so errors per second seem as much rarer: an alert on a rate is
harder to fire here than in life. `make alert-faults SPEED=1` takes about two hours and changes no
clock.

| alert | severity | fault | labels | fired after | speed | run |
|---|---|---|---|---|---|---|
"""


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What came of one alert.

    Attributes:
        alert: Its name.
        severity: Its severity.
        fault: What was done.
        labels: With which it had to fire, beside the severity.
        minutes: From the fault to the first evaluation at which it fired.
        problem: What was wrong; empty if nothing was.
        speed: Seconds of the operator's clock in one of ours.
        date: When, in ISO 8601.
    """

    alert: str
    severity: str
    fault: str
    labels: Mapping[str, str]
    minutes: int
    problem: str
    speed: float
    date: str

    @property
    def fired(self) -> bool:
        """Whether it fired, and as it had to."""
        return not self.problem

    def tell(self) -> str:
        """Return one line for the terminal."""
        end = f"{self.minutes} min" if self.fired else self.problem
        return f"{'ok' if self.fired else 'WRONG':5} {self.alert}: {end}"


def keep_findings(findings: Iterable[Finding], path: Path = RESULTS) -> list[Finding]:
    """Put findings beside those that are kept, by alert; return all."""
    kept: dict[str, Finding] = {}
    if path.exists():
        kept = {wire["alert"]: Finding(**wire) for wire in json.loads(path.read_text())}
    kept |= {finding.alert: finding for finding in findings}
    found = [kept[alert] for alert in sorted(kept)]
    path.write_text(json.dumps([asdict(each) for each in found], indent=1) + "\n")
    return found


def show_page(findings: Iterable[Finding], alerts: Iterable[str]) -> str:
    """Return the page: a line for each of the chart's alerts."""
    by_alert = {finding.alert: finding for finding in findings}
    lines = [
        _line_of(by_alert[alert]) if alert in by_alert else f"| `{alert}` | | not run | | | | |"
        for alert in sorted(alerts)
    ]
    return _INTRODUCTION + "\n".join(lines) + "\n"


def _line_of(finding: Finding) -> str:
    labels = ", ".join(f"`{key}={text}`" for key, text in finding.labels.items()) or "-"
    end = f"{finding.minutes} min" if finding.fired else "did not fire as it must"
    name, speed = f"`{finding.alert}`", f"{finding.speed:g}"
    cells = (name, finding.severity, finding.fault, labels, end, speed, finding.date)
    return f"| {' | '.join(cells)} |"
