"""Keep the operator and chart of an earlier revision as data of the upgrade test.

``python tools/previous_release.py`` packs the newest ``v*`` tag, or the revision that is given,
into ``tests/control_plane/previous.zip``; its comment is the commit. Run it once a release is out:
the test then upgrades from that one.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parent.parent
TARGET = REPOSITORY / "tests" / "control_plane" / "previous.zip"
PACKED = ("operator/finetune_api", "operator/finetune_operator", "charts/finetune-operator")


def git(*arguments: str) -> str:
    """Run git in the repository and return what it says.

    Raises:
        CalledProcessError: git refused; its message is on standard error.
    """
    command = ["git", "-C", str(REPOSITORY), *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def main(arguments: list[str] | None = None) -> int:
    """Pack one revision."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("revision", nargs="?", help="default: the newest tag v*")
    options = parser.parse_args(arguments)
    revision = options.revision
    if revision is None:
        tags = git("tag", "--list", "v*", "--sort=-version:refname").splitlines()
        if not tags:
            print("there is no tag v*: name a revision", file=sys.stderr)
            return 1
        revision = tags[0]
    commit = git("rev-parse", f"{revision}^{{commit}}")
    git("archive", "--format=zip", "-9", f"--output={TARGET}", commit, *PACKED)
    print(f"wrote {TARGET.relative_to(REPOSITORY)}: {revision} ({commit[:12]})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
