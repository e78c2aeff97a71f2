"""Checks a job's Jinja templates without running them.

Jinja is imported only by the function that needs it. Templates are tenants' input: they are parsed
and never compiled, because compiling computes constants such as ``9**9**9``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from finetune_api.messages.messages import Location
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec

if TYPE_CHECKING:
    from jinja2 import Environment


def find_template_error(text: str) -> str | None:
    """Return the error of a prompt's template, with its line; None if it is valid.

    Raises:
        ImportError: Jinja is not installed.
    """
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    return _find_error(ImmutableSandboxedEnvironment(), text)


def find_chat_template_error(text: str) -> str | None:
    """Return the error of a model's chat template, with its line; None if it is valid.

    Raises:
        ImportError: Jinja is not installed.
    """
    return _find_error(make_chat_template_parser(), text)


def make_chat_template_parser() -> Environment:
    """Return a parser of chat templates; it renders nothing.

    It knows transformers' additions to Jinja: ``{% break %}``, ``{% continue %}``, and ``{%
    generation %}``, which has no effect (``transformers.utils.chat_template_utils``).

    Raises:
        ImportError: Jinja is not installed.
    """
    from jinja2 import Environment, nodes
    from jinja2.ext import Extension, loopcontrols
    from jinja2.parser import Parser

    class Generation(Extension):
        tags = {"generation"}

        def parse(self, parser: Parser) -> list[nodes.Node]:
            next(parser.stream)
            return list(parser.parse_statements(("name:endgeneration",), drop_needle=True))

    return Environment(  # noqa: S701 - it parses and renders nothing
        extensions=[Generation, loopcontrols], trim_blocks=True, lstrip_blocks=True
    )


def _find_error(environment: Environment, text: str) -> str | None:
    from jinja2 import TemplateSyntaxError, nodes

    loading = (nodes.Extends, nodes.Include, nodes.Import, nodes.FromImport)
    try:
        tree = environment.parse(text)
        for node in tree.find_all(loading):
            return f"line {node.lineno}: there are no other templates to load"
        for used in tree.find_all(nodes.Filter):
            if used.name not in environment.filters:
                return f"line {used.lineno}: there is no filter {used.name!r}"
        for asked in tree.find_all(nodes.Test):
            if asked.name not in environment.tests:
                return f"line {asked.lineno}: there is no test {asked.name!r}"
    except TemplateSyntaxError as error:
        return f"line {error.lineno}: {error.message}"
    except RecursionError:
        return "it is nested too deeply"
    return None


def find_template_errors(spec: FineTuneJobSpec) -> list[tuple[Location, str]]:
    """Return place in the spec and error of every bad template of a job.

    A chat template in a file is read in ``prepare``.

    Raises:
        ImportError: Jinja is not installed.
    """
    found: list[tuple[Location, str]] = []
    template = spec.model.chat_template
    if template is not None and template.text is not None:
        problem = find_chat_template_error(template.text)
        if problem:
            found.append((("model", "chatTemplate", "text"), problem))
    read: list[tuple[Location, str | None]] = [
        (("dataset", "sources", position, "template"), source.template)
        for position, source in enumerate(spec.dataset.sources)
    ]
    read += [
        (("dataset", "contamination", "against", position, "template"), benchmark.template)
        for position, benchmark in enumerate(spec.dataset.benchmarks)
    ]
    for place, text in read:
        problem = find_template_error(text) if text is not None else None
        if problem:
            found.append((place, problem))
    return found
