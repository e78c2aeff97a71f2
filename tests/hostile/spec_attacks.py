"""Attacks by addresses, texts, names and sizes."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from hostile import corpus
from hostile.bending import Object, bent, hidden, template


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


def try_judge(rng: Random, body: Object) -> None:
    spec = body["spec"]
    hosts = [("a.judges.corp.example", "/v1"), ("judge.corp", "/v1"), ("judges.corp.example", "")]
    spec.setdefault("evaluation", {})["judge"] = {
        "endpoint": _bent_url(rng, "https", *rng.choice(hosts)),
        "model": "m",
        "credentialsRef": {"name": "judge"},
    }
    spec["evaluation"]["metrics"] = ["judgeWinRate"]


def try_reserved(rng: Random, body: Object) -> None:
    """Name what the operator makes for serving pods, which opens engines past their fronts."""
    spec, name = body["spec"], rng.choice(["finetune-serving-token", "finetune-serving"])
    named = {"credentialsRef": {"name": name}}
    match rng.randrange(5):
        case 0:
            spec["output"] = {**spec["output"], **named}
        case 1:
            spec["model"] = {**spec["model"], **named}
        case 2:
            spec["dataset"]["sources"][0] |= named
        case 3:
            spec["tracking"] = {"mlflow": {"uri": "https://mlflow.corp.example/team", **named}}
        case _:
            template(body)["serviceAccountName"] = name


def try_endpoint(rng: Random, body: Object) -> None:
    body["spec"]["s3"] = {
        "endpoint": _bent_url(rng, "https", rng.choice(["s3.corp.example", "10.0.0.5"]), "")
    }


def try_tracker(rng: Random, body: Object) -> None:
    uri = _bent_url(rng, "https", "mlflow.corp.example", rng.choice(["/team", ""]))
    server = {"uri": uri, "credentialsRef": {"name": "tracker"}}
    body["spec"]["tracking"] = {rng.choice(["mlflow", "wandb"]): server}


def try_uri(rng: Random, body: Object) -> None:
    target = bent(
        rng, rng.choice(["/var/run/secrets/finetune.dev/credentials/bucket", hidden(rng)])
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


def try_image(rng: Random, body: Object) -> None:
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


def try_jinja(rng: Random, body: Object) -> None:
    text = rng.choice((*corpus.TEMPLATE_ESCAPES, *corpus.TEMPLATE_BOMBS))
    if rng.random() < 0.5:
        body["spec"]["model"]["chatTemplate"] = {"text": text}
    else:
        body["spec"]["dataset"]["sources"][0]["template"] = text


def try_identity(rng: Random, body: Object) -> None:
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


def try_size(rng: Random, body: Object) -> None:
    pod, spec = template(body), body["spec"]
    many = rng.choice([8, 64, 300, 5000])
    big: tuple[Callable[[], None], ...] = (
        lambda: pod.update(env=[{"name": f"APP_{n}", "value": "x" * 4096} for n in range(many)]),
        lambda: pod.update(labels={f"k{n}": "x" * 63 for n in range(many)}),
        lambda: pod.update(labels={"k" * many: "x"}),
        lambda: pod.update(annotations={f"example.org/{n}": "x" * 1024 for n in range(many)}),
        lambda: pod.update(nodeSelector={f"k{n}": "shared-1" for n in range(many)}),
        lambda: pod.update(affinity={"podAffinity": [{}] * many * 50}),
        lambda: pod.update(affinity={"x" * many: [[] for _ in range(many)]}),
        lambda: pod.update(imagePullSecrets=[{"name": f"s{n}"} for n in range(many)]),
        lambda: pod.update(volumes=[{"name": f"v{n}", "emptyDir": {}} for n in range(many)]),
        lambda: pod.update(tolerations=[{"key": "spot", "operator": "Exists"}] * many),
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


def try_code(rng: Random, body: Object) -> None:
    spec = body["spec"]
    spec["model"]["trustRemoteCode"] = rng.choice([True, True, "true", 1])


def try_own_metric(rng: Random, body: Object) -> None:
    paths = ["/data/metrics/score.py", "/cache/hf/org/model/score.py", "/work/x.py", hidden(rng)]
    metric: Object = {"path": bent(rng, rng.choice(paths))}
    if rng.random() < 0.5:
        metric["function"] = rng.choice(["score", "__import__", "os.system", "", "exec"])
    evaluation = body["spec"].setdefault("evaluation", {})
    evaluation[rng.choice(["customMetric"] * 5 + ["custom_metric"])] = metric
    if rng.random() < 0.3:
        evaluation["metrics"] = ["custom"]
