"""The CustomResourceDefinitions, built from the pydantic models, which are their single source.

``tools/generate.py`` reads and writes the files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from finetune_api.columns import (
    APPROVAL_COLUMNS,
    ENDPOINT_COLUMNS,
    JOB_COLUMNS,
    SCHEDULE_COLUMNS,
    SWEEP_COLUMNS,
)
from finetune_api.meta import (
    API_VERSION,
    APPROVAL_KIND,
    APPROVAL_PLURAL,
    ENDPOINT_KIND,
    ENDPOINT_PLURAL,
    GROUP,
    KIND,
    PLURAL,
    SCHEDULE_KIND,
    SCHEDULE_PLURAL,
    SWEEP_KIND,
    SWEEP_PLURAL,
    VERSION,
)
from finetune_api.schema.lowering import lowered
from finetune_api.schema.structural import (
    Schema,
    add_rules,
    auto_or_integer_message,
    finish_status,
    ordered,
    schema_of,
)
from finetune_api.v1alpha1.approval import APPROVAL_RULES, IMMUTABLE_MESSAGE, FineTuneApproval
from finetune_api.v1alpha1.finetuneendpoint import (
    ENDPOINT_FIXED_FIELDS,
    ENDPOINT_RULES,
    FineTuneEndpoint,
    fixed_in_endpoint_message,
)
from finetune_api.v1alpha1.finetunejob import IMMUTABLE_FIELDS, FineTuneJob
from finetune_api.v1alpha1.finetuneschedule import (
    MAX_SCHEDULE_NAME_LENGTH,
    SCHEDULE_FIXED_FIELDS,
    SCHEDULE_RULES,
    FineTuneSchedule,
    fixed_in_schedule_message,
)
from finetune_api.v1alpha1.finetunesweep import (
    MAX_SWEEP_NAME_LENGTH,
    SWEEP_FIXED_FIELDS,
    SWEEP_RULES,
    FineTuneSweep,
    fixed_in_sweep_message,
)
from finetune_api.v1alpha1.rules.queue import edit_rules
from finetune_api.v1alpha1.rules.selection import selection_edit_rules
from finetune_api.v1alpha1.rules.spec import SPEC_RULES
from finetune_api.v1alpha1.spec.podtemplate import POD_TEMPLATE_RULES
from finetune_api.v1alpha1.spec.sweep_parameters import PARAMETER_RULES

__all__ = [
    "CUSTOM_KINDS",
    "JOBS",
    "APPROVALS",
    "ENDPOINTS",
    "SCHEDULES",
    "SWEEPS",
    "CustomKind",
    "auto_or_integer_message",
    "build_crd",
    "build_schema",
    "immutable_message",
]

MAX_NAME_LENGTH = 52
"""Longest name of a FineTuneJob: names of its Jobs, pods and Services must fit 63 characters."""

NAME_MESSAGE = (
    f"metadata.name must be at most {MAX_NAME_LENGTH} lower-case letters, digits or dashes, "
    "and start and end with a letter or digit: names of Jobs and Services are derived from it"
)
NAME_RULE = (
    f"self.metadata.name.size() <= {MAX_NAME_LENGTH} && "
    "self.metadata.name.matches('^[a-z0-9]([-a-z0-9]*[a-z0-9])?$')"
)

SWEEP_NAME_MESSAGE = (
    f"metadata.name must be at most {MAX_SWEEP_NAME_LENGTH} lower-case letters, digits or dashes, "
    "and start and end with a letter or digit: names of FineTuneJobs are derived from it"
)
SWEEP_NAME_RULE = NAME_RULE.replace(str(MAX_NAME_LENGTH), str(MAX_SWEEP_NAME_LENGTH))
SCHEDULE_NAME_MESSAGE = SWEEP_NAME_MESSAGE.replace(
    str(MAX_SWEEP_NAME_LENGTH), str(MAX_SCHEDULE_NAME_LENGTH)
)
SCHEDULE_NAME_RULE = NAME_RULE.replace(str(MAX_NAME_LENGTH), str(MAX_SCHEDULE_NAME_LENGTH))
ENDPOINT_NAME_MESSAGE = (
    f"metadata.name must be at most {MAX_NAME_LENGTH} lower-case letters, digits or dashes, "
    "and start and end with a letter or digit: it is the name of the model in requests"
)


def immutable_message(field: str) -> str:
    """Return what the API server says when ``spec.<field>`` is changed."""
    return (
        f"{field} is fixed once the job exists: delete the job and create a new one, "
        "or use another name"
    )


def build_schema() -> Schema:
    """Build the structural schema of one FineTuneJob, rules included."""
    schema = schema_of(FineTuneJob)
    _set_head(schema, KIND)
    properties = schema["properties"]
    schema["x-kubernetes-validations"] = [
        {"rule": NAME_RULE, "message": NAME_MESSAGE},
        *edit_rules(),
        *selection_edit_rules(),
    ]
    _add_job_rules(properties["spec"])
    _fix_fields(properties["spec"], IMMUTABLE_FIELDS, immutable_message)
    finish_status(properties["status"])
    return ordered(schema)


def build_approval_schema() -> Schema:
    """Build the structural schema of one FineTuneApproval, rules included."""
    schema = schema_of(FineTuneApproval)
    _set_head(schema, APPROVAL_KIND)
    spec = schema["properties"]["spec"]
    fixed = {"message": IMMUTABLE_MESSAGE, "reason": "FieldValueForbidden"}
    spec["x-kubernetes-validations"] = [{"rule": "self == oldSelf", **fixed}]
    add_rules(spec, APPROVAL_RULES, prefix="")
    return ordered(schema)


def build_sweep_schema() -> Schema:
    """Build the structural schema of one FineTuneSweep, with the rules of a FineTuneJob."""
    schema = schema_of(FineTuneSweep)
    _set_head(schema, SWEEP_KIND)
    schema["x-kubernetes-validations"] = [{"rule": SWEEP_NAME_RULE, "message": SWEEP_NAME_MESSAGE}]
    spec = schema["properties"]["spec"]
    add_rules(spec, SWEEP_RULES, prefix="")
    _finish_template(spec["properties"]["template"])
    add_rules(spec["properties"]["parameters"]["items"], PARAMETER_RULES, prefix="")
    _fix_fields(spec, SWEEP_FIXED_FIELDS, fixed_in_sweep_message)
    finish_status(schema["properties"]["status"])
    return ordered(schema)


def build_schedule_schema() -> Schema:
    """Build the structural schema of one FineTuneSchedule, with the rules of a FineTuneJob."""
    schema = schema_of(FineTuneSchedule)
    _set_head(schema, SCHEDULE_KIND)
    schema["x-kubernetes-validations"] = [
        {"rule": SCHEDULE_NAME_RULE, "message": SCHEDULE_NAME_MESSAGE}
    ]
    spec = schema["properties"]["spec"]
    add_rules(spec, SCHEDULE_RULES, prefix="")
    _finish_template(spec["properties"]["jobTemplate"]["properties"]["spec"])
    _fix_fields(spec, SCHEDULE_FIXED_FIELDS, fixed_in_schedule_message)
    finish_status(schema["properties"]["status"])
    return ordered(schema)


def build_endpoint_schema() -> Schema:
    """Build the structural schema of one FineTuneEndpoint, rules included."""
    schema = schema_of(FineTuneEndpoint)
    _set_head(schema, ENDPOINT_KIND)
    schema["x-kubernetes-validations"] = [{"rule": NAME_RULE, "message": ENDPOINT_NAME_MESSAGE}]
    spec = schema["properties"]["spec"]
    add_rules(spec, ENDPOINT_RULES, prefix="")
    _fix_fields(spec, ENDPOINT_FIXED_FIELDS, fixed_in_endpoint_message)
    finish_status(schema["properties"]["status"])
    return ordered(schema)


def _add_job_rules(spec: Schema) -> None:
    add_rules(spec, SPEC_RULES, prefix="")
    add_rules(spec["properties"]["podTemplate"], POD_TEMPLATE_RULES, "podTemplate.")


def _finish_template(spec: Schema) -> None:
    """Add the rules of a FineTuneJob to a spec within another kind, and leave its words out.

    ``kubectl apply`` keeps the whole object in an annotation of at most 256 KiB. So the fields of
    a job are described once, in the kind FineTuneJob.
    """
    _add_job_rules(spec)
    own = f"{spec['description']} `kubectl explain finetunejob.spec` describes its fields."
    _drop_descriptions(spec)
    spec["description"] = own


def _drop_descriptions(schema: Schema) -> None:
    schema.pop("description", None)
    below = (schema.get("items"), schema.get("additionalProperties"))
    for child in (*schema.get("properties", {}).values(), *below):
        if child:
            _drop_descriptions(child)


def _set_head(schema: Schema, kind: str) -> None:
    """Describe what every object begins with, and leave metadata to the API server."""
    properties = schema["properties"]
    properties["apiVersion"] = {
        "type": "string",
        "description": f"Version of the API this object is written in: {API_VERSION}.",
    }
    properties["kind"] = {"type": "string", "description": f"Kind of the object: {kind}."}
    properties["metadata"] = {"type": "object"}
    schema["required"] = ["metadata", "spec"]


def _fix_fields(spec: Schema, fields: Iterable[str], message_of: Callable[[str], str]) -> None:
    """Add the immutability rules.

    A rule on a field runs only if the field exists before and after. So fields without a default
    need a second rule on the parent, against addition and removal.
    """
    for field in fields:
        schema = spec["properties"][field]
        fixed = {"message": message_of(field), "reason": "FieldValueForbidden"}
        schema.setdefault("x-kubernetes-validations", []).insert(
            0, {"rule": "self == oldSelf", **fixed}
        )
        if field not in spec["required"] and "default" not in schema:
            spec["x-kubernetes-validations"].append(
                {"rule": f"has(self.{field}) == has(oldSelf.{field})", **fixed}
                | {"fieldPath": f".{field}"}
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class CustomKind:
    """One kind of this API group.

    Attributes:
        plural: Name in paths, RBAC rules and of its file.
        short_names: Other names for ``kubectl get``.
        source: Module of its model, below ``finetune_api/v1alpha1``.
        columns: Columns of ``kubectl get``.
        build_schema: Builds its structural schema with rules.
        has_status: Whether a controller writes its status.
        selectable: Paths for ``--field-selector``.
    """

    kind: str
    plural: str
    short_names: tuple[str, ...]
    source: str
    columns: tuple[Schema, ...]
    build_schema: Callable[[], Schema]
    has_status: bool
    selectable: tuple[str, ...]


JOBS = CustomKind(
    kind=KIND,
    plural=PLURAL,
    short_names=("ftj",),
    source="finetunejob.py",
    columns=JOB_COLUMNS,
    build_schema=build_schema,
    has_status=True,
    selectable=(".spec.queueName", ".status.phase"),
)
APPROVALS = CustomKind(
    kind=APPROVAL_KIND,
    plural=APPROVAL_PLURAL,
    short_names=("fta",),
    source="approval.py",
    columns=APPROVAL_COLUMNS,
    build_schema=build_approval_schema,
    has_status=False,
    selectable=(".spec.job", ".spec.decision"),
)
SWEEPS = CustomKind(
    kind=SWEEP_KIND,
    plural=SWEEP_PLURAL,
    short_names=("fts",),
    source="finetunesweep.py",
    columns=SWEEP_COLUMNS,
    build_schema=build_sweep_schema,
    has_status=True,
    selectable=(".status.phase",),
)
ENDPOINTS = CustomKind(
    kind=ENDPOINT_KIND,
    plural=ENDPOINT_PLURAL,
    short_names=("fte",),
    source="finetuneendpoint.py",
    columns=ENDPOINT_COLUMNS,
    build_schema=build_endpoint_schema,
    has_status=True,
    selectable=(".status.phase",),
)
SCHEDULES = CustomKind(
    kind=SCHEDULE_KIND,
    plural=SCHEDULE_PLURAL,
    short_names=("ftsch",),
    source="finetuneschedule.py",
    columns=SCHEDULE_COLUMNS,
    build_schema=build_schedule_schema,
    has_status=True,
    selectable=(".spec.endpointRef.name",),
)
CUSTOM_KINDS = (JOBS, APPROVALS, SWEEPS, ENDPOINTS, SCHEDULES)


def build_crd(custom: CustomKind = JOBS) -> Schema:
    """Build the CustomResourceDefinition of a kind as a JSON-ready dict."""
    version: Schema = {"name": VERSION, "served": True, "storage": True}
    if custom.has_status:
        version["subresources"] = {"status": {}}
    version |= {
        "selectableFields": [{"jsonPath": path} for path in custom.selectable],
        "additionalPrinterColumns": [dict(column) for column in custom.columns],
        "schema": {"openAPIV3Schema": ordered(lowered(custom.build_schema()))},
    }
    return {
        "apiVersion": "apiextensions.k8s.io/v1",
        "kind": "CustomResourceDefinition",
        "metadata": {"name": f"{custom.plural}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "names": {
                "kind": custom.kind,
                "listKind": f"{custom.kind}List",
                "plural": custom.plural,
                "singular": custom.plural[:-1],
                "shortNames": list(custom.short_names),
                "categories": ["ml"],
            },
            "scope": "Namespaced",
            "versions": [version],
        },
    }
