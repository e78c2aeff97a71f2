"""Reads and rewrites the text of a chat template. Pure.

What a job decides of a template (its arguments, its date) is written into the text, as a preamble.
A server that renders the text without arguments then writes what training wrote; one that passes
an argument still decides.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from jinja2 import meta, nodes

from finetune_api.messages.prompt_template import make_chat_template_parser

DATE = datetime(2025, 1, 1, tzinfo=UTC)
"""Stands wherever a template asks for today's date. One day for all jobs: a data set is named by
what went into it, and the day it was prepared on must not be part of that."""


_PARSER = make_chat_template_parser()


def find_variables(source: str) -> frozenset[str]:
    """Return the names that a template reads and does not set first.

    Raises:
        jinja2.TemplateSyntaxError: It is not valid Jinja.
    """
    return frozenset(meta.find_undeclared_variables(_PARSER.parse(source)))


def find_columns(source: str) -> frozenset[str]:
    """Return the columns that a prompt's template reads by name: ``{{ a }}``, ``{{ row["a"] }}``.

    Raises:
        jinja2.TemplateSyntaxError: It is not valid Jinja.
    """
    tree = _PARSER.parse(source)
    names = meta.find_undeclared_variables(tree)
    for node in tree.find_all(nodes.Getattr):
        if isinstance(node.node, nodes.Name) and node.node.name == "row":
            names.add(node.attr)
    for item in tree.find_all(nodes.Getitem):
        if isinstance(item.node, nodes.Name) and item.node.name == "row":
            names.add(item.arg.value if isinstance(item.arg, nodes.Const) else "")
    return frozenset(names - {"row", ""})


def bake_template(source: str, arguments: Mapping[str, Any]) -> tuple[str, str | None]:
    """Write arguments and date into a template.

    Args:
        source: The template.
        arguments: Values of its variables: strings, booleans, integers.

    Returns:
        The template, and the date that stands in it (``YYYY-MM-DD``) or None if it asks for none.

    Raises:
        jinja2.TemplateSyntaxError: It is not valid Jinja.
    """
    preamble = [
        f"{{%- if {name} is not defined %}}{{%- set {name} = {json.dumps(value)} %}}{{%- endif %}}"
        for name, value in sorted(arguments.items())
    ]
    formats = _date_formats(source)
    if formats:
        cases = "".join(
            f"{{%- if format == {json.dumps(form)} -%}}{DATE.strftime(form)}{{%- endif -%}}"
            for form in formats
        )
        preamble.append(f"{{%- macro strftime_now(format) -%}}{cases}{{%- endmacro %}}")
    if not preamble:
        return source, None
    # The line break belongs to the last tag: environments of chat templates trim it.
    return "".join(preamble) + "\n" + source, f"{DATE:%Y-%m-%d}" if formats else None


def _date_formats(source: str) -> list[str]:
    formats = {
        argument.value
        for call in _PARSER.parse(source).find_all(nodes.Call)
        if isinstance(call.node, nodes.Name) and call.node.name == "strftime_now"
        for argument in call.args
        if isinstance(argument, nodes.Const)
    }
    return sorted(formats)
