"""Reads objects of our kinds from YAML or JSON text, with the line of every field.

Scalars follow Kubernetes' YAML, not PyYAML's: ``2e-4`` is a number, ``2026-01-01`` is text, and a
repeated key is an error. In a cluster a decimal is text. Here it may lack quotes, and becomes text
as it is written.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from finetune_cli.errors import CliError

if TYPE_CHECKING:
    from finetune_api.messages.messages import Problem
    from finetune_api.v1alpha1.finetunejob import FineTuneJob

Location = tuple[str | int, ...]

FLOAT = re.compile(
    r"^[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?$|^[-+]?\.(inf|Inf|INF)$|^\.(nan|NaN|NAN)$"
)
INTEGER = re.compile(r"^[-+]?(0b[01]+|0o?[0-7]*|0x[0-9a-fA-F]+|[1-9][0-9]*)$")


class KubernetesLoader(yaml.SafeLoader):
    """Resolves plain scalars as the API server's YAML reader does."""


KubernetesLoader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if tag.rsplit(":", 1)[1] not in ("float", "int", "timestamp")
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
# The integer comes first: whole numbers match the pattern of floats as well.
KubernetesLoader.add_implicit_resolver("tag:yaml.org,2002:int", INTEGER, list("-+0123456789"))
KubernetesLoader.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


class WrittenFloat(float):
    """A number that knows how it is written: ``0.10`` and ``1e-4`` are kept to the letter."""

    text: str


def _construct_float(loader: KubernetesLoader, node: yaml.ScalarNode) -> WrittenFloat:
    value = WrittenFloat(loader.construct_yaml_float(node))
    value.text = node.value
    return value


KubernetesLoader.add_constructor("tag:yaml.org,2002:float", _construct_float)


class KubernetesDumper(yaml.SafeDumper):
    """Quotes text that either reader would take for a number: PyYAML leaves ``1e-2`` bare."""


KubernetesDumper.add_implicit_resolver("tag:yaml.org,2002:int", INTEGER, list("-+0123456789"))
KubernetesDumper.add_implicit_resolver("tag:yaml.org,2002:float", FLOAT, list("-+0123456789."))


def names_file(target: str) -> bool:
    """Return whether this is the file of a job, there or not, and not the name of one."""
    return Path(target).suffix in (".yaml", ".yml", ".json") or Path(target).is_file()


def to_yaml(value: Any, **options: Any) -> str:
    """Write YAML that kubectl understands as we do."""
    text: str = yaml.dump(value, Dumper=KubernetesDumper, sort_keys=False, **options)
    return text


@dataclass(frozen=True, kw_only=True)
class Document:
    """One YAML document.

    Attributes:
        source: Name of the file, ``-`` for standard input.
        lines: Line of every field and list item, 1-based.
        bare_decimals: Fields that hold a decimal without quotes, which a cluster refuses.
    """

    source: str
    body: Any
    lines: dict[Location, int]
    first_line: int
    bare_decimals: tuple[Location, ...] = ()

    def line_of(self, location: Location) -> int | None:
        """Return the line of a field, or of what holds it if the field is absent."""
        for length in range(len(location), 0, -1):
            if location[:length] in self.lines:
                return self.lines[location[:length]]
        return self.first_line

    @property
    def folder(self) -> Path:
        """Folder that relative paths in the document count from."""
        return Path.cwd() if self.source == "-" else Path(self.source).resolve().parent


def read_text(source: str) -> str:
    """Read a file, or standard input for ``-``.

    Raises:
        CliError: It cannot be read as text.
    """
    if source == "-":
        return sys.stdin.read()
    try:
        return Path(source).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        hint = "; `finetune init` writes a starter" if source.endswith((".yaml", ".yml")) else ""
        raise CliError(f"{source}: no such file{hint}") from error
    except IsADirectoryError as error:
        raise CliError(f"{source} is a folder; name the YAML file in it") from error
    except UnicodeDecodeError as error:
        raise CliError(
            f"{source} is not text in UTF-8 (byte {error.start}); is it YAML?"
        ) from error
    except OSError as error:
        raise CliError(f"cannot read {source}: {error.strerror or error}") from error


def read_documents(source: str) -> list[Document]:
    """Read all YAML documents of a file.

    Raises:
        CliError: Unreadable, not YAML, or empty.
    """
    documents = list(parse_documents(read_text(source), source))
    if not documents:
        raise CliError(f"{source} is empty: there is no FineTuneJob in it")
    return documents


def parse_documents(text: str, source: str) -> Iterator[Document]:
    """Parse YAML text; empty documents are skipped.

    Raises:
        CliError: With file, line and column of the YAML error.
    """
    try:
        loader = KubernetesLoader(text)
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise CliError(
            f"{source}:{line}: not valid YAML: the character #x{ord(text[error.position]):04x} is "
            "not allowed; is this a text file?"
        ) from error
    try:
        while loader.check_node():
            node = loader.get_node()
            assert node is not None  # check_node said so
            lines: dict[Location, int] = {}
            for location, line in _walk(node, (), source):
                lines.setdefault(location, line)
            body = loader.construct_document(node)
            if body is not None:
                bare: list[Location] = []
                yield Document(
                    source=source,
                    body=decimals_as_text(body, _schema_for(body), bare),
                    lines=lines,
                    first_line=node.start_mark.line + 1,
                    bare_decimals=tuple(bare),
                )
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f":{mark.line + 1}:{mark.column + 1}" if mark else ""
        words = ", ".join(part for part in (error.problem, error.context) if part)
        raise CliError(f"{source}{place}: not valid YAML: {words}") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise CliError(f"{source}: not valid YAML: {error}") from error
    finally:
        loader.dispose()


def _schema_for(body: object) -> Mapping[str, Any]:
    """Return the schema of a FineTuneJob; an empty one for what says that it is something else."""
    from finetune_api.messages.messages import schema_of_kind
    from finetune_api.meta import KIND

    is_job = isinstance(body, dict) and body.get("kind", KIND) == KIND
    return schema_of_kind(KIND) if is_job else {}


def decimals_as_text(
    value: Any, schema: Mapping[str, Any], bare: list[Location], place: Location = ()
) -> Any:
    """Return the value, with text in the fields that take decimals.

    Args:
        value: The parsed value.
        schema: Its schema.
        bare: Collects the places of numbers that are not whole, and that a cluster would refuse.
        place: Place of the value.
    """
    if isinstance(value, dict):
        fields = schema.get("properties", {})
        return {
            key: decimals_as_text(item, fields.get(key, {}), bare, (*place, key))
            for key, item in value.items()
        }
    if isinstance(value, list):
        of = schema.get("items", {})
        return [decimals_as_text(each, of, bare, (*place, n)) for n, each in enumerate(value)]
    is_decimal = "pattern" in schema and "x-kubernetes-int-or-string" in schema
    if is_decimal and isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, WrittenFloat):
        return value
    if not is_decimal or not math.isfinite(value):
        return float(value)
    if not value.is_integer():
        bare.append(place)
    return _decimal_text(value.text)


def _decimal_text(text: str) -> str:
    """Return a number of YAML as decimals are written here: ``.5`` is ``0.5``, ``3.0`` is ``3``."""
    number, _, exponent = text.lower().partition("e")
    whole, _, fraction = number.lstrip("+-").partition(".")
    sign = "-" if number.startswith("-") else ""
    after = f".{fraction}" if fraction.strip("0") else ""
    return f"{sign}{whole or '0'}{after}" + (f"e{int(exponent)}" if exponent else "")


def _walk(node: yaml.Node, location: Location, source: str) -> Iterable[tuple[Location, int]]:
    if isinstance(node, yaml.MappingNode):
        _refuse_decimal_comma(node, source)
        seen: dict[str, int] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), key_node.start_mark.line + 1
            if key in seen:
                raise CliError(
                    f"{source}:{line}: {'.'.join(map(str, (*location, key)))} is given twice "
                    f"(first in line {seen[key]}); remove one"
                )
            seen[key] = line
            yield (*location, key), line
            yield from _walk(value_node, (*location, key), source)
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield (*location, position), item.start_mark.line + 1
            yield from _walk(item, (*location, position), source)


def _refuse_decimal_comma(node: yaml.MappingNode, source: str) -> None:
    """Refuse ``{atLeast: 0,9}``, which YAML reads as ``{atLeast: 0, 9: null}``."""
    for (key, value), (after, nothing) in pairwise(node.value if node.flow_style else ()):
        is_number = re.fullmatch("[-+]?[0-9]+", str(value.value))
        if is_number and str(after.value).isdigit() and nothing.value == "":
            raise CliError(
                f"{source}:{key.start_mark.line + 1}: {key.value}: {value.value},{after.value} has "
                "a decimal comma, which parts two fields here; write "
                f'{key.value}: "{value.value}.{after.value}"'
            )


def read_single(source: str, kind: str = "FineTuneJob") -> Document:
    """Read a file that must hold exactly one object, a FineTuneJob by default.

    Raises:
        CliError: There are several; names them. Or it is of another of our kinds.
    """
    from finetune_api.meta import APPROVAL_KIND, ENDPOINT_KIND, KIND, SCHEDULE_KIND, SWEEP_KIND

    documents = read_documents(source)
    if len(documents) > 1:
        names = [_name_of(document) for document in documents]
        raise CliError(
            f"{source} holds {len(documents)} objects ({', '.join(names)}); a run takes one: put "
            "each into a file of its own"
        )
    found = kind_of(documents[0].body)
    if found != kind and found in (KIND, SWEEP_KIND, APPROVAL_KIND, ENDPOINT_KIND, SCHEDULE_KIND):
        raise CliError(
            f"{source} is a {found}, not a {kind}: kubectl apply -f {source} sends it to a cluster;"
            f" finetune validate {source} checks it"
        )
    return documents[0]


def kind_of(body: object) -> str | None:
    """Return the kind that a document says it has; None if it says none in words."""
    kind = body.get("kind") if isinstance(body, dict) else None
    return kind if isinstance(kind, str) else None


def _name_of(document: Document) -> str:
    body = document.body if isinstance(document.body, dict) else {}
    metadata = body.get("metadata")
    name = metadata.get("name") if isinstance(metadata, dict) else None
    return f"line {document.first_line}: {name or 'unnamed'}"


def find_problems(document: Document) -> list[str]:
    """Return one line per problem, ``file:line: field: what``; empty when the job is good."""
    from finetune_api.messages.messages import InvalidJobError, parse_job

    try:
        job = parse_job(document.body, line_of=document.line_of)
        problems = [
            *_find_template_problems(job, document),
            *_find_answer_check_problems(job, document),
        ]
    except InvalidJobError as error:
        problems = list(error.problems)
    return [
        f"{document.source}:{problem.line or document.first_line}: {problem}"
        for problem in problems
    ]


def _find_template_problems(job: FineTuneJob, document: Document) -> list[Problem]:
    """Read the templates as the operator will; where Jinja is not installed, leave that to it."""
    from finetune_api.messages.messages import Problem
    from finetune_api.messages.prompt_template import find_template_errors

    try:
        found = find_template_errors(job.spec)
    except ImportError:
        return []
    problems = []
    for place, text in found:
        location = ("spec", *place)
        message = f"not valid Jinja: {text}"
        line = document.line_of(location)
        problems.append(Problem(location=location, message=message, line=line))
    return problems


def _find_answer_check_problems(job: FineTuneJob, document: Document) -> list[Problem]:
    from finetune_api.messages.answer_checks import find_answer_check_errors
    from finetune_api.messages.messages import Problem

    places = [(("spec", *place), text) for place, text in find_answer_check_errors(job.spec)]
    return [
        Problem(location=place, message=f"Invalid value: {text}", line=document.line_of(place))
        for place, text in places
    ]


def parse_document(document: Document) -> FineTuneJob:
    """Return the validated job.

    Raises:
        CliError: With every problem, one a line.
    """
    from finetune_api.messages.messages import parse_job

    problems = find_problems(document)
    if problems:
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise CliError(
            f"{document.source} is not a valid FineTuneJob: {count}\n" + "\n".join(problems)
        )
    return parse_job(document.body)
