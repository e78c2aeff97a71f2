"""The chart's alerts: what promtool says of them, and that each leads to its runbook."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit.cluster.chart import Render
from kit.cluster.devcluster import ensure_built, go_program
from kit.cluster.exported_metrics import exported_metrics, faults_of

ROOT = Path(__file__).resolve().parents[2]
RUNBOOK = "docs/how-to/troubleshooting.md"
CASES = Path(__file__).with_name("alerts.yaml")


@pytest.fixture
def groups(render: Render) -> list[dict[str, Any]]:
    objects = render({"metrics": {"prometheusRule": {"enabled": True}}})
    (rule,) = (each for each in objects if each["kind"] == "PrometheusRule")
    found: list[dict[str, Any]] = rule["spec"]["groups"]
    return found


def alerts_of(groups: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {rule["alert"]: rule for group in groups for rule in group["rules"]}


def promtool(*arguments: str, folder: Path) -> subprocess.CompletedProcess[str]:
    if go_program() is None:
        pytest.skip("promtool is built from its sources, and there is no Go")
    return subprocess.run(
        [str(ensure_built("promtool") / "promtool"), *arguments],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=900,
    )


def without_annotations(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rules without what people read: a test of an alert would have to repeat it."""
    return [
        {
            **group,
            "rules": [
                {key: value for key, value in rule.items() if key != "annotations"}
                for rule in group["rules"]
            ],
        }
        for group in groups
    ]


def test_samples_are_notations_of_promtool_and_no_numbers_of_yaml():
    # 0x30 without quotes is 48 to YAML: one sample instead of thirty zeros.
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for series in case["input_series"]:
            assert isinstance(series["values"], str), f"{case['name']}: quote {series['series']}"


def test_alerts_fire_when_they_have_to_and_only_then(groups, tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": without_annotations(groups)}))
    cases = {"rule_files": ["rules.yaml"], **yaml.safe_load(CASES.read_text())}
    (tmp_path / "cases.yaml").write_text(yaml.safe_dump(cases))
    done = promtool("test", "rules", "cases.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_finds_no_fault_in_rules_and_their_texts(groups, tmp_path):
    (tmp_path / "rules.yaml").write_text(yaml.safe_dump({"groups": groups}))
    done = promtool("check", "rules", "--lint=all", "--lint-fatal", "rules.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_alert_is_seen_to_fire_and_to_keep_still(groups):
    fires: set[str] = set()
    keeps_still: set[str] = set()
    for case in yaml.safe_load(CASES.read_text())["tests"]:
        for check in case["alert_rule_test"]:
            (fires if check["exp_alerts"] else keeps_still).add(check["alertname"])
    assert fires == keeps_still == set(alerts_of(groups))


def test_every_alert_leads_to_a_heading_of_its_own(groups):
    headings = re.findall(r"^#+ (.+)$", (ROOT / RUNBOOK).read_text(), re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", text).lower().replace(" ", "-") for text in headings}
    for name, rule in alerts_of(groups).items():
        path, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert path == RUNBOOK
        assert anchor == name.lower()
        assert anchor in anchors
        assert rule["annotations"]["summary"].rstrip(".")
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_runbooks_are_found_where_the_administrator_says(render):
    settings = {"enabled": True, "repositoryUrl": "https://git.example.org/ft/blob/v1/"}
    objects = render({"metrics": {"prometheusRule": settings}})
    (rule,) = (each for each in objects if each["kind"] == "PrometheusRule")
    urls = [
        each["annotations"]["runbook_url"] for each in alerts_of(rule["spec"]["groups"]).values()
    ]
    assert all(url.startswith(f"https://git.example.org/ft/blob/v1/{RUNBOOK}#") for url in urls)


def test_alerts_ask_for_metrics_and_labels_that_exist(groups):
    """A metric that was renamed leaves an alert that never fires."""
    known = exported_metrics()
    for name, rule in alerts_of(groups).items():
        assert faults_of(rule["expr"], known) == set(), name
        texts = " ".join(rule["annotations"].values())
        for label in re.findall(r"\$labels\.(\w+)", texts):
            assert re.search(rf"by \([^)]*\b{label}\b", rule["expr"]), f"{name}: {label}"


@pytest.mark.parametrize(
    ("query", "faults"),
    [
        ('sum by (phase) (finetune_jobs{namespace="a"}) > 1', set()),
        ("finetune_job", {"finetune_job"}),
        (
            'rate(finetune_front_requests_total{endpoint="x"}[5m])',
            {"finetune_front_requests_total{endpoint}"},
        ),
        ("sum by (stage) (finetune_jobs)", {"stage"}),
        ('finetune_front_requests{code="1"}', {"finetune_front_requests"}),
    ],
)
def test_a_query_that_asks_in_vain_is_found(query, faults):
    assert faults_of(query, exported_metrics()) == faults


def test_every_metric_of_jobs_is_documented():
    rooms = (ROOT / "operator/finetune_operator", ROOT / "trainer_image/finetune_trainer/serve")
    source = "\n".join(path.read_text() for room in rooms for path in room.rglob("*.py"))
    documented = (ROOT / "docs" / "reference" / "metrics.md").read_text()
    names = set(re.findall(r'"(finetune_[a-z_]+)"', source)) - {"finetune_operator"}
    assert len(names) > 8
    # A counter is exported with this ending.
    names = {f"{name}_total" if f"`{name}_total`" in documented else name for name in names}
    assert {name for name in names if f"`{name}`" not in documented} == set()
    assert set(re.findall(r"^\| `(finetune_\w+)`", documented, re.M)) <= names
