"""Puts the generated CRDs on a test's API server."""

from __future__ import annotations

from pathlib import Path

import yaml

from support.eventually import eventually
from support.raw_api import APPLY, RawApi

FOLDER = Path(__file__).parents[2] / "crds"
CRDS = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def install_crd(api: RawApi) -> None:
    """Apply the CRDs and wait until all of their kinds are served."""
    for file in sorted(FOLDER.glob("*.yaml")):
        _install(api, file)


def _install(api: RawApi, file: Path) -> None:
    body = yaml.safe_load(file.read_text())
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
        return api.send("GET", f"/apis/finetune.dev/v1alpha1/{file.stem}")[0] == 200

    eventually(is_served, timeout=20)
