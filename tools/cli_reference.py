"""The reference page of the commands, rendered from the program itself."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import Any

import typer.main

from finetune_cli.app import app

EITHER = ("compare", "report", "publish", "review", "monitor")
"""Commands that take an object of a cluster by its name, or files, folders and URIs without one."""


def render_cli() -> str:
    """Render every command with its arguments and options as Markdown."""
    group: Any = typer.main.get_command(app)
    lines = [
        "# The `finetune` command",
        "",
        group.help,
        "",
        *textwrap.wrap(_places(group.commands), 90, break_on_hyphens=False),
        "",
        "Exit codes: 0 done; 1 the answer is no (job invalid, goal missed, checksum wrong, job",
        "failed), or the API server failed; 2 there is no such command or option; 64 a file, a",
        "folder or a URI is not there, a value or a name is wrong, or the cluster does not answer;",
        "any other is that of the stage or the storage that failed (see",
        "[exit codes](exit-codes.md)).",
        "",
    ]
    for name, command in group.commands.items():
        for path, leaf in _leaves(name, command):
            lines += _command(path, leaf)
    return "\n".join(lines).rstrip() + "\n"


def _places(commands: dict[str, Any]) -> str:
    """Say where each command works; one that has a kubeconfig may ask a cluster."""
    asking = {name for name, each in commands.items() if _knows_clusters(name, each)}
    local = [name for name in commands if name not in asking]
    remote = [name for name in commands if name in asking and name not in EITHER]
    return (
        "`kubectl-finetune` is the same program, so `kubectl finetune status` works too."
        f" {_listed(local)} need no cluster. {_listed(EITHER)} take an object of a cluster by its"
        f" name, or without a cluster the file, folder or URI of a run. {_listed(remote)} work on a"
        " cluster, and `schedule run` on this machine. A cluster is asked with the kubeconfig that"
        " `kubectl` would use."
    )


def _knows_clusters(name: str, command: Any) -> bool:
    leaves = [leaf for _, leaf in _leaves(name, command)]
    return any("--kubeconfig" in option.opts for leaf in leaves for option in leaf.params)


def _listed(names: Sequence[str]) -> str:
    quoted = [f"`{name}`" for name in names]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _leaves(name: str, command: Any) -> list[tuple[str, Any]]:
    """Return the commands of a group by their full names; a command itself stands alone."""
    children = getattr(command, "commands", None)
    if children is None:
        return [(name, command)]
    return [leaf for child, each in children.items() for leaf in _leaves(f"{name} {child}", each)]


def _command(name: str, command: Any) -> list[str]:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option"]
    usage = " ".join(f"{p.name.upper()}{'...' if p.nargs == -1 else ''}" for p in arguments)
    lines = [f"## {name}", "", " ".join(command.help.split()), ""]
    lines += ["```", f"finetune {name} {usage} [OPTIONS]".replace("  ", " "), "```", ""]
    if arguments or options:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{p.name.upper()}` | {p.help or ''} |" for p in arguments]
        for option in options:
            flags = ", ".join(f"`{flag}`" for flag in option.opts)
            lines.append(f"| {flags} | {option.help or ''}{_default(option)} |")
        lines.append("")
    return lines


def _default(option: Any) -> str:
    default = option.default
    if default in (None, False, (), []) or callable(default):
        return ""
    return f" Default: `{default}`."
