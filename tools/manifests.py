"""Render the chart into plain manifests for ``kubectl apply -f`` and kustomize.

Writes below ``build/`` (or ``--output``):

- ``install.yaml``: namespace, CRDs and everything else, in the order in which they are applied;
- ``manifests/``: the same, one object per file, with a ``kustomization.yaml`` over them.

The chart is the only source: these files are made for a release and not kept in the repository.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
CHART = ROOT / "charts" / "finetune-operator"
RELEASE = "finetune-operator"
NAMESPACE = "finetune-system"

# Helm's own labels would claim that a release exists which could be upgraded.
_HELM_LABELS = ("helm.sh/chart",)
_APPLY_ORDER = ("Namespace", "CustomResourceDefinition", "ServiceAccount", "ConfigMap")


class HelmNotFoundError(Exception):
    """No helm binary; the message says where it was looked for and how to get one."""


class RenderError(Exception):
    """helm refused the chart or the values; the message is helm's own."""


def find_helm() -> Path:
    """Return a helm binary: ``$HELM``, the PATH, or the one tools/devcluster pins and builds.

    Raises:
        HelmNotFoundError: There is none and none can be built.
    """
    named = os.environ.get("HELM") or "helm"
    found = shutil.which(named)
    if found:
        return Path(found)
    from devcluster.errors import DevclusterError
    from devcluster.programs.binaries import program

    try:
        return program("helm")
    except DevclusterError as error:
        raise HelmNotFoundError(
            f"helm not found as {named!r} on PATH, and it cannot be built here ({error}): install"
            " helm 3.14 or newer, or set HELM to its path"
        ) from error


def render_chart(
    arguments: Sequence[str] = (),
    *,
    release: str = RELEASE,
    namespace: str = NAMESPACE,
    helm: Path | None = None,
) -> list[dict[str, Any]]:
    """Return the chart's objects, CRDs included.

    Args:
        arguments: More arguments of ``helm template``, such as ``--set`` or ``--values``.
        release: Name of the release.
        namespace: Namespace of the release.
        helm: The helm binary; found by :func:`find_helm` by default.

    Raises:
        HelmNotFoundError: There is no helm.
        RenderError: helm refused the chart or the values.
    """
    command = [
        str(helm or find_helm()), "template", release, str(CHART),
        "--namespace", namespace, "--include-crds", *arguments,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RenderError(f"{' '.join(command)}: {done.stderr.strip()}")
    # The loader in C: in Python the CRDs alone take two seconds.
    return [item for item in yaml.load_all(done.stdout, Loader=yaml.CSafeLoader) if item]


def build_manifests(
    arguments: Sequence[str] = (), *, namespace: str = NAMESPACE
) -> list[dict[str, Any]]:
    """Return the namespace and the chart's objects, without traces of helm, in apply order."""
    objects = [_namespace(namespace), *render_chart(arguments, namespace=namespace)]
    for item in objects:
        _strip_helm(item)
    return sorted(objects, key=_order)


def _namespace(name: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {
            "name": name,
            "labels": {
                "app.kubernetes.io/part-of": "finetune-operator",
                "pod-security.kubernetes.io/enforce": "restricted",
            },
        },
    }


def _strip_helm(item: dict[str, Any]) -> None:
    template = item.get("spec", {}).get("template", {})
    for holder in (item, template):
        labels = holder.get("metadata", {}).get("labels")
        if not labels:
            continue
        for key in _HELM_LABELS:
            labels.pop(key, None)
        if labels.get("app.kubernetes.io/managed-by") == "Helm":
            del labels["app.kubernetes.io/managed-by"]


def _order(item: dict[str, Any]) -> int:
    kind = item["kind"]
    if kind in _APPLY_ORDER:
        return _APPLY_ORDER.index(kind)
    # Workloads last: their pods need every right from the start.
    return 99 if kind == "Deployment" else 50


def write_manifests(objects: Iterable[dict[str, Any]], output: Path) -> list[Path]:
    """Write ``install.yaml`` and the kustomize folder; returns the files written."""
    items = list(objects)
    folder = output / "manifests"
    if folder.exists():
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    names: list[str] = []
    for item in items:
        namespace = item["metadata"].get("namespace")
        scope = f"{namespace}-" if namespace not in (None, NAMESPACE) else ""
        name = f"{item['kind'].lower()}-{scope}{item['metadata']['name']}.yaml"
        (folder / name).write_text(_dump(item))
        names.append(name)
    (folder / "kustomization.yaml").write_text(
        _dump(
            {
                "apiVersion": "kustomize.config.k8s.io/v1beta1",
                "kind": "Kustomization",
                "resources": names,
            }
        )
    )
    install = output / "install.yaml"
    install.write_text("---\n".join(_dump(item) for item in items))
    return [install, *(folder / name for name in [*names, "kustomization.yaml"])]


def _dump(item: dict[str, Any]) -> str:
    return yaml.safe_dump(item, sort_keys=False, width=100)


def main() -> int:
    """Render and write; extra arguments go to ``helm template``."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=ROOT / "build", help="default: build/")
    parser.add_argument("--namespace", default=NAMESPACE, help=f"default: {NAMESPACE}")
    options, rest = parser.parse_known_args()
    try:
        objects = build_manifests(rest, namespace=options.namespace)
    except (HelmNotFoundError, RenderError) as error:
        print(error, file=sys.stderr)
        return 1
    files = write_manifests(objects, options.output)
    print(f"wrote {len(files)} files with {len(objects)} objects below {options.output}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
