"""Writes FineTuneJobs that mean to break out: seeded, so that each can be written again."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random
from typing import Any

from hostile import corpus

Object = dict[str, Any]

BASES: tuple[Object, ...] = (
    {
        "model": {"uri": "hf://org/model"},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "output": {"uri": "s3://models", "credentialsRef": {"name": "bucket"}},
    },
    {
        "model": {"uri": "pvc://models/llama"},
        "dataset": {"sources": [{"uri": "pvc://rows/a.jsonl"}]},
        "output": {"uri": "pvc://results/adapters"},
        "resources": {"nodes": 2, "gpusPerNode": 8},
    },
    {
        "model": {"uri": "s3://models/llama", "credentialsRef": {"name": "reader"}},
        "dataset": {"sources": [{"uri": "s3://data/rows.jsonl"}]},
        "evaluation": {"engine": "VLLM", "redTeam": {"probes": ["promptinject"], "maxPrompts": 8}},
        "output": {"uri": "s3://models", "credentialsRef": {"name": "bucket"}},
    },
)


@dataclass(frozen=True, kw_only=True)
class Attack:
    """One FineTuneJob that means to break out.

    Attributes:
        kind: What it tries.
        body: The object as the tenant writes it.
    """

    kind: str
    body: Object


def attacks(seed: int) -> Iterator[Attack]:
    """Yield attacks without end: each kind in turn, one in eight of two kinds at once."""
    rng = Random(seed)
    number = 0
    while True:
        for kind, attack in KINDS.items():
            spec = copy.deepcopy(rng.choice(BASES))
            body = {
                "apiVersion": "finetune.dev/v1alpha1",
                "kind": "FineTuneJob",
                "metadata": {"name": f"attack-{number}"},
                "spec": spec,
            }
            attack(rng, body)
            if rng.random() < 0.125:
                rng.choice(list(KINDS.values()))(rng, body)
            number += 1
            yield Attack(kind=kind, body=body)


def _template(body: Object) -> Object:
    template: Object = body["spec"].setdefault("podTemplate", {})
    return template


# ---- paths ---------------------------------------------------------------------------------------

_LOOKALIKES = {
    "/": ("\uff0f", "\u2215", "\u2044", "\u29f8"),
    ".": ("\u2024", "\uff0e", "\u3002"),
    "e": ("\u0435",),
    "o": ("\u043e",),
    "a": ("\u0430",),
}


def _slashes(path: str) -> list[int]:
    return [index for index, letter in enumerate(path) if letter == "/"] or [0]


def _double(rng: Random, path: str) -> str:
    at = rng.choice(_slashes(path))
    return path[:at] + "/" * rng.randint(1, 3) + path[at:]


def _dot(rng: Random, path: str) -> str:
    at = rng.choice(_slashes(path))
    return path[:at] + rng.choice(["/.", "/./.", "/x/..", "/data/..", "/..", "/.//."]) + path[at:]


def _climb(rng: Random, path: str) -> str:
    root = rng.choice(["/data", "/mnt", "/data/shared", "/metrics", "/work"])
    ups = "/.." * (root.count("/") + rng.randint(0, 2))
    return root + ups + path


def _look_alike(rng: Random, path: str) -> str:
    letter = rng.choice([each for each in _LOOKALIKES if each in path] or ["/"])
    return path.replace(letter, rng.choice(_LOOKALIKES[letter]), rng.choice([1, -1]))


def _encode(rng: Random, path: str) -> str:
    at = rng.randrange(len(path))
    code = f"%{ord(path[at]):02{rng.choice('xX')}}"
    return path[:at] + rng.choice([code, code.replace("%", "%25")]) + path[at + 1 :]


def _insert(rng: Random, path: str) -> str:
    at = rng.randrange(len(path) + 1)
    odd = rng.choice(["\0", "\n", "\t", " ", "\\", "\u200b", "\u202e", "\x7f", ":", "${HOME}", "~"])
    return path[:at] + odd + path[at:]


def _swap_case(rng: Random, path: str) -> str:
    return "".join(rng.choice([letter.upper(), letter]) for letter in path)


def _lengthen(rng: Random, path: str) -> str:
    return rng.choice(["/." * 250, "/" * 490, "/data" + "/x/.." * 80]) + path


_CHANGES: tuple[Callable[[Random, str], str], ...] = (
    *(_double, _double, _dot, _climb, _look_alike, _encode, _insert, _swap_case, _lengthen),
    lambda _, path: path + "/",
    lambda _, path: path,
    lambda _, path: "/" + path,
    lambda _, path: path.lstrip("/"),
    lambda _, path: path.replace("/", "\\"),
)


def _bent(rng: Random, path: str) -> str:
    """Return a path that some would read as the one given, and others as another."""
    for _ in range(rng.choice([0, 1, 1, 1, 2, 3])):
        path = rng.choice(_CHANGES)(rng, path or "/")
    return path


def _hidden(rng: Random) -> str:
    path = rng.choice(corpus.HIDEABLE_PATHS)
    if rng.random() < 0.2:
        path = path.rstrip("/") + "/" + rng.choice(["x", "lib", "token", "sitecustomize.py"])
    return path


def _mount(rng: Random, body: Object) -> None:
    template = _template(body)
    sources: list[Object] = [
        {"configMap": {"name": "mine"}},
        {"emptyDir": {}},
        {"persistentVolumeClaim": {"claimName": "mine"}},
    ]
    name = rng.choice(["mine", "mine", "code", "job-", "x" * 63])
    template["volumes"] = [{"name": name, **rng.choice(sources)}]
    mount: Object = {"name": name, "mountPath": _bent(rng, _hidden(rng))}
    if rng.random() < 0.3:
        mount["readOnly"] = True
    template["volumeMounts"] = [mount]
    if rng.random() < 0.2:
        template["volumeMounts"].insert(0, {"name": name, "mountPath": "/data"})


def _sub_path(rng: Random, body: Object) -> None:
    inner = [
        *("..", "../..", "/", "/etc", "a/../..", "a/./../../b", "a//..", "..%2f..", "%2e%2e/x"),
        *("a\\..\\..", "..\\..", "$(HOME)", "\0", "a/\u2024\u2024/b", "." * 300, "a/..", "./.."),
    ]
    template = _template(body)
    template["volumes"] = [{"name": "mine", "persistentVolumeClaim": {"claimName": "mine"}}]
    path = rng.choice(["/data", "/mnt/x", "//data", _hidden(rng)])
    mount = {"name": "mine", "mountPath": path, "subPath": rng.choice(inner)}
    if rng.random() < 0.1:
        mount["subPathExpr"] = mount.pop("subPath")
    template["volumeMounts"] = [mount]


def _volume(rng: Random, body: Object) -> None:
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
    template = _template(body)
    template["volumes"] = [{"name": name, **rng.choice(kinds)}]
    if rng.random() < 0.3:
        template["volumes"].append({"name": name, "emptyDir": {}})
    template["volumeMounts"] = [{"name": name, "mountPath": rng.choice(["/data", _hidden(rng)])}]


# ---- variables, annotations, labels --------------------------------------------------------------


def _variable(rng: Random, body: Object) -> None:
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
    _template(body)["env"] = [
        {"name": rng.choice(bend)(name), "value": value} for name in dict.fromkeys(names)
    ]
    if rng.random() < 0.1:
        _template(body)["env"][0] |= {"valueFrom": {"secretKeyRef": {"name": "x", "key": "y"}}}


def _bent_key(rng: Random, key: str) -> str:
    return rng.choice((key, key, key, key.upper(), key + "/", " " + key, key.replace("/", "//", 1)))


def _annotation(rng: Random, body: Object) -> None:
    keys = rng.sample(sorted(corpus.DANGEROUS_ANNOTATIONS), rng.choice([1, 1, 3]))
    _template(body)["annotations"] = {
        _bent_key(rng, key): corpus.DANGEROUS_ANNOTATIONS[key] for key in keys
    }


def _label(rng: Random, body: Object) -> None:
    keys = rng.sample(sorted(corpus.DANGEROUS_LABELS), rng.choice([1, 1, 3]))
    _template(body)["labels"] = {_bent_key(rng, key): corpus.DANGEROUS_LABELS[key] for key in keys}
    if rng.random() < 0.3:
        bent = ["Team", "teams", "team/x", "x/team", "example.org", "example.org/a/b", "tier"]
        value = rng.choice(["web", "xbatch-1", "batch", "batch-/x", ""])
        _template(body)["labels"][rng.choice(bent)] = value


# ---- where pods run ------------------------------------------------------------------------------


def _toleration(rng: Random, body: Object) -> None:
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
    _template(body)["tolerations"] = rng.sample(choices, rng.choice([1, 1, 2]))


def _classes(rng: Random, body: Object) -> None:
    template = _template(body)
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
    template[field] = rng.choice(names)


def _node(rng: Random, body: Object) -> None:
    template = _template(body)
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
        template["nodeSelector"] = rng.choice(labels)
    else:
        template["affinity"] = rng.choice(affinities)


def _field(rng: Random, body: Object) -> None:
    fields: Object = {
        "hostNetwork": True, "hostPID": True, "hostIPC": True, "hostUsers": True,
        "securityContext": {"privileged": True}, "containers": [{"name": "x", "image": "evil"}],
        "initContainers": [{"name": "vllm", "image": "evil.example/x"}], "dnsPolicy": "None",
        "dnsConfig": {"nameservers": ["10.6.6.6"]}, "hostAliases": [{"ip": "10.6.6.6"}],
        "shareProcessNamespace": True, "automountServiceAccountToken": True, "command": ["sh"],
        "args": ["-c", "id"], "nodeName": "control-plane", "subdomain": "evil", "hostname": "x",
        "ephemeralContainers": [], "preemptionPolicy": "PreemptLowerPriority", "overhead": {},
        "resourceClaims": [{"name": "x"}], "schedulingGates": [{"name": "x"}], "os": {"name": "x"},
        "terminationGracePeriodSeconds": 10**9, "enableServiceLinks": True,
    }  # fmt: skip
    name = rng.choice(sorted(fields))
    _template(body)[name] = fields[name]


def _resource(rng: Random, body: Object) -> None:
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
    if rng.random() < 0.2:
        resources["memory"] = rng.choice(["-1Gi", "1e30", "0", "1000000Ti", "0Gi"])


# ---- addresses -----------------------------------------------------------------------------------


def _bent_url(rng: Random, scheme: str, host: str, path: str) -> str:
    evil = "evil.example"
    return rng.choice(
        [
            f"{scheme}://{evil}/{host}{path}",
            f"{scheme}://{evil}/.{host.partition('.')[2]}{path}",
            f"{scheme}://{evil}?{host}{path}",
            f"{scheme}://{evil}#.{host}{path}",
            f"{scheme}://{evil}#@{host}{path}",
            f"{scheme}://{host}@{evil}{path}",
            f"{scheme}://{host}:80@{evil}{path}",
            f"{scheme}://{host}%40{evil}{path}",
            f"{scheme}://{host}\\@{evil}{path}",
            f"{scheme}://{evil}\\.{host}{path}",
            f"{scheme}://{host}.{evil}{path}",
            f"{scheme}://x{host}{path}",
            f"{scheme}://{host}:8443{path}",
            f"{scheme}://{host}:{path}",
            f"{scheme}://{host}:443:80{path}",
            f"{scheme}://{host}:99999{path}",
            f"{scheme}:///{host}{path}",
            f"{scheme}:/{host}{path}",
            f"{scheme}://{host}{path}/../../admin",
            f"{scheme}://{host}{path}/%2e%2e/admin",
            f"{scheme}://{host}{path}x",
            f"{scheme}://{host.replace('.', chr(0x3002), 1)}{path}",
            f"{scheme}://{host.replace('e', chr(0x435))}{path}",
            f"{scheme}://{host}\t{path}",
            f"{scheme}://{host}{path}\r\nHost: {evil}",
            f"{scheme}://[::1]{path}",
            f"{scheme}://169.254.169.254/latest/meta-data",
            f"{scheme}://0x7f000001{path}",
            f"http://{host}{path}",
            f"HTTPS://{host.upper()}{path}",
            f"file://{host}{path}",
            f"{scheme}://{host}.{path}",
            f"{scheme}://*.{host}{path}",
            f"{scheme}://*{path}",
            f" {scheme}://{host}{path}",
        ]
    )


def _judge(rng: Random, body: Object) -> None:
    spec = body["spec"]
    hosts = [("a.judges.corp.example", "/v1"), ("judge.corp", "/v1"), ("judges.corp.example", "")]
    spec.setdefault("evaluation", {})["judge"] = {
        "endpoint": _bent_url(rng, "https", *rng.choice(hosts)),
        "model": "m",
        "credentialsRef": {"name": "judge"},
    }
    spec["evaluation"]["metrics"] = ["judgeWinRate"]


def _endpoint(rng: Random, body: Object) -> None:
    body["spec"]["s3"] = {
        "endpoint": _bent_url(rng, "https", rng.choice(["s3.corp.example", "10.0.0.5"]), "")
    }


def _tracker(rng: Random, body: Object) -> None:
    uri = _bent_url(rng, "https", "mlflow.corp.example", rng.choice(["/team", ""]))
    server = {"uri": uri, "credentialsRef": {"name": "tracker"}}
    body["spec"]["tracking"] = {rng.choice(["mlflow", "wandb"]): server}


def _uri(rng: Random, body: Object) -> None:
    target = _bent(
        rng, rng.choice(["/var/run/secrets/finetune.dev/credentials/bucket", _hidden(rng)])
    )
    uri = rng.choice(
        [
            f"file://{target}",
            f"file:{target}",
            f"FILE://{target}",
            f"file://localhost{target}",
            f"file://evil{target}",
            f"file:///data/shared{target}",
            f"file:///data/shared/..{target}",
            f"file:///data/shared/%2e%2e{target}",
            f"file:///data/shared/%252e%252e{target}",
            f"file:///data/shared?{target}",
            f"file:///data/shared#/..{target}",
            f"file:///data/shared;x=/../..{target}",
            f"file:///data/shared2{target}",
            "file:///data/shared/\x00/../../etc",
            f"file://.{target}",
            f"pvc://models{target}",
            f"pvc://models/..{target}",
            f"pvc://models/%2e%2e/%2e%2e{target}",
            f"pvc://models/x/../../..{target}",
            f"pvc://../{target}",
            f"pvc://models%2f..{target}",
            f"pvc://models?/../..{target}",
            f"pvc://models#{target}",
            f"pvc://models/*{target}/*",
            f"pvc://models./x{target}",
            f"hf://org/model/../..{target}",
            f"hf://org/model@main/../../..{target}",
            f"hf://org/..{target}",
            f"hf://../../{target}",
            f"hf://org/model@..%2f..{target}",
            f"s3://bucket/../other{target}",
            f"s3://bucket@evil.example{target}",
            f"s3://bucket:80{target}",
            f"http://evil.example{target}",
            f"https+file://{target}",
            f"file://{target}/checkpoints/step-1",
        ]
    )
    places: tuple[Callable[[Object], None], ...] = (
        lambda s: s["model"].update(uri=uri),
        lambda s: s["dataset"]["sources"][0].update(uri=uri),
        lambda s: s["output"].update(uri=uri),
        lambda s: s.update(initFrom={"uri": uri.rstrip("/") + "/checkpoints/step-10"}),
        lambda s: s["model"].update(chatTemplate={"uri": uri}),
        lambda s: s["dataset"].update(contamination={"against": [{"name": "x", "uri": uri}]}),
        lambda s: s.setdefault("evaluation", {}).update(jsonSchema={"uri": uri}),
    )
    rng.choice(places)(body["spec"])


def _image(rng: Random, body: Object) -> None:
    images = [
        *("evil.example/registry.corp/finetune/x", "registry.corp.evil.example/finetune/x"),
        *("registry.corp@evil.example/finetune/x", "registry.corp:80/finetune/x", "finetune/x"),
        *("registry.corp/finetune/../evil", "registry.corp/finetune/a/b/c", "registry.corp/evil"),
        *("REGISTRY.corp/finetune/x", "registry.corp/finetune", "registry.corp/finetuneevil/x"),
        *("registry.corp/finetune/x\n", "registry.corp//finetune/x", "https://registry.corp/x"),
        *(
            "registry.corp:5000/team/../x",
            "registry.corp:5000/teamx/y",
            "*",
            "registry.corp/finetune/*",
        ),
        *(
            "registry.corp/finetune/x@evil.example/y",
            "registry.c\u043erp/finetune/x",
            " registry.corp/x",
        ),
        *("registry.corp?/finetune/x", "registry.corp#/finetune/x", "registry.corp\\finetune\\x"),
    ]
    body["spec"]["trainer"] = {"image": rng.choice(images)}


# ---- texts, names, sizes -------------------------------------------------------------------------


def _jinja(rng: Random, body: Object) -> None:
    text = rng.choice((*corpus.TEMPLATE_ESCAPES, *corpus.TEMPLATE_BOMBS))
    if rng.random() < 0.5:
        body["spec"]["model"]["chatTemplate"] = {"text": text}
    else:
        body["spec"]["dataset"]["sources"][0]["template"] = text


def _identity(rng: Random, body: Object) -> None:
    metadata = body["metadata"]
    theirs = {"apiVersion": "finetune.dev/v1alpha1", "kind": "FineTuneJob", "name": "victim",
              "uid": "0" * 36, "controller": True}  # fmt: skip
    changes: list[Object] = [
        {"name": "../../other/x"}, {"name": "x/../y"}, {"name": "UPPER"}, {"name": "a" * 53},
        {"name": "a" * 52}, {"name": "a-train"}, {"name": "a-job"}, {"name": "a-t1"},
        {"name": "-a"}, {"name": "a."}, {"name": "a\n"}, {"name": "\u0430"},
        {"namespace": "kube-system"}, {"namespace": "../x"}, {"uid": "forged"},
        {"ownerReferences": [theirs]}, {"labels": {"finetune.dev/sweep": "victim"}},
        {"labels": {"finetune.dev/trial": "1", "finetune.dev/sweep": "../victim"}},
        {"annotations": {"finetune.dev/paused": "true"}}, {"finalizers": ["evil/never"]},
        {"managedFields": [{"manager": "finetune-operator"}]}, {"generation": 10**18},
    ]  # fmt: skip
    metadata |= rng.choice(changes)
    if rng.random() < 0.2:
        body["status"] = {"phase": "Succeeded", "jobDigest": "0" * 64}


def _size(rng: Random, body: Object) -> None:
    template, spec = _template(body), body["spec"]
    many = rng.choice([8, 64, 300, 5000])
    big: tuple[Callable[[], None], ...] = (
        lambda: template.update(
            env=[{"name": f"APP_{n}", "value": "x" * 4096} for n in range(many)]
        ),
        lambda: template.update(labels={f"k{n}": "x" * 63 for n in range(many)}),
        lambda: template.update(labels={"k" * many: "x"}),
        lambda: template.update(annotations={f"example.org/{n}": "x" * 1024 for n in range(many)}),
        lambda: template.update(nodeSelector={f"k{n}": "shared-1" for n in range(many)}),
        lambda: template.update(affinity={"podAffinity": [{}] * many * 50}),
        lambda: template.update(affinity={"x" * many: [[] for _ in range(many)]}),
        lambda: template.update(imagePullSecrets=[{"name": f"s{n}"} for n in range(many)]),
        lambda: template.update(volumes=[{"name": f"v{n}", "emptyDir": {}} for n in range(many)]),
        lambda: template.update(tolerations=[{"key": "spot", "operator": "Exists"}] * many),
        lambda: spec["dataset"].update(sources=[{"uri": f"s3://data/{n}"} for n in range(many)]),
        lambda: spec["dataset"]["sources"][0].update(template="x" * many * 400),
        lambda: spec["model"].update(chatTemplate={"text": "x" * many * 400}),
        lambda: spec["model"].update(uri="s3://b/" + "x" * many * 100),
        lambda: spec["model"].update(
            chatTemplateArguments={f"a{n}": "x" * 1024 for n in range(many)}
        ),
    )
    for fill in rng.sample(big, rng.choice([1, 3, len(big)])):
        fill()


def _code(rng: Random, body: Object) -> None:
    spec = body["spec"]
    spec["model"]["trustRemoteCode"] = rng.choice([True, True, "true", 1])


def _own_metric(rng: Random, body: Object) -> None:
    paths = ["/data/metrics/score.py", "/cache/hf/org/model/score.py", "/work/x.py", _hidden(rng)]
    metric: Object = {"path": _bent(rng, rng.choice(paths))}
    if rng.random() < 0.5:
        metric["function"] = rng.choice(["score", "__import__", "os.system", "", "exec"])
    evaluation = body["spec"].setdefault("evaluation", {})
    evaluation[rng.choice(["customMetric"] * 5 + ["custom_metric"])] = metric
    if rng.random() < 0.3:
        evaluation["metrics"] = ["custom"]


KINDS: dict[str, Callable[[Random, Object], None]] = {
    "mounts": _mount,
    "sub-paths": _sub_path,
    "volumes": _volume,
    "environment": _variable,
    "annotations": _annotation,
    "labels": _label,
    "tolerations": _toleration,
    "classes and accounts": _classes,
    "nodes and affinity": _node,
    "fields of a pod": _field,
    "GPU resource": _resource,
    "judges": _judge,
    "S3 endpoints": _endpoint,
    "trackers": _tracker,
    "URIs": _uri,
    "images": _image,
    "templates": _jinja,
    "names and owners": _identity,
    "sizes": _size,
    "remote code": _code,
    "metrics of one's own": _own_metric,
}
"""Every kind of attack; each writes itself into an object."""
