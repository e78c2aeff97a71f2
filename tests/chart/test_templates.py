"""Values in, expected objects out."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from finetune_api.names import SERVING_LABEL
from finetune_api.protocol.serving import REPORT_PORT
from finetune_operator.config import OperatorConfig
from finetune_operator.finetuneendpoint.render.front import render_front
from kit.cluster.chart import CHART, Objects, Render, RenderError

DEFAULT = {
    "CustomResourceDefinition/finetunejobs.finetune.dev",
    "CustomResourceDefinition/finetuneapprovals.finetune.dev",
    "CustomResourceDefinition/finetunesweeps.finetune.dev",
    "CustomResourceDefinition/finetuneendpoints.finetune.dev",
    "CustomResourceDefinition/finetuneschedules.finetune.dev",
    "ServiceAccount/finetune-operator",
    "ConfigMap/finetune-operator",
    "Deployment/finetune-operator",
    "Service/finetune-operator-progress",
    "Service/finetune-operator-metrics",
    "PodDisruptionBudget/finetune-operator",
    "NetworkPolicy/finetune-operator",
    "ClusterRole/finetune-operator-controller",
    "ClusterRoleBinding/finetune-operator-controller",
    "ClusterRole/finetune-operator-progress",
    "ClusterRoleBinding/finetune-operator-progress",
    "Role/finetune-operator-leader",
    "RoleBinding/finetune-operator-leader",
    "ClusterRole/finetune-operator-view",
    "ClusterRole/finetune-operator-edit",
    "ClusterRole/finetune-operator-approver",
    "ValidatingAdmissionPolicy/finetune-operator-approvals",
    "ValidatingAdmissionPolicyBinding/finetune-operator-approvals",
    "ValidatingAdmissionPolicy/finetune-operator-requesters",
    "ValidatingAdmissionPolicyBinding/finetune-operator-requesters",
    "FlowSchema/finetune-operator",
    "FlowSchema/finetune-operator-tenants",
    "PriorityLevelConfiguration/finetune-operator-tenants",
    "ValidatingAdmissionPolicy/finetune-operator-tenants",
    "ValidatingAdmissionPolicyBinding/finetune-operator-tenants",
}
RBAC = {name for name in DEFAULT if "Role" in name}
MONITORING = {
    "ServiceMonitor/finetune-operator",
    "PodMonitor/finetune-operator-serving",
    "PrometheusRule/finetune-operator",
    "ConfigMap/finetune-operator-dashboard",
}

# name: (values, objects more than by default, objects fewer)
MATRIX: dict[str, tuple[dict[str, Any], set[str], set[str]]] = {
    "defaults": ({}, set(), set()),
    "two namespaces": (
        {"watch": {"namespaces": ["team-a", "team-b"]}},
        {
            "Role/finetune-operator-controller@team-a",
            "Role/finetune-operator-controller@team-b",
            "RoleBinding/finetune-operator-controller@team-a",
            "RoleBinding/finetune-operator-controller@team-b",
        },
        {
            "ClusterRole/finetune-operator-controller",
            "ClusterRoleBinding/finetune-operator-controller",
        },
    ),
    "one replica": ({"replicas": 1}, set(), {"PodDisruptionBudget/finetune-operator"}),
    "no disruption budget": (
        {"podDisruptionBudget": {"enabled": False}},
        set(),
        {"PodDisruptionBudget/finetune-operator"},
    ),
    "no network policy": (
        {"networkPolicy": {"enabled": False}},
        set(),
        {"NetworkPolicy/finetune-operator"},
    ),
    "rights bound elsewhere": ({"rbac": {"create": False}}, set(), RBAC),
    "no roles for people": (
        {"rbac": {"aggregateToDefaultRoles": False}},
        set(),
        {"ClusterRole/finetune-operator-view", "ClusterRole/finetune-operator-edit"},
    ),
    "names not enforced": (
        {"approvals": {"enforceIdentity": False}},
        set(),
        {
            "ValidatingAdmissionPolicy/finetune-operator-approvals",
            "ValidatingAdmissionPolicyBinding/finetune-operator-approvals",
            "ValidatingAdmissionPolicy/finetune-operator-requesters",
            "ValidatingAdmissionPolicyBinding/finetune-operator-requesters",
        },
    ),
    "no policy of tenants": (
        {"tenantPolicy": {"enabled": False}},
        set(),
        {
            "ValidatingAdmissionPolicy/finetune-operator-tenants",
            "ValidatingAdmissionPolicyBinding/finetune-operator-tenants",
        },
    ),
    "no limits of writes": (
        {"writeLimits": {"enabled": False}},
        set(),
        {
            "FlowSchema/finetune-operator",
            "FlowSchema/finetune-operator-tenants",
            "PriorityLevelConfiguration/finetune-operator-tenants",
        },
    ),
    "existing account": (
        {"serviceAccount": {"create": False, "name": "mine"}},
        set(),
        {"ServiceAccount/finetune-operator"},
    ),
    "monitoring": (
        {
            "metrics": {
                "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
                "prometheusRule": {"enabled": True},
                "dashboard": {"enabled": True},
            }
        },
        MONITORING,
        set(),
    ),
    "kueue": ({"kueue": {"enabled": True}}, set(), set()),
    "no endpoints": ({"endpoints": {"enabled": False}}, set(), set()),
    "progress over HTTPS": (
        {"progress": {"tls": {"secretName": "progress", "caConfigMap": "progress-ca"}}},
        set(),
        set(),
    ),
    "every pod setting": (
        {
            "commonLabels": {"team": "platform"},
            "imagePullSecrets": [{"name": "registry"}],
            "priorityClassName": "system-cluster-critical",
            "nodeSelector": {"kubernetes.io/os": "linux"},
            "tolerations": [{"key": "infra", "operator": "Exists"}],
            "affinity": {"nodeAffinity": {}},
            "topologySpreadConstraints": [
                {"topologyKey": "zone", "maxSkew": 1, "whenUnsatisfiable": "DoNotSchedule"}
            ],
            "podAnnotations": {"a": "b"},
            "podLabels": {"c": "d"},
            "extraEnv": [{"name": "HTTPS_PROXY", "value": "http://proxy.example.org"}],
            "config": {"numWorkers": 8, "trainerEnvironment": {"HF_ENDPOINT": "https://hf.x"}},
        },
        set(),
        set(),
    ),
}
CASES = [pytest.param(values, id=name) for name, (values, _, _) in MATRIX.items()]


def identity(item: dict[str, Any]) -> str:
    namespace = item["metadata"].get("namespace", "finetune-system")
    suffix = "" if namespace == "finetune-system" else f"@{namespace}"
    return f"{item['kind']}/{item['metadata']['name']}{suffix}"


def find(objects: Objects, kind: str, name: str = "finetune-operator") -> dict[str, Any]:
    return next(o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)


def operator_config(objects: Objects, tmp_path: Path) -> OperatorConfig:
    path = tmp_path / "config.yaml"
    path.write_text(find(objects, "ConfigMap")["data"]["config.yaml"])
    return OperatorConfig.load(path, environment={})


def rules_of(objects: Objects) -> list[dict[str, Any]]:
    """The rules that are bound to the operator's service account."""
    bound = {o["roleRef"]["name"] for o in objects if o["kind"].endswith("RoleBinding")}
    roles = (o for o in objects if o["kind"] in ("Role", "ClusterRole"))
    return [rule for role in roles if role["metadata"]["name"] in bound for rule in role["rules"]]


@pytest.mark.parametrize("name", MATRIX)
def test_values_give_exactly_these_objects(name: str, render: Render) -> None:
    values, more, fewer = MATRIX[name]
    objects = [identity(item) for item in render(values)]
    assert len(objects) == len(set(objects))
    assert set(objects) == (DEFAULT | more) - fewer


@pytest.mark.parametrize("values", CASES)
def test_chart_passes_strict_lint(values: dict[str, Any], run_helm: Any, tmp_path: Path) -> None:
    path = tmp_path / "values.yaml"
    path.write_text(yaml.safe_dump(values))
    done = run_helm("lint", "--strict", "--values", str(path), str(CHART))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("values", CASES)
def test_no_role_has_wildcards_or_reads_secrets(values: dict[str, Any], render: Render) -> None:
    for item in render(values):
        for rule in item.get("rules") or []:
            words = [*rule["apiGroups"], *rule["resources"], *rule["verbs"]]
            assert not [word for word in words if "*" in word], (identity(item), rule)
            if "secrets" in rule["resources"]:
                assert (rule["resources"], rule["verbs"]) == (["secrets"], ["create"])
            forbidden = {"impersonate", "bind", "escalate"} & set(rule["verbs"])
            assert not forbidden, identity(item)


@pytest.mark.parametrize("values", CASES)
def test_operator_reads_its_configuration(
    values: dict[str, Any], render: Render, tmp_path: Path
) -> None:
    config = operator_config(render(values), tmp_path)
    assert config.trainer_image == "finetune-trainer:0.1.0"
    assert config.leader_election
    assert config.leader_election_namespace == "finetune-system"


def test_service_variables_are_not_read_as_settings(render: Render) -> None:
    (deployment,) = (each for each in render({}) if each["kind"] == "Deployment")
    assert deployment["spec"]["template"]["spec"]["enableServiceLinks"] is False


def test_namespaces_bound_the_operators_rights(render: Render, tmp_path: Path) -> None:
    objects = render({"watch": {"namespaces": ["team-a"]}})
    cluster_wide = [o["metadata"]["name"] for o in objects if o["kind"] == "ClusterRoleBinding"]
    assert cluster_wide == ["finetune-operator-progress"]
    assert operator_config(objects, tmp_path).namespaces == ["team-a"]
    policy = find(objects, "NetworkPolicy")
    selector = policy["spec"]["ingress"][0]["from"][0]["namespaceSelector"]
    assert selector["matchExpressions"][0]["values"] == ["team-a"]


def test_scope_changes_where_rights_hold_and_not_which(render: Render) -> None:
    def controller_rules(values: dict[str, Any]) -> list[Any]:
        roles = [
            o["rules"]
            for o in render(values)
            if o["metadata"]["name"] == "finetune-operator-controller" and "rules" in o
        ]
        assert all(rules == roles[0] for rules in roles)
        return roles[0]

    assert controller_rules({}) == controller_rules({"watch": {"namespaces": ["a", "b"]}})


def rights_of(objects: Objects) -> set[tuple[str, str]]:
    """The operator's rights: (resource, verb)."""
    return {
        (resource, verb)
        for rule in rules_of(objects)
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def test_without_endpoints_the_operator_creates_no_accounts_roles_and_secrets(
    render: Render,
) -> None:
    values = {"endpoints": {"enabled": False}}
    added = rights_of(render({})) - rights_of(render(values))
    assert {resource for resource, _ in added} == {
        "deployments",
        "finetuneendpoints",
        "finetuneendpoints/status",
        "horizontalpodautoscalers",
        "networkpolicies",
        "poddisruptionbudgets",
        "rolebindings",
        "roles",
        "secrets",
        "serviceaccounts",
    }
    policy = find(render(values), "NetworkPolicy")
    assert not [rule for rule in policy["spec"]["egress"] if "to" in rule]


def test_the_operator_gives_serving_pods_no_more_than_it_has(render: Render) -> None:
    """RBAC refuses to create a role whose rights its creator lacks."""
    given = {("finetuneendpoints", verb) for verb in ("get", "list", "watch")}
    assert given <= rights_of(render({}))


@pytest.mark.parametrize(
    ("config", "is_granted"),
    [
        ({}, False),
        ({"kedaPrometheusUrl": "http://prometheus.monitoring.svc:9090"}, True),
        (
            {"policies": [{"namespaces": ["a"], "kedaPrometheusUrl": "http://prometheus:9090"}]},
            True,
        ),
        ({"policies": [{"namespaces": ["a"], "allowCpu": True}]}, False),
    ],
)
def test_objects_of_keda_are_created_where_it_scales_some_namespace(
    config: dict[str, Any], is_granted: bool, run_helm: Any, tmp_path: Path
) -> None:
    path = tmp_path / "values.yaml"
    scraped = {"networkPolicy": {"metricsNamespaceSelector": {}}}
    path.write_text(yaml.safe_dump({"config": config, "endpoints": scraped}))
    done = run_helm("template", "x", str(CHART), f"--values={path}", "--skip-schema-validation")
    assert done.returncode == 0, done.stderr
    objects = list(filter(None, yaml.safe_load_all(done.stdout)))
    assert (("scaledobjects", "create") in rights_of(objects)) is is_granted


def test_reports_are_read_from_serving_pods_of_the_watched_namespaces(render: Render) -> None:
    (rule,) = (
        rule
        for rule in find(render({"watch": {"namespaces": ["a"]}}), "NetworkPolicy")["spec"][
            "egress"
        ]
        if "to" in rule
    )
    (peer,) = rule["to"]
    assert peer["podSelector"]["matchExpressions"][0]["key"] == SERVING_LABEL
    assert peer["namespaceSelector"]["matchExpressions"][0]["values"] == ["a"]
    assert rule["ports"] == [{"port": REPORT_PORT, "protocol": "TCP"}]


MONITORING = {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}


@pytest.mark.parametrize(
    ("selector", "added"),
    [
        (None, []),
        ({}, [{"namespaceSelector": {}}]),
        (MONITORING, [{"namespaceSelector": MONITORING}]),
    ],
)
def test_only_the_operator_and_named_namespaces_read_reports_of_serving_pods(
    selector: Any, added: list[Any], render: Render, tmp_path: Path
) -> None:
    values = {"endpoints": {"networkPolicy": {"metricsNamespaceSelector": selector}}}
    objects = render(values)
    own, *others = operator_config(objects, tmp_path).serving_report_peers
    pod = find(objects, "Deployment")["spec"]["template"]["metadata"]["labels"]
    assert own["podSelector"]["matchLabels"].items() <= pod.items()
    namespace = find(objects, "Deployment")["metadata"]["namespace"]
    assert own["namespaceSelector"]["matchLabels"] == {"kubernetes.io/metadata.name": namespace}
    assert others == added


def test_a_scraping_prometheus_reaches_serving_pods_where_it_reaches_the_operator(
    render: Render, tmp_path: Path
) -> None:
    values = {
        "metrics": {"serviceMonitor": {"enabled": True}},
        "networkPolicy": {"metricsNamespaceSelector": MONITORING},
    }
    _, added = operator_config(render(values), tmp_path).serving_report_peers
    assert added == {"namespaceSelector": MONITORING}


def test_without_network_policies_the_operator_makes_none(render: Render, tmp_path: Path) -> None:
    objects = render({"endpoints": {"networkPolicy": {"enabled": False}}})
    assert operator_config(objects, tmp_path).serving_report_peers == []
    assert rights_of(render({})) - rights_of(objects) == {
        ("networkpolicies", "create"),
        ("networkpolicies", "patch"),
    }


def test_a_prometheus_that_scales_servers_must_be_let_to_them(render: Render) -> None:
    keda = {"config": {"kedaPrometheusUrl": "http://prometheus.monitoring.svc:9090"}}
    with pytest.raises(RenderError, match=r"endpoints\.networkPolicy\.metricsNamespaceSelector"):
        render(keda)
    assert render({**keda, "endpoints": {"networkPolicy": {"enabled": False}}})


def test_whoever_edits_endpoints_does_not_say_which_version_answers(render: Render) -> None:
    edit = find(render({}), "ClusterRole", "finetune-operator-edit")["rules"]
    assert {resource for rule in edit for resource in rule["resources"]} == {
        "finetunejobs",
        "finetunesweeps",
        "finetuneendpoints",
        "finetuneschedules",
    }


def test_approving_is_part_of_no_other_role_and_no_decision_can_be_taken_away(
    render: Render,
) -> None:
    granted = {
        (role["metadata"]["name"], verb)
        for role in render({})
        for rule in role.get("rules") or []
        if "finetuneapprovals" in rule.get("resources", [])
        for verb in rule["verbs"]
        if verb not in ("get", "list", "watch")
    }
    assert granted == {("finetune-operator-approver", "create")}


def requester_rules(objects: Objects, name: str = "finetune-operator") -> list[dict[str, Any]]:
    policy = find(objects, "ValidatingAdmissionPolicy", f"{name}-requesters")
    rules: list[dict[str, Any]] = policy["spec"]["validations"]
    return rules


def test_only_trusted_users_and_the_operator_ask_for_jobs_in_other_names(render: Render) -> None:
    values = {"serviceAccount": {"name": "tuner"}, "approvals": {"trustedUsers": ["flux"]}}
    (rule,) = requester_rules(render(values))
    namespace = find(render(values), "Deployment", "finetune-operator")["metadata"]["namespace"]
    trusted = ["flux", f"system:serviceaccount:{namespace}:tuner"]
    assert json.loads(rule["expression"].rpartition("variables.user in ")[2]) == trusted
    assert rule["reason"] == "Forbidden"


@pytest.mark.parametrize(
    ("config", "expression"),
    [
        ({"requesterMayApprove": False}, "(false)"),
        (
            {"policies": [{"namespaces": ["team-*", "x"], "requesterMayApprove": False}]},
            '((request.namespace.matches("^team-.*$") || request.namespace.matches("^x$"))'
            " ? false : (true))",
        ),
        (
            {
                "requesterMayApprove": False,
                "policies": [
                    {"namespaces": ["a-?"], "requesterMayApprove": True},
                    {"namespaces": ["*"], "allowCpu": True},
                    {"namespaces": ["[!b]-1"], "requesterMayApprove": False},
                ],
            },
            '((request.namespace.matches("^[^b]-1$")) ? false : '
            '((request.namespace.matches("^a-.$")) ? true : (false)))',
        ),
    ],
    ids=str,
)
def test_a_requester_is_asked_for_where_none_may_approve(
    config: dict[str, Any], expression: str, render: Render
) -> None:
    _, rule = requester_rules(render({"config": config}))
    asked = "variables.isUnchanged || has(object.spec.requestedBy)"
    assert rule["expression"] == f"{asked} || {expression}"


def test_policies_that_all_let_requesters_approve_ask_for_none(render: Render) -> None:
    config = {"policies": [{"namespaces": ["a"], "requireApproval": ["DataSet"]}]}
    assert len(requester_rules(render({"config": config}))) == 1


@pytest.mark.parametrize(
    ("name", "num_own"), [("finetune-operator-approvals", 0), ("finetune-operator-requesters", 1)]
)
def test_names_are_enforced_where_the_operator_works(
    name: str, num_own: int, render: Render
) -> None:
    binding = find(render({}), "ValidatingAdmissionPolicyBinding", name)
    assert "matchResources" not in binding["spec"]
    objects = render(
        {"watch": {"namespaces": ["team-a"]}, "approvals": {"trustedUsers": ["flux", "o'argo"]}}
    )
    (expression,) = find(objects, "ValidatingAdmissionPolicyBinding", name)["spec"][
        "matchResources"
    ]["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["team-a"]
    (rule,) = find(objects, "ValidatingAdmissionPolicy", name)["spec"]["validations"]
    before, _, trusted = rule["expression"].rpartition("|| variables.user in ")
    assert before
    assert json.loads(trusted)[:2] == ["flux", "o'argo"]
    assert len(json.loads(trusted)) == 2 + num_own


@pytest.mark.parametrize(
    ("switch", "other"),
    [
        ("approvals.enforceIdentity", "tenantPolicy.enabled"),
        ("tenantPolicy.enabled", "approvals.enforceIdentity"),
    ],
)
def test_a_cluster_that_cannot_enforce_a_policy_is_told_at_install(
    switch: str, other: str, run_helm: Any
) -> None:
    arguments = (
        *("template", "x", str(CHART), "--kube-version", "1.29.3"),
        *("--set", f"{other}=false"),
    )
    done = run_helm(*arguments)
    assert done.returncode != 0
    assert f"{switch}=false" in done.stderr
    assert run_helm(*arguments, "--set", f"{switch}=false").returncode == 0


@pytest.mark.parametrize("image", ["image", "trainerImage"])
def test_an_install_without_images_ends_with_the_remedy(image: str, run_helm: Any) -> None:
    done = run_helm("template", "x", str(CHART), "--set", f"{image}.repository=")
    assert done.returncode != 0
    assert f"{image}.repository is empty" in done.stderr
    assert "--set image.repository=" in done.stderr


def test_the_policy_of_tenants_holds_where_the_operator_works(render: Render) -> None:
    name = "finetune-operator-tenants"
    assert (
        "matchResources" not in find(render({}), "ValidatingAdmissionPolicyBinding", name)["spec"]
    )
    objects = render({"watch": {"namespaces": ["team-a"]}})
    (expression,) = find(objects, "ValidatingAdmissionPolicyBinding", name)["spec"][
        "matchResources"
    ]["namespaceSelector"]["matchExpressions"]
    assert expression["values"] == ["team-a"]


def variable(objects: Objects, name: str) -> str:
    policy = find(objects, "ValidatingAdmissionPolicy", "finetune-operator-tenants")
    (found,) = (each["expression"] for each in policy["spec"]["variables"] if each["name"] == name)
    return str(found)


def test_the_later_policy_of_a_namespace_is_asked_first(render: Render) -> None:
    policies = [
        {"namespaces": ["team-*", "x.y"], "allowedMountRoots": ["/a"]},
        {"namespaces": ["team-b"], "allowedMountRoots": ["/b"]},
        {"namespaces": ["team-c"], "allowedTolerations": []},
    ]
    expression = variable(render({"config": {"policies": policies}}), "mounts")
    assert (
        '(namespaceObject.metadata.name.matches("^(team-b)$") ? ["/b"] : '
        'namespaceObject.metadata.name.matches("^(team-.*|x[.]y)$") ? ["/a"] : ["/data","/mnt"])'
    ) in expression


def test_a_setting_that_an_older_chart_did_not_know_is_left_to_the_operator(
    render: Render,
) -> None:
    unset = ("allowedEnvironment", "allowedMountRoots", "allowCustomMetrics")
    objects = render({"config": dict.fromkeys(unset)})
    policy = find(objects, "ValidatingAdmissionPolicy", "finetune-operator-tenants")
    (metric,) = (
        each["expression"]
        for each in policy["spec"]["validations"]
        if "customMetric" in each["expression"]
    )
    assert metric.endswith("|| (true)")
    assert 'e.name.matches(("(?s:.*)"))' in variable(objects, "env")
    assert '([""])' in variable(objects, "mounts")


@pytest.mark.parametrize("enabled", [True, False])
def test_kueue_rights_come_with_kueue(enabled: bool, render: Render, tmp_path: Path) -> None:
    objects = render({"kueue": {"enabled": enabled}})
    groups = {group for rule in rules_of(objects) for group in rule["apiGroups"]}
    assert ("kueue.x-k8s.io" in groups) is enabled
    assert operator_config(objects, tmp_path).kueue == ("on" if enabled else "off")


def test_readme_lists_the_rights_to_bind_by_hand(render: Render) -> None:
    readme = (CHART / "README.md").read_text().split("## Rights")[1]
    listed = [line for line in readme.splitlines() if re.match(r"\| `-[a-z]+`.*\| `[a-z]+`", line)]
    expected = []
    for role in render({"kueue": {"enabled": True}}):
        name = role["metadata"]["name"].removeprefix("finetune-operator")
        if role["kind"] not in ("Role", "ClusterRole") or name in ("-view", "-edit", "-approver"):
            continue
        for rule in role["rules"]:
            (group,) = rule["apiGroups"]
            condition = ", with `kueue.enabled`" if group.endswith("kueue.x-k8s.io") else ""
            named = " named as the Deployment" if "resourceNames" in rule else ""
            resources = " ".join(f"`{resource}`" for resource in rule["resources"])
            verbs = " ".join(f"`{verb}`" for verb in rule["verbs"])
            where = f"`{group}`" if group else "core"
            expected.append(f"| `{name}`{condition} | {where} | {resources}{named} | {verbs} |")
    assert expected
    assert sorted(listed) == sorted(expected)


def test_leader_role_names_the_lease_that_the_configuration_names(
    render: Render, tmp_path: Path
) -> None:
    objects = render({"fullnameOverride": "tuner"})
    role = find(objects, "Role", "tuner-leader")
    named = [rule["resourceNames"] for rule in role["rules"] if "resourceNames" in rule]
    path = tmp_path / "config.yaml"
    path.write_text(find(objects, "ConfigMap", "tuner")["data"]["config.yaml"])
    assert named == [[OperatorConfig.load(path, environment={}).leader_election_name]]


def test_ports_agree_in_configuration_container_and_services(
    render: Render, tmp_path: Path
) -> None:
    objects = render(
        {"progress": {"port": 1234}, "metrics": {"port": 2345}, "probes": {"port": 3456}}
    )
    config = operator_config(objects, tmp_path)
    container = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert ports == {"progress": 1234, "metrics": 2345, "probes": 3456}
    assert (config.progress_port, config.metrics_port, config.probe_port) == (1234, 2345, 3456)
    service = find(objects, "Service", "finetune-operator-progress")
    assert [port["port"] for port in service["spec"]["ports"]] == [1234]
    host = f"{service['metadata']['name']}.{service['metadata']['namespace']}.svc"
    assert config.progress_url == f"http://{host}:1234"


def test_progress_over_https_serves_the_mounted_certificate(render: Render, tmp_path: Path) -> None:
    objects = render({"progress": {"tls": {"secretName": "progress", "caConfigMap": "ca"}}})
    config = operator_config(objects, tmp_path)
    pod = find(objects, "Deployment")["spec"]["template"]["spec"]
    volume = next(v["name"] for v in pod["volumes"] if v.get("secret"))
    folder = next(
        m["mountPath"] for m in pod["containers"][0]["volumeMounts"] if m["name"] == volume
    )
    assert config.progress_url.startswith("https://")
    assert config.progress_tls_certificate == f"{folder}/tls.crt"
    assert config.progress_tls_key == f"{folder}/tls.key"
    assert config.progress_ca_config_map == "ca"


def test_a_changed_setting_rolls_the_pods(render: Render) -> None:
    def checksum(values: dict[str, Any]) -> str:
        template = find(render(values), "Deployment")["spec"]["template"]
        return str(template["metadata"]["annotations"]["checksum/config"])

    assert checksum({}) == checksum({"replicas": 3})
    assert checksum({}) != checksum({"config": {"allowCpu": True}})


def test_a_digest_takes_the_place_of_the_tag(render: Render, tmp_path: Path) -> None:
    digest = "sha256:" + "0" * 64
    image = {"repository": "registry.example.org/x", "tag": "1", "digest": digest}
    objects = render({"image": image, "trainerImage": image})
    container = find(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]
    assert container["image"] == f"registry.example.org/x@{digest}"
    assert operator_config(objects, tmp_path).trainer_image == f"registry.example.org/x@{digest}"


@pytest.mark.parametrize("values", CASES)
def test_pod_meets_the_restricted_standard(values: dict[str, Any], render: Render) -> None:
    pod = find(render(values), "Deployment")["spec"]["template"]["spec"]
    assert pod["automountServiceAccountToken"] is False
    assert pod["securityContext"]["runAsNonRoot"] is True
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    allowed = {"configMap", "projected", "secret", "emptyDir"}
    assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"]
        for probe in ("startupProbe", "livenessProbe", "readinessProbe"):
            assert container[probe]["httpGet"]["port"] == "probes"


@pytest.mark.parametrize("values", CASES)
def test_selectors_match_the_pods(values: dict[str, Any], render: Render) -> None:
    objects = render(values)
    deployment = find(objects, "Deployment")
    labels = deployment["spec"]["template"]["metadata"]["labels"].items()
    selectors = [deployment["spec"]["selector"]["matchLabels"]]
    for item in objects:
        if item["kind"] == "Service":
            selectors.append(item["spec"]["selector"])
        elif item["kind"] == "PodDisruptionBudget":
            selectors.append(item["spec"]["selector"]["matchLabels"])
        elif item["kind"] == "NetworkPolicy":
            selectors.append(item["spec"]["podSelector"]["matchLabels"])
    assert all(selector.items() <= labels for selector in selectors)


def test_service_monitor_selects_the_metrics_service_alone(render: Render) -> None:
    objects = render({"metrics": {"serviceMonitor": {"enabled": True}}})
    wanted = find(objects, "ServiceMonitor")["spec"]["selector"]["matchLabels"].items()
    selected = [
        o["metadata"]["name"]
        for o in objects
        if o["kind"] == "Service" and wanted <= o["metadata"]["labels"].items()
    ]
    assert selected == ["finetune-operator-metrics"]


def test_pod_monitor_finds_fronts_and_servers_and_lets_them_name_no_namespace(
    render: Render,
) -> None:
    on = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    objects = render({"metrics": on, "watch": {"namespaces": ["team-a"]}})
    monitor = find(objects, "PodMonitor", "finetune-operator-serving")
    assert monitor["spec"]["namespaceSelector"] == {"matchNames": ["team-a"]}
    (selector,) = monitor["spec"]["selector"]["matchExpressions"]
    (scraped,) = monitor["spec"]["podMetricsEndpoints"]
    front = render_front("team-a", [], [], OperatorConfig(), [])["spec"]["template"]
    assert selector == {"key": SERVING_LABEL, "operator": "Exists"}
    assert SERVING_LABEL in front["metadata"]["labels"]
    (port,) = front["spec"]["containers"][0]["ports"]
    assert (port["name"], port["containerPort"]) == (scraped["port"], REPORT_PORT)
    (recorder,) = front["spec"]["initContainers"]
    assert [each["name"] for each in recorder["ports"]] == [scraped["port"]]
    # What they say of themselves must not take the place of what Prometheus knows.
    assert not scraped.get("honorLabels")
    job = "/".join(monitor["metadata"][key] for key in ("namespace", "name"))
    rules = json.dumps(find(objects, "PrometheusRule")["spec"])
    assert f'job=\\"{job}\\"' in rules
    everywhere = find(render({"metrics": on}), "PodMonitor", "finetune-operator-serving")
    assert everywhere["spec"]["namespaceSelector"] == {"any": True}


def test_without_endpoints_nothing_of_theirs_is_monitored(render: Render) -> None:
    on = {"serviceMonitor": {"enabled": True}, "prometheusRule": {"enabled": True}}
    objects = render({"metrics": on, "endpoints": {"enabled": False}})
    assert not [each for each in objects if each["kind"] == "PodMonitor"]
    assert "FineTuneEndpoint" not in json.dumps(find(objects, "PrometheusRule")["spec"])


def test_dashboard_is_the_file_of_the_chart(render: Render) -> None:
    objects = render({"metrics": {"dashboard": {"enabled": True}}})
    data = find(objects, "ConfigMap", "finetune-operator-dashboard")["data"]
    shipped = json.loads((CHART / "files" / "dashboard.json").read_text())
    assert json.loads(data["finetune-operator.json"]) == shipped


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "unknown value": ({"replica": 2}, "'replica' not allowed"),
    "unknown nested value": ({"watch": {"namespace": "a"}}, "'namespace' not allowed"),
    "unknown setting": ({"config": {"allowCPU": True}}, "'allowCPU' not allowed"),
    "setting that the chart makes": ({"config": {"trainerImage": "x"}}, "'trainerImage'"),
    "negative replicas": ({"replicas": -1}, "/replicas"),
    "replicas as text": ({"replicas": "2"}, "/replicas"),
    "endpoint with a path": ({"config": {"allowedEndpoints": ["https://a/b"]}}, "allowedEndpoints"),
    "endpoint without scheme": ({"config": {"allowedEndpoints": ["a"]}}, "allowedEndpoints"),
    "relative file path": ({"config": {"allowedFilePaths": ["data"]}}, "allowedFilePaths"),
    "bad quantity": ({"config": {"defaultMemory": "16GB"}}, "defaultMemory"),
    "size without a unit": ({"config": {"prepareMemory": "16"}}, "/config/prepareMemory"),
    "size in thousandths": ({"config": {"scratchSize": "500m"}}, "/config/scratchSize"),
    "price of 17 digits": (
        {"config": {"gpuHourPrice": "1.000000000000000"}},
        "/config/gpuHourPrice",
    ),
    "toleration of an unknown effect": (
        {"config": {"defaultTolerations": [{"key": "gpu", "effect": "NoSchedul"}]}},
        "/config/defaultTolerations/0/effect",
    ),
    "toleration with a slip": (
        {"config": {"defaultTolerations": [{"name": "gpu"}]}},
        "'name' not allowed",
    ),
    "policy without namespaces": ({"config": {"policies": [{"allowCpu": True}]}}, "'namespaces'"),
    "policy of an unknown setting": (
        {"config": {"policies": [{"namespaces": ["a"], "numWorkers": 8}]}},
        "'numWorkers' not allowed",
    ),
    "policy with a bad quantity": (
        {"config": {"policies": [{"namespaces": ["a"], "defaultMemory": "200"}]}},
        "/config/policies/0/defaultMemory",
    ),
    "policy with a bad type": (
        {"config": {"policies": [{"namespaces": ["a"], "allowedImages": "*"}]}},
        "/config/policies/0/allowedImages",
    ),
    "mount root with a slash at its end": (
        {"config": {"allowedMountRoots": ["/data/"]}},
        "/config/allowedMountRoots/0",
    ),
    "mount root of a policy that is not normal": (
        {"config": {"policies": [{"namespaces": ["a"], "allowedMountRoots": ["//data"]}]}},
        "/config/policies/0/allowedMountRoots/0",
    ),
    "policy with an approval of nothing": (
        {"config": {"policies": [{"namespaces": ["a"], "requireApproval": ["Model"]}]}},
        "/config/policies/0/requireApproval/0",
    ),
    "policy with a bad pull policy": (
        {"config": {"policies": [{"namespaces": ["a"], "trainerImagePullPolicy": "Sometimes"}]}},
        "/config/policies/0/trainerImagePullPolicy",
    ),
    "CPUs in gibibytes": ({"config": {"defaultCpu": "16Gi"}}, "defaultCpu"),
    "bad digest": ({"image": {"digest": "sha256:1"}}, "/image/digest"),
    "bad namespace": ({"watch": {"namespaces": ["Team_A"]}}, "/watch/namespaces"),
    "port out of range": ({"metrics": {"port": 70000}}, "/metrics/port"),
    "bad log level": ({"logging": {"level": "verbose"}}, "/logging/level"),
    "bad pull policy": ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    "lease shorter than the renewal": (
        {"config": {"leaseDurationSeconds": 5}},
        "(10) must be less",
    ),
    "renewal longer than the lease": (
        {"config": {"renewDeadlineSeconds": 15}},
        "(15) must be less",
    ),
    "budget of all replicas": ({"podDisruptionBudget": {"minAvailable": 2}}, "(2) must leave one"),
    "budget of more": ({"replicas": 3, "podDisruptionBudget": {"minAvailable": 4}}, "(4) must"),
    "budget rounded up": ({"podDisruptionBudget": {"minAvailable": "51%"}}, "(51%) must leave one"),
    "no account at all": ({"serviceAccount": {"create": False}}, "serviceAccount.name is needed"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_values_are_refused(name: str, render: Render) -> None:
    values, fragment = REFUSED[name]
    with pytest.raises(RenderError, match=r"specifications|is needed|must ") as caught:
        render(copy.deepcopy(values))
    assert fragment in str(caught.value)


@pytest.mark.parametrize(
    "values",
    [
        {"config": {"leaseDurationSeconds": 10.5}},
        {"config": {"renewDeadlineSeconds": 14.5}},
        {"podDisruptionBudget": {"minAvailable": "50%"}},
        {"podDisruptionBudget": {"minAvailable": 0}},
        {"replicas": 1, "podDisruptionBudget": {"minAvailable": 2}},
        {"podDisruptionBudget": {"enabled": False, "minAvailable": 2}},
        {"config": {"defaultMemory": "17179869184", "prepareCpu": "2.5", "scratchSize": "1.5Ti"}},
        {"config": {"gpuHourPrice": "2.50000000000000"}},
        {
            "config": {
                "defaultTolerations": [
                    {"key": "gpu", "operator": "Exists"},
                    {"key": "spot", "operator": None, "value": None, "effect": None},
                ],
                "policies": [
                    {
                        "namespaces": ["team-*"],
                        "trainerImage": "registry.example.org/trainer:2",
                        "trainerImagePullPolicy": "Always",
                        "defaultMemory": "200Gi",
                        "defaultNodeSelector": {"pool": "vision"},
                        "defaultTolerations": [
                            {"effect": "NoExecute", "operator": "Exists", "tolerationSeconds": 3600}
                        ],
                        "gpuHourPrice": None,
                        "gpuKind": "h200",
                        "requireApproval": ["DataSet", "Publication"],
                        "requesterMayApprove": False,
                        "rendezvousPort": 29400,
                    }
                ],
            }
        },
    ],
    ids=str,
)
def test_values_just_within_their_bounds_are_taken(
    values: dict[str, Any], render: Render, tmp_path: Path
) -> None:
    operator_config(render(values), tmp_path)
