"""Puts the generated CRD on a test's API server."""

from __future__ import annotations

from pathlib import Path

import yaml

from support.eventually import eventually
from support.raw_api import APPLY, RawApi

CRD = Path(__file__).parents[2] / "crds" / "finetunejobs.yaml"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install_crd(api: RawApi) -> None:
    """Apply the CRD and wait until FineTuneJobs are served."""
    body = yaml.safe_load(CRD.read_text())
    name = body["metadata"]["name"]
    path = f"{CRDS}/{name}?fieldManager=test&force=true&fieldValidation=Strict"
    status, answer = api.send("PATCH", path, body, content_type=APPLY)
    assert status in (200, 201), answer["message"]

    def is_served() -> bool:
        _, crd = api.send("GET", f"{CRDS}/{name}")
        conditions = {c["type"]: c["status"] for c in crd.get("status", {}).get("conditions", [])}
        assert conditions.get("NonStructuralSchema") is None, crd["status"]["conditions"]
        if conditions.get("Established") != "True":
            return False
        return api.send("GET", "/apis/finetune.dev/v1alpha1/finetunejobs")[0] == 200

    eventually(is_served, timeout=20)
