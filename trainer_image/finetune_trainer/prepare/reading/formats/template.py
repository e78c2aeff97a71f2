"""Renders prompts from a row's columns with a sandboxed Jinja template."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from jinja2 import StrictUndefined, Template, TemplateError, Undefined, UndefinedError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from finetune_api.messages.prompt_template import find_template_error
from finetune_trainer.data.rows import BadRow
from finetune_trainer.errors import UserError
from finetune_trainer.prepare.reading.columns.values import is_missing, write_json, write_value


def _write(value: Any) -> Any:
    """Write values as in an answer, and an empty text for a missing one."""
    if isinstance(value, Undefined):
        return value  # complains by itself
    return "" if is_missing(value) else write_value(value, "a value")


# No autoescape: the result is a prompt, not HTML.
_ENVIRONMENT = ImmutableSandboxedEnvironment(
    undefined=StrictUndefined, keep_trailing_newline=True, autoescape=False, finalize=_write
)
# Jinja's own escapes what HTML does not take.
_ENVIRONMENT.filters["tojson"] = lambda value, indent=None: write_json(
    value, "a value", indent=indent
)


class PromptTemplate:
    """A compiled template; ``{{ column }}`` is a column, ``{{ row["Any name"] }}`` always works."""

    def __init__(self, text: str, *, where: str) -> None:
        """Compile the template; ``where`` is its path in the job.

        Raises:
            UserError: The template is not valid Jinja.
        """
        self._where = where
        problem = find_template_error(text)
        if problem:
            raise UserError("InvalidTemplate", f"{where}: not valid Jinja: {problem}")
        self._template: Template = _ENVIRONMENT.from_string(text)

    def render(self, fields: Mapping[str, Any]) -> str:
        """Render one row. Raise ``BadRow`` if a column is missing or empty for the template."""
        try:
            return self._template.render({"row": fields, **fields})
        except UndefinedError as error:
            raise BadRow(
                "MissingColumn",
                f"{self._where}: {error.message}; the row has: {', '.join(map(str, fields))}",
            ) from error
        except (TemplateError, TypeError, ValueError, ArithmeticError, OverflowError) as error:
            # A ValueError quotes the value, which is the row's text.
            words = "" if isinstance(error, ValueError) else f": {error}"
            raise BadRow(
                "TemplateFailed", f"{self._where}: {type(error).__name__}{words}"
            ) from error
