"""What is scraped becomes what promtool reads, sample by sample; and every alert has a fault."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from benchmarks.alert_faults.clock import FastClock
from benchmarks.alert_faults.promtool import metrics_of
from benchmarks.alert_faults.report import Finding, keep_findings, show_page
from benchmarks.alert_faults.samples import Samples, name_series, show_number

ROOT = Path(__file__).resolve().parents[2]
RULES = ROOT / "charts/finetune-operator/templates/prometheusrule.yaml"


def samples() -> Samples:
    return Samples(
        target={"namespace": "finetune-system", "pod": "a"},
        metrics={"waits", "pushes_total"},
        start=1000.0,
        interval_seconds=30.0,
    )


def values(kept: Samples) -> dict[str, str]:
    return {each["series"]: each["values"] for each in kept.to_input_series()}


def test_a_sample_falls_into_the_interval_it_is_nearest_to():
    kept = samples()
    for late, number in ((-20, 0), (4, 1), (30, 2), (74, 3), (160, 4)):
        kept.take(f"# TYPE waits gauge\nwaits {number}\nother 1\n", 1000.0 + late)
    assert values(kept) == {'waits{namespace="finetune-system",pod="a"}': "1 2 3 _ _ 4"}
    assert kept.seconds == 150.0


def test_labels_of_the_target_give_way_to_those_of_the_metric():
    kept = samples()
    kept.take('# TYPE waits gauge\nwaits{namespace="team-a",reason="x \\"y\\""} 1.5\n', 1000.0)
    assert values(kept) == {'waits{namespace="team-a",pod="a",reason="x \\"y\\""}': "1.5"}


def test_a_series_that_is_told_no_more_goes_stale_once_and_comes_back():
    kept = samples()
    for index, text in enumerate(("waits 1\n", "", None, "waits 2\n", None)):
        kept.take(text if text is None else f"# TYPE waits gauge\n{text}", 1000.0 + 30 * index)
    assert list(values(kept).values()) == ["1 stale _ 2 stale"]


def test_counters_are_kept_by_their_own_name():
    kept = samples()
    text = '# TYPE pushes counter\npushes_total{code="200"} 12\npushes_created{code="200"} 1.7e9\n'
    kept.take(text, 1000.0)
    assert list(values(kept)) == ['pushes_total{code="200",namespace="finetune-system",pod="a"}']


@pytest.mark.parametrize(
    ("number", "text"),
    [(0.0, "0"), (1795000000.0, "1795000000"), (0.125, "0.125"), (1e-9, "0"), (-2.5, "-2.5")],
)
def test_numbers_have_no_exponent(number, text):
    assert show_number(number) == text


def test_a_series_is_named_as_prometheus_names_it():
    assert name_series("x", {"b": "a\\b", "a": "\n"}) == 'x{a="\\n",b="a\\\\b"}'


def test_metrics_are_read_off_the_rules():
    rules = [
        {"expr": 'sum(rate(a_total{x="y"}[5m])) / scalar(b{})'},
        {"expr": "max(a_total {}) > 1"},
    ]
    assert metrics_of(rules) == {"a_total", "b"}


def test_the_fast_clock_agrees_with_itself_in_another_process(monkeypatch):
    clock = FastClock(speed=20.0, origin=1.0)
    for key, text in clock.to_environment().items():
        monkeypatch.setenv(key, text)
    assert FastClock.from_environment() == clock


def test_the_page_says_what_did_not_fire():
    page = show_page([finding("A", labels={"x": "y"}), finding("B", problem="no")], ["C", "A", "B"])
    assert "| `A` | warning | f | `x=y` | 31 min | 20 | 2026-11-26 |" in page
    assert "| `B` | warning | f | - | did not fire as it must | 20 | 2026-11-26 |" in page
    assert "| `C` | | not run |" in page


def test_what_was_not_run_keeps_its_last_result(tmp_path):
    path = tmp_path / "alerts.json"
    keep_findings([finding("A"), finding("B", problem="no")], path)
    assert [each.fired for each in keep_findings([finding("B")], path)] == [True, True]


def finding(alert, *, labels=None, problem=""):
    return Finding(
        alert=alert,
        severity="warning",
        fault="f",
        labels=labels or {},
        minutes=31,
        problem=problem,
        speed=20.0,
        date="2026-11-26",
    )


def test_every_alert_of_the_chart_has_a_fault():
    folder = ROOT / "benchmarks/alert_faults"
    scenarios = "\n".join(path.read_text() for path in folder.glob("*.py"))
    for alert in re.findall(r"- alert: (\w+)", RULES.read_text()):
        assert f'"{alert}"' in scenarios
