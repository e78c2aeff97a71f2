"""Attacks by ``spec.podTemplate`` and ``spec.resources``."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hostile import corpus
from hostile.bending import Object, bent, hidden, template


def try_mount(rng: Random, body: Object) -> None:
    pod = template(body)
    sources: list[Object] = [
        {"configMap": {"name": "mine"}},
        {"emptyDir": {}},
        {"persistentVolumeClaim": {"claimName": "mine"}},
    ]
    name = rng.choice(["mine", "mine", "code", "job-", "x" * 63])
    pod["volumes"] = [{"name": name, **rng.choice(sources)}]
    mount: Object = {"name": name, "mountPath": bent(rng, hidden(rng))}
    if rng.random() < 0.3:
        mount["readOnly"] = True
    pod["volumeMounts"] = [mount]
    if rng.random() < 0.2:
        pod["volumeMounts"].insert(0, {"name": name, "mountPath": "/data"})


def try_sub_path(rng: Random, body: Object) -> None:
    inner = [
        *("..", "../..", "/", "/etc", "a/../..", "a/./../../b", "a//..", "..%2f..", "%2e%2e/x"),
        *("a\\..\\..", "..\\..", "$(HOME)", "\0", "a/\u2024\u2024/b", "." * 300, "a/..", "./.."),
    ]
    pod = template(body)
    pod["volumes"] = [{"name": "mine", "persistentVolumeClaim": {"claimName": "mine"}}]
    path = rng.choice(["/data", "/mnt/x", "//data", hidden(rng)])
    mount = {"name": "mine", "mountPath": path, "subPath": rng.choice(inner)}
    if rng.random() < 0.1:
        mount["subPathExpr"] = mount.pop("subPath")
    pod["volumeMounts"] = [mount]


def try_volume(rng: Random, body: Object) -> None:
    own = ["job", "work", "cache", "tmp", "shm", "token", "ca", "engine", "garak"]
    names = [*own, "credentials-0", "claim-0", "credentials-", "claim-9", "JOB", "job\0", "../job"]
    kinds: list[Object] = [
        {"configMap": {"name": "attack-0-job"}},
        {"hostPath": {"path": "/"}},
        {"secret": {"secretName": "another"}},
        {"projected": {"sources": [{"serviceAccountToken": {"path": "token"}}]}},
        {"csi": {"driver": "secrets-store.csi.k8s.io"}},
        {"nfs": {"server": "evil.example", "path": "/"}},
        {"emptyDir": {}, "hostPath": {"path": "/"}},
        {"emptyDir": {"medium": "Memory", "sizeLimit": "100000Ti"}},
        {"persistentVolumeClaim": {"claimName": rng.choice(["../x", "other/claim", "mine"])}},
        {"ephemeral": {"volumeClaimTemplate": {"spec": {}}}},
        {"downwardAPI": {"items": []}},
        {"image": {"reference": "evil.example/x"}},
    ]
    name = rng.choice([*names, "mine", "mine", "mine"])
    pod = template(body)
    pod["volumes"] = [{"name": name, **rng.choice(kinds)}]
    if rng.random() < 0.3:
        pod["volumes"].append({"name": name, "emptyDir": {}})
    pod["volumeMounts"] = [{"name": name, "mountPath": rng.choice(["/data", hidden(rng)])}]


# ---- variables, annotations, labels --------------------------------------------------------------


def try_variable(rng: Random, body: Object) -> None:
    groups = (
        *(corpus.LOADS_CODE, corpus.LOADS_CODE, corpus.REDIRECTS, corpus.WRITES_FILES),
        *(corpus.TAKES_DEVICES, corpus.OPERATORS_OWN),
    )
    names = [rng.choice(rng.choice(groups)) for _ in range(rng.choice([1, 1, 2, 8]))]
    bend: tuple[Callable[[str], str], ...] = (
        *(lambda n: n,) * 6,
        str.lower,
        lambda n: n + "\0",
        lambda n: " " + n,
        lambda n: n + "=x",
        lambda n: n.replace("_", "\uff3f", 1),
        lambda n: f"BASH_FUNC_{n}%%",
        lambda n: n + "_",
    )
    value = rng.choice(["/data/evil.so", "http://evil.example", "1", "$(FINETUNE_WORK_DIR)", ""])
    template(body)["env"] = [
        {"name": rng.choice(bend)(name), "value": value} for name in dict.fromkeys(names)
    ]
    if rng.random() < 0.1:
        template(body)["env"][0] |= {"valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}


def _bent_key(rng: Random, key: str) -> str:
    return rng.choice((key, key, key, key.upper(), key + "/", " " + key, key.replace("/", "//", 1)))


def try_annotation(rng: Random, body: Object) -> None:
    keys = rng.sample(sorted(corpus.DANGEROUS_ANNOTATIONS), rng.choice([1, 1, 3]))
    template(body)["annotations"] = {
        _bent_key(rng, key): corpus.DANGEROUS_ANNOTATIONS[key] for key in keys
    }


def try_label(rng: Random, body: Object) -> None:
    keys = rng.sample(sorted(corpus.DANGEROUS_LABELS), rng.choice([1, 1, 3]))
    template(body)["labels"] = {_bent_key(rng, key): corpus.DANGEROUS_LABELS[key] for key in keys}
    if rng.random() < 0.3:
        bent = ["Team", "teams", "team/x", "x/team", "example.org", "example.org/a/b", "tier"]
        value = rng.choice(["web", "xbatch-1", "batch", "batch-/x", ""])
        template(body)["labels"][rng.choice(bent)] = value


# ---- where pods run ------------------------------------------------------------------------------


def try_toleration(rng: Random, body: Object) -> None:
    choices: list[Object] = [
        {"operator": "Exists"},
        {"operator": "Exists", "effect": "NoExecute"},
        {"key": "", "operator": "Exists"},
        {"key": "node-role.kubernetes.io/control-plane", "operator": "Exists"},
        {"key": "node.kubernetes.io/unschedulable", "operator": "Exists", "effect": "NoSchedule"},
        {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "tolerationSeconds": 10**9},
        {"key": "node.kubernetes.io/disk-pressure", "operator": "Exists"},
        {"key": "dedicated", "value": "another-team", "effect": "NoSchedule"},
        {"key": "dedicated", "operator": "Exists"},
        {"key": "dedicated", "value": "training"},
        {"key": "dedicated", "value": "training", "effect": "NoExecute"},
        {"key": "dedicated", "value": "training\n", "effect": "NoSchedule"},
        {"key": "*", "operator": "Exists"},
        {"key": "nvidia.com/gpu*", "operator": "Exists"},
        {"key": "NVIDIA.com/gpu", "operator": "Exists"},
        {"value": "x"},
    ]
    template(body)["tolerations"] = rng.sample(choices, rng.choice([1, 1, 2]))


def try_classes(rng: Random, body: Object) -> None:
    pod = template(body)
    field, names = rng.choice(
        [
            ("priorityClassName", ["system-cluster-critical", "system-node-critical", "production",
                                   "batch-*", "xbatch-1", "batch", "Batch-1", "batch-\n"]),
            ("runtimeClassName", ["runc-privileged", "host", "kata", "nvidia2", "NVIDIA", "*"]),
            ("schedulerName", ["default-scheduler", "evil-scheduler", "batch-scheduler2", "*"]),
            ("serviceAccountName", ["cluster-admin", "default", "xtrain-1", "train", "../train-1",
                                    "train-1/../admin", "*", "kube-system:default"]),
        ]
    )  # fmt: skip
    pod[field] = rng.choice(names)


def try_node(rng: Random, body: Object) -> None:
    pod = template(body)
    labels = [
        {"kubernetes.io/hostname": "control-plane"},
        {"node-role.kubernetes.io/control-plane": ""},
        {"pool": "secret"},
        {"pool": "shared"},
        {"pool": "shared-1/../secret"},
        {"pool=shared-1,x": "y"},
        {"pool": "xshared-1"},
        {"xpool": "shared-1"},
    ]
    everybody = {
        "labelSelector": {},
        "namespaceSelector": {},
        "topologyKey": rng.choice(["kubernetes.io/hostname", "topology.kubernetes.io/zone"]),
    }
    theirs = {**everybody, "namespaces": ["kube-system", "team-b"]}
    del theirs["namespaceSelector"]
    term = {"matchExpressions": [{"key": "pool", "operator": "Exists"}]}
    affinities: list[Object] = [
        {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution":
                          {"nodeSelectorTerms": [term] * rng.choice([1, 1, 400])}}},
        {"nodeAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                          [{"weight": 100, "preference": term}]}},
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [everybody]}},
        {"podAntiAffinity": {"preferredDuringSchedulingIgnoredDuringExecution":
                             [{"weight": 100, "podAffinityTerm": everybody}]}},
        {"podAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [theirs]}},
        {"podAntiAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": [theirs]}},
        {"podAffinity": [[[]] * 2000] * 50},
        {"x": {"y": ["z" * 900] * 300}},
        {"nodeAffinity": {}, "hostAffinity": {"any": True}},
    ]  # fmt: skip
    if rng.random() < 0.3:
        pod["nodeSelector"] = rng.choice(labels)
    else:
        pod["affinity"] = rng.choice(affinities)


def try_field(rng: Random, body: Object) -> None:
    fields: Object = {
        "hostNetwork": True, "hostPID": True, "hostIPC": True, "hostUsers": True,
        "securityContext": {"privileged": True}, "containers": [{"name": "x", "image": "evil"}],
        "initContainers": [{"name": "vllm", "image": "evil.example/x"}], "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.6.6.6"]}, "hostAliases": [{"ip": "10.6.6.6"}],
        "shareProcessNamespace": True, "automountServiceAccountToken": True, "command": ["sh"],
        "args": ["-c", "id"], "nodeName": "control-plane", "subdomain": "evil", "hostname": "x",
        "ephemeralContainers": [], "preemptionPolicy": "PreemptLowerPriority", "overhead": {},
        "resourceClaims": [{"name": "x", "resourceClaimTemplateName": "gpus"}],
        "capabilities": ["SYS_ADMIN"], "schedulingGates": [{"name": "x"}], "os": {"name": "x"},
        "terminationGracePeriodSeconds": 10**9, "enableServiceLinks": True,
    }  # fmt: skip
    name = rng.choice(sorted(fields))
    template(body)[name] = fields[name]


def try_resource(rng: Random, body: Object) -> None:
    resources = body["spec"].setdefault("resources", {})
    resources["gpuResource"] = rng.choice(
        [
            *("memory", "cpu", "ephemeral-storage", "storage", "pods", "hugepages-2Mi", "gpu"),
            *("kubernetes.io/memory", "kubernetes.io/batch-cpu", "requests.nvidia.com/gpu"),
            *("limits.nvidia.com/gpu", "attachable-volumes-aws-ebs", "nvidia.com/", "/gpu"),
            *("a.kubernetes.io/x", "nvidia.com/gpu/x", "nvidia.com/gpu\n", "Nvidia.com/gpu"),
            *("nvidia.com//gpu", "count/jobs.batch", "x" * 128, "nvidia.com/\u0261pu"),
        ]
    )
    if rng.random() < 0.3:
        extra = [
            *(
                ("nvidia.com/gpu", "8"),
                ("rdma/hca", "1"),
                ("hugepages-2Mi", "64Gi"),
                ("memory", "1"),
            ),
            *(("kubernetes.io/x", "1"), ("requests.rdma/hca", "1"), ("rdma/hca", "1Gi")),
        ]
        name, quantity = rng.choice(extra)
        template(body)["extraResources"] = [{"name": name, "quantity": quantity}]
    if rng.random() < 0.3:
        text = rng.choice(
            ["eth0", "eth0\n", "eth0;id", "$(HF_TOKEN)", "/data/x.so", "http://evil", "\u0435th0"]
        )
        field = rng.choice(["interface", "rdmaDevices", "debug", "plugin"])
        resources["network"] = {field: [text] if field == "rdmaDevices" else text}
    if rng.random() < 0.2:
        resources["memory"] = rng.choice(["-1Gi", "1e30", "0", "1000000Ti", "0Gi"])
