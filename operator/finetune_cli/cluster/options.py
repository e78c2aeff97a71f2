"""The options of every command that may work on a cluster: context, namespace, kubeconfig."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from finetune_cli.cluster.client import Cluster


@dataclass(frozen=True, kw_only=True, slots=True)
class ClusterOptions:
    """Which cluster and which namespace a command works on; None is the kubeconfig's own choice."""

    context: str | None = None
    namespace: str | None = None
    kubeconfig: Path | None = None

    def connect(self, *, namespace: str | None = None) -> Cluster:
        """Connect to the cluster; ``namespace`` is the default of the option.

        Raises:
            CliError: The kubeconfig names no cluster.
        """
        from finetune_cli.cluster.client import Cluster

        return Cluster.connect(
            context=self.context,
            namespace=self.namespace or namespace,
            kubeconfig=self.kubeconfig,
        )


CURRENT_CONTEXT = ClusterOptions()
"""Default of the parameter ``where`` of commands."""

_OPTIONS = {
    "context": Annotated[str | None, typer.Option(help="Context of the kubeconfig.")],
    "namespace": Annotated[
        str | None, typer.Option("--namespace", "-n", help="Namespace. Default: the context's.")
    ],
    "kubeconfig": Annotated[
        Path | None, typer.Option(help="Kubeconfig file. Default: KUBECONFIG.")
    ],
}


def with_cluster_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the three options of a cluster instead of its parameter ``where``."""

    @functools.wraps(command)
    def run(**arguments: Any) -> None:
        where = ClusterOptions(**{name: arguments.pop(name) for name in _OPTIONS})
        command(where=where, **arguments)

    signature = inspect.signature(command)
    hints = get_type_hints(command, localns={"ClusterOptions": ClusterOptions}, include_extras=True)
    del hints["where"]
    kept = [
        each.replace(annotation=hints[name])
        for name, each in signature.parameters.items()
        if name != "where"
    ]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=option)
        for name, option in _OPTIONS.items()
    ]
    run.__annotations__ = {**hints, **_OPTIONS}
    run.__signature__ = signature.replace(parameters=[*kept, *added])  # type: ignore[attr-defined]
    return run
