"""``python -m devcluster up|down|tidy|status|load|build|which``: the command line."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from devcluster import commands
from devcluster.errors import DevclusterError, HostUnfitError
from devcluster.programs.binaries import BUILDS


def parse_arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="devcluster", description="A real Kubernetes on this Linux host, from pinned sources."
    )
    verbs = parser.add_subparsers(dest="verb", required=True)

    up = verbs.add_parser("up", help="start a cluster, or find the running one")
    up.add_argument("--profile", choices=("control-plane", "node"), default="node")
    up.add_argument("--name", help="cluster name (default: the profile's)")
    up.add_argument("--audit-log", action="store_true", help="API server writes an audit log")
    up.add_argument("--kueue", action="store_true", help="install Kueue (node profile)")
    up.add_argument("--gpus", type=int, default=8, help="nvidia.com/gpu to fake (default 8)")

    up.add_argument("--internet", action="store_true", help="let pods reach outside addresses")

    down = verbs.add_parser("down", help="remove a cluster and all its traces")
    down.add_argument("--name", help="cluster name (default: the node profile's)")
    down.add_argument("--all", action="store_true", help="every cluster, crashed ones included")
    down.add_argument("--purge", action="store_true", help="delete cached images too")

    tidy = verbs.add_parser("tidy", help="remove what test runs that were killed have left")
    tidy.add_argument(
        "--ended", nargs="*", metavar="RUN", default=(), help="runs that live and start no more"
    )

    verbs.add_parser("status", help="what runs, where, and what is wrong").add_argument(
        "--json", action="store_true", help="for programs"
    )

    load = verbs.add_parser("load", help="build the project's images into the cluster's registry")
    load.add_argument(
        "images", nargs="*", metavar="IMAGE", help="operator, trainer (default: both)"
    )
    load.add_argument("--tag", default="dev", help="image tag (default dev)")

    build = verbs.add_parser("build", help="build binaries into the cache, start nothing")
    build.add_argument("--profile", choices=("control-plane", "node"), default="node")
    build.add_argument(
        "--also", nargs="+", choices=tuple(BUILDS), default=(), help="builds that neither needs"
    )
    build.add_argument("--images", action="store_true", help="the project's images too")

    path = verbs.add_parser("which", help="print the path of a built program, such as kubectl")
    path.add_argument("program")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; errors the tool foresees end in one plain message and a status.

    It is 69 where this host cannot, else 1.
    """
    arguments = parse_arguments(argv)
    try:
        return int(getattr(commands, arguments.verb)(arguments))
    except DevclusterError as error:
        notes = getattr(error, "__notes__", [])
        print("\n".join(["devcluster: " + str(error), *notes]), file=sys.stderr)
        return os.EX_UNAVAILABLE if isinstance(error, HostUnfitError) else 1


if __name__ == "__main__":
    sys.exit(main())
