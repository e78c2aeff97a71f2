"""Finds what is wrong with a prompt template without running it.

Jinja is imported by the function that needs it: the contract itself loads without it. Templates are
tenants' input, and the operator reads them: they are parsed and never compiled, for compiling
already computes constants such as ``9**9**9``.
"""

from __future__ import annotations

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec


def find_template_error(text: str) -> str | None:
    """Return what is wrong with a template, with its line; None when it can be rendered.

    Raises:
        ImportError: Jinja is not installed.
    """
    from jinja2 import TemplateSyntaxError, nodes
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    environment = ImmutableSandboxedEnvironment()
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


def find_template_errors(spec: FineTuneJobSpec) -> list[tuple[int, str]]:
    """Return position of the source and what is wrong, for every template of a job that is.

    Raises:
        ImportError: Jinja is not installed.
    """
    found = []
    for position, source in enumerate(spec.dataset.sources):
        problem = find_template_error(source.template) if source.template is not None else None
        if problem:
            found.append((position, problem))
    return found
