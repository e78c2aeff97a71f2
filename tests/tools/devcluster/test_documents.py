"""What the tool writes for others to read: configurations, images, rules, flags."""

from __future__ import annotations

import base64
import json
import os
import tarfile
import tomllib
from pathlib import Path

import pytest
import yaml

from devcluster import host
from devcluster.__main__ import parse_arguments
from devcluster.control_plane.certificates import KeyPair
from devcluster.control_plane.kubeconfig import render_kubeconfig
from devcluster.errors import HostUnfitError, StartError
from devcluster.kueue import install as kueue
from devcluster.kueue.beside import for_jobs_alone
from devcluster.node import (
    buildhost,
    kubelet,
    network,
    objectstore,
    place,
    removal,
    runtime,
    services,
)
from devcluster.node.network import PodNetwork
from devcluster.node.runtime import Runtime
from devcluster.programs import archive

NETWORK = PodNetwork(pod_range="10.88.0.0/16", gateway="10.88.0.1")
RUNTIME = Runtime(root=Path("/c/root"), state=Path("/run/x"), configuration=Path("/s/conf"))


def test_a_kubeconfig_is_yaml_with_everything_inside():
    text = render_kubeconfig(
        cluster="c",
        url="https://127.0.0.1:1",
        authority=b"CA",
        client=KeyPair(certificate=b"CRT", key=b"KEY"),
    )
    document = yaml.safe_load(text)
    assert document["current-context"] == "c"
    user = document["users"][0]["user"]
    assert base64.b64decode(user["client-key-data"]) == b"KEY"


def test_containerds_configuration_keeps_to_its_own_folders():
    text = runtime.render_configuration(
        RUNTIME,
        runc=Path("/b/runc"),
        cni=Path("/s/cni"),
        snapshotter="overlayfs",
        registry_hosts=Path("/s/hosts"),
    )
    document = tomllib.loads(text)
    assert document["version"] == 3
    pods = document["plugins"]["io.containerd.cri.v1.runtime"]
    assert pods["restrict_oom_score_adj"] is True
    assert pods["netns_mounts_under_state_dir"] is True
    options = pods["containerd"]["runtimes"]["runc"]["options"]
    assert options == {"BinaryName": "/b/runc", "Root": "/run/x/runc", "SystemdCgroup": False}


def test_the_kubelet_listens_on_the_bridge_and_loopback_only():
    document = kubelet.render_configuration(
        network=NETWORK, place=place.first_place("c"), pki=Path("/p"), ports=(1, 2), max_pods=9
    )
    assert document["address"] == NETWORK.gateway
    assert document["healthzBindAddress"] == "127.0.0.1"
    assert document["readOnlyPort"] == 0
    assert document["authentication"]["anonymous"] == {"enabled": False}
    assert document["failCgroupV1"] is False


def test_two_nodes_on_one_host_share_nothing_that_either_would_clear():
    """A kubelet ends the containers and deletes the control groups that it does not know."""
    first, further = place.first_place("c"), place.further_place("c", "second")
    for field in ("node", "cgroup", "folder", "root", "kubelet"):
        assert getattr(first, field) != getattr(further, field)
    for field in ("root", "state", "configuration", "process", "socket"):
        assert getattr(first.runtime, field) != getattr(further.runtime, field)
    texts = [
        json.dumps(
            kubelet.render_configuration(
                network=NETWORK, place=each, pki=Path("/p"), ports=(1, 2), max_pods=9
            )
        )
        for each in (first, further)
    ]
    for text, own, other in ((texts[0], first, further), (texts[1], further, first)):
        assert f'"/{own.cgroup}"' in text
        assert f"unix://{own.runtime.socket}" in text
        assert f"{other.folder}/" not in text


def test_dns_knows_the_cluster_and_asks_nobody_else():
    text = services.render_corefile(network=NETWORK, kubeconfig="/k", ready_port=3)
    assert "bind 10.88.0.1" in text
    assert "forward" not in text
    assert "cache" not in text


def test_node_ports_stay_on_the_bridge():
    document = services.render_proxy_configuration(
        network=NETWORK, kubeconfig="/k", health_port=1, metrics_port=2
    )
    assert document["nodePortAddresses"] == ["10.88.0.0/16"]
    assert document["conntrack"]["maxPerCore"] == 0


def test_pods_are_masqueraded_only_if_they_may_leave(tmp_path):
    for internet in (True, False):
        network.write_cni_configuration(tmp_path / "net.d", NETWORK, internet=internet)
        document = json.loads((tmp_path / "net.d" / "10-bridge.conflist").read_text())
        assert document["plugins"][0]["ipMasq"] is internet


def test_a_tenants_identity_reaches_its_bucket_only():
    document = objectstore.render_identities({"admin": ("a", "b"), "team-a": ("c", "d")})
    admin, tenant = document["identities"]
    assert "Admin" in admin["actions"]
    assert all(action.endswith(":team-a") for action in tenant["actions"])


def test_cgroup_folders_are_one_per_hierarchy(tmp_path):
    for name in ("cpu", "memory", "unified"):
        (tmp_path / name).mkdir()
    (tmp_path / "cpu,cpuacct").symlink_to(tmp_path / "cpu")
    folders = kubelet.cgroup_folders("own", tmp_path)
    assert [each.parent.name for each in folders] == ["cpu", "memory", "unified"]
    (tmp_path / "cgroup.controllers").touch()
    assert kubelet.cgroup_folders("own", tmp_path) == [tmp_path / "own"]


def test_all_pods_together_get_more_of_the_processor_than_one_process(tmp_path):
    groups = [tmp_path / "v1", tmp_path / "v2"]
    for group, name in zip(groups, ("cpu.shares", "cpu.weight"), strict=True):
        group.mkdir()
        (group / name).touch()
    kubelet.create_cgroups([*groups, tmp_path / "memory"])
    assert (groups[0] / "cpu.shares").read_text() == "4096"
    assert (groups[1] / "cpu.weight").read_text() == "400"
    assert not list((tmp_path / "memory").iterdir())


SAVED_RULES = """\
*filter
:INPUT ACCEPT [0:0]
:FORWARD ACCEPT [0:0]
:DOCKER - [0:0]
:KUBE-FORWARD - [0:0]
:CNI-HOSTPORT-DNAT - [0:0]
-A INPUT -i lo -j ACCEPT
-A FORWARD -i ftdev0 ! -o ftdev0 -m comment --comment finetune-devcluster -j REJECT
-A FORWARD -m comment --comment "kubernetes forwarding rules" -j KUBE-FORWARD
-A FORWARD -j DOCKER
-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP
-A INPUT -j CNI-HOSTPORT-DNAT
COMMIT
"""


def test_only_the_clusters_chains_go():
    kept = removal.without_cluster_rules(SAVED_RULES, ["KUBE-", "CNI-"])
    assert "KUBE-" not in kept
    assert "CNI-" not in kept
    assert "ftdev0" not in kept
    for line in (":DOCKER - [0:0]", "-A FORWARD -j DOCKER", "-A INPUT -i lo -j ACCEPT", "COMMIT"):
        assert line in kept


def test_chains_that_were_there_before_stay():
    kept = removal.without_cluster_rules(SAVED_RULES, ["KUBE-"])
    assert "-A INPUT -j CNI-HOSTPORT-DNAT" in kept
    assert removal.without_cluster_rules(SAVED_RULES, []).count("KUBE-") == 3


def test_an_image_has_one_layer_and_the_same_bytes_each_time(tmp_path):
    program = tmp_path / "program"
    program.write_bytes(b"#!/bin/true")
    images = [tmp_path / "a.tar", tmp_path / "b.tar"]
    for target in images:
        archive.write_image(
            target, "x.invalid/y:1", files={"run": program}, entrypoint=["/run"], user="1:1"
        )
        os.utime(program, (1, 1))
    assert images[0].read_bytes() == images[1].read_bytes()
    with tarfile.open(images[0]) as tar:
        manifest = json.load(tar.extractfile("manifest.json"))[0]
        configuration = json.load(tar.extractfile(manifest["Config"]))
    assert manifest["RepoTags"] == ["x.invalid/y:1"]
    assert configuration["config"]["User"] == "1:1"


def test_kueue_for_jobs_alone_is_asked_about_no_pods_and_serves_one_version():
    def webhook(name, group, *kinds):
        return {"name": name, "rules": [{"apiGroups": [group], "resources": list(kinds)}]}

    versions = [
        {"name": "v1beta1", "served": True, "storage": False},
        {"name": "v1beta2", "served": True, "storage": True},
    ]
    own = webhook("mworkload.kb.io", "kueue.x-k8s.io", "workloads", "workloads/status")
    asked = [
        webhook("mpod.kb.io", "", "pods"), webhook("mjob.kb.io", "batch", "jobs"), own,
        webhook("mdeployment.kb.io", "apps", "deployments"),
        webhook("both.kb.io", "batch", "jobs", "cronjobs"),
    ]  # fmt: skip
    documents = [
        {"kind": "CustomResourceDefinition", "spec": {"versions": versions}},
        {"kind": "MutatingWebhookConfiguration", "webhooks": asked},
        {"kind": "ConfigMap", "data": {}},
    ]
    crd, configuration, other = for_jobs_alone(documents)
    assert [each["served"] for each in crd["spec"]["versions"]] == [False, True]
    kept = [each["name"] for each in configuration["webhooks"]]
    assert kept == ["mjob.kb.io", "mworkload.kb.io"]
    assert other == {"kind": "ConfigMap", "data": {}}


def test_kueues_manager_takes_an_image_of_the_node_and_little_processor():
    resources = {"requests": {"cpu": "500m", "memory": "512Mi"}, "limits": {"cpu": "2"}}
    manager = {"name": "manager", "image": "example.invalid/kueue:main", "resources": resources}
    manager["imagePullPolicy"] = "Always"
    template = {"spec": {"containers": [manager]}}
    documents = [{"kind": "Service"}, {"kind": "Deployment", "spec": {"template": template}}]
    kueue.place_manager(documents, "mine:1")
    assert (manager["image"], manager["imagePullPolicy"]) == ("mine:1", "IfNotPresent")
    assert resources["requests"] == {"cpu": kueue.CPU_REQUEST, "memory": "512Mi"}
    assert resources["limits"] == {"cpu": "2"}
    with pytest.raises(StartError, match="found 0"):
        kueue.place_manager(documents[:1], "mine:1")


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("sources.list", "deb http://mirror.invalid/debian bookworm main\n"),
        ("sources.list.d/x.list", "deb [arch=amd64] http://mirror.invalid/debian bookworm main\n"),
        (
            "sources.list.d/debian.sources",
            "Types: deb\n# a comment\nURIs: http://mirror.invalid/debian\n"
            "Suites: bookworm bookworm-updates\nComponents: main\n",
        ),
    ],
)
def test_the_mirror_is_this_hosts(tmp_path, file, content):
    (tmp_path / "apt" / "sources.list.d").mkdir(parents=True)
    (tmp_path / "os-release").write_text("ID=debian\nVERSION_CODENAME=bookworm\n")
    (tmp_path / "apt" / file).write_text(content)
    assert buildhost.apt_mirror(tmp_path) == ("http://mirror.invalid/debian", "bookworm")


def test_a_host_that_is_no_debian_is_told_what_to_use(tmp_path):
    (tmp_path / "os-release").write_text("ID=fedora\nVERSION_CODENAME=\n")
    with pytest.raises(HostUnfitError, match="USE_EXISTING_CLUSTER"):
        buildhost.apt_mirror(tmp_path)


def test_an_index_with_credentials_is_not_written_into_an_image():
    flags = buildhost.builder_flags(
        {"PIP_INDEX_URL": "https://user:pw@x.invalid", "UV_DEFAULT_INDEX": "https://x.invalid"}
    )
    assert "--build-arg=UV_DEFAULT_INDEX=https://x.invalid" in flags
    assert not any("user:pw" in flag for flag in flags)


def test_a_host_without_root_or_go_is_told_what_to_use(monkeypatch):
    monkeypatch.setattr(host, "go_program", lambda: None)
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    for reason in (host.unfit_for_control_plane(), host.unfit_for_node()):
        assert "Go 1.26" in reason
        assert "kind-config.yaml" in reason
    monkeypatch.setattr(host, "go_program", lambda: Path("/usr/bin/go"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert host.unfit_for_control_plane() is None
    assert "root" in host.unfit_for_node()


def test_envtests_assets_replace_go(monkeypatch, tmp_path):
    monkeypatch.setattr(host, "go_program", lambda: None)
    monkeypatch.setenv("KUBEBUILDER_ASSETS", str(tmp_path))
    assert "lacks etcd and kube-apiserver" in host.unfit_for_control_plane()
    for name in ("etcd", "kube-apiserver"):
        (tmp_path / name).touch()
    assert host.unfit_for_control_plane() is None


def test_the_command_line_has_its_verbs():
    assert parse_arguments(["up"]).profile == "node"
    assert parse_arguments(["up", "--profile", "control-plane", "--audit-log"]).audit_log
    assert parse_arguments(["load", "trainer"]).images == ["trainer"]
    with pytest.raises(SystemExit):
        parse_arguments(["sideways"])
