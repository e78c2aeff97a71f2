"""``python -m finetune_operator``: read the settings, run one replica."""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import sys
from pathlib import Path
from typing import Any

from pydantic.alias_generators import to_camel, to_snake

from finetune_operator.config import ConfigError, OperatorConfig, parse_setting
from finetune_operator.logs import configure_logging

EXIT_CONFIG = 64
EXIT_FAILED = 1
COLLECT_EVERY = 5000
"""Objects made and not freed before the garbage collector looks for circles among them."""


def parse_arguments(arguments: list[str]) -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m finetune_operator",
        description="Runs FineTuneJobs: prepares data, trains, evaluates and publishes adapters.",
        epilog="Every setting can also be given as environment variable"
        " FINETUNE_OPERATOR_<NAME>; flags win over variables, variables over the file.",
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings, YAML or JSON")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: as kubectl finds it")
    parser.add_argument("--context", metavar="NAME", help="context of the kubeconfig")
    parser.add_argument("--trainer-image", metavar="IMAGE", help="image of the stages")
    parser.add_argument(
        "--namespace",
        "-n",
        dest="namespaces",
        action="append",
        metavar="NAME",
        help="serve only this namespace; may be repeated (default: the whole cluster)",
    )
    parser.add_argument("--log-level", choices=["debug", "info", "warning", "error"])
    parser.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting, value in YAML, for example --set allowCpu=true",
    )
    return parser.parse_args(arguments)


def overrides_of(options: argparse.Namespace) -> dict[str, Any]:
    """Return the settings given as flags, by Python name.

    Raises:
        ConfigError: A ``--set`` is not of the form NAME=VALUE, or its value is not YAML.
    """
    found: dict[str, Any] = {
        name: getattr(options, name) for name in ("trainer_image", "namespaces", "log_level")
    }
    for item in options.set:
        name, equals, value = item.partition("=")
        field = to_snake(name)
        if not equals or field not in OperatorConfig.model_fields:
            known = ", ".join(to_camel(field) for field in OperatorConfig.model_fields)
            raise ConfigError(f"--set {item!r}: write NAME=VALUE with one of: {known}")
        found[field] = parse_setting(field, value, origin=f"--set {name}")
    return found


def spare_the_collector() -> None:
    """Let the garbage collector look more rarely, and never at what the imports have made.

    Almost everything here goes by reference counts; looking for circles every 700 objects took a
    tenth of the time of a reconcile.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(COLLECT_EVERY)


def main(arguments: list[str] | None = None) -> int:
    """Run the operator; return its exit code."""
    options = parse_arguments(sys.argv[1:] if arguments is None else arguments)
    try:
        config = OperatorConfig.load(options.config, overrides=overrides_of(options))
    except ConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    configure_logging(config.log_level)
    # Imported late: a wrong setting is told at once, and --help needs no kopf.
    from finetune_operator.app import serve
    from finetune_operator.kube.api.connection import ConnectionConfigError, load_connection

    spare_the_collector()
    try:
        connection = load_connection(options.kubeconfig, context=options.context)
        asyncio.run(serve(config, connection=connection))
    except ConnectionConfigError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_CONFIG
    except Exception:
        logging.getLogger("finetune_operator").exception("the operator cannot go on")
        return EXIT_FAILED
    return 0


if __name__ == "__main__":
    sys.exit(main())
