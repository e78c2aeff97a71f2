"""Rules for text fields, each with a message in words.

The API server reports a broken ``pattern`` by its regular expression, which few people can read. So
a rule is CEL with its own message, and the models check the same pattern. Patterns match the whole
text and keep to the common part of RE2 (the API server) and Python: no look-around, no backslashes.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import core_schema

STORED = {"stored": True}
"""Context of a validation: the API server has the object, maybe since before some of the rules."""


def is_stored(context: Mapping[str, Any] | None) -> bool:
    """Return whether the context of a validation is ``STORED``."""
    return bool((context or {}).get("stored"))


@dataclass(frozen=True, kw_only=True, slots=True)
class TextRule:
    """One rule for a text.

    Attributes:
        patterns: By prefix of the text (empty: all), regular expressions for the whole text.
        message: What to write instead, in words; follows the value and a colon.
    """

    patterns: Mapping[str, str]
    message: str

    def accepts(self, text: str) -> bool:
        """Whether the text fulfils the rule."""
        return all(
            re.fullmatch(pattern, text)
            for prefix, pattern in self.patterns.items()
            if text.startswith(prefix)
        )

    @property
    def cel(self) -> str:
        """The rule as CEL over ``self``, true when the text is good."""
        parts = []
        for prefix, pattern in self.patterns.items():
            matches = f"self.matches('^({pattern})$')"
            parts.append(f"(!self.startsWith('{prefix}') || {matches})" if prefix else matches)
        return " && ".join(parts)


_MATCHES = re.compile(r"(?:!self\.startsWith\('([^']*)'\) \|\| )?self\.matches\('([^']*)'\)")


def broken_message(schema: Mapping[str, Any], text: str) -> str | None:
    """Return the message of the first text rule in a field's schema that a text breaks, if any."""
    for validation in schema.get("x-kubernetes-validations", ()):
        for prefix, pattern in _MATCHES.findall(validation["rule"]):
            if text.startswith(prefix) and not re.fullmatch(pattern, text):
                message: str = validation["message"]
                return message
    return None


class Texts:
    """Marks a text field with rules: ``Annotated[str, Texts(rule)]``."""

    def __init__(self, *rules: TextRule, only_new: bool = False) -> None:
        """Take the rules.

        Args:
            rules: All must be fulfilled.
            only_new: Whether stored objects may break them; admission judges those.
        """
        self.rules = rules
        self.only_new = only_new

    def check(self, text: str, info: core_schema.ValidationInfo[Any]) -> str:
        """Return the text as it is.

        Raises:
            ValueError: With the message of the first broken rule.
        """
        if self.only_new and is_stored(info.context):
            return text
        for rule in self.rules:
            if not rule.accepts(text):
                raise ValueError(rule.message)
        return text

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        return core_schema.with_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        validations = [{"rule": rule.cel, "message": rule.message} for rule in self.rules]
        return {**handler(schema), "x-kubernetes-validations": validations}


_PRINTED = (
    "[ -~\u00a1-\u00ac\u00ae-\u05ff\u0620-\u06dc\u06de-\u070e\u0710-\u088f\u08a0-\u08e1"
    "\u08e3-\u180d\u180f-\u1fff\u2010-\u2027\u2030-\u205e\u2070-\ud7ff\uf900-\ufdff\uff01-\uffef]*"
)
"""Characters that are printed where they stand. Those above U+FFFF have no escape that the API
server reads in every form of a patch."""

PRINTED_RULE = TextRule(
    patterns={"": _PRINTED},
    message=(
        "must have no control or invisible characters, none that turn text, such as U+202E, and "
        "none above U+FFFF"
    ),
)
"""A text that people read and decide on."""

PROSE_RULE = TextRule(
    patterns={"": "[^\u061c\u200b\u200e\u200f\u202a-\u202e\u2060-\u2069\ufeff]*"},
    message=PRINTED_RULE.message,
)
"""Sentences that people read: lines end, and emojis are joined."""

_REPOSITORY = "[A-Za-z0-9][A-Za-z0-9_.-]*/[A-Za-z0-9_.-]+(@[A-Za-z0-9][A-Za-z0-9_./%+-]*)?(/.*)?"
# Without separate kinds, `datasets` would pass as the owner.
_HUB_KINDS = ("hf://", "hf://datasets/", "hf://models/")

RESERVED_NAMES = "finetune-serving"
"""How the names of Secrets and ServiceAccounts begin that the operator makes."""
RESERVED_NAME_RULE = TextRule(
    patterns={RESERVED_NAMES: ""},
    message=(
        f"must not begin with {RESERVED_NAMES}: the operator gives such names to what it makes for "
        "serving pods alone; name an object of your own"
    ),
)

URI_RULES = (
    TextRule(
        patterns={"": "(hf|s3|pvc|file)://.*"},
        message=(
            "must be a URI: hf://owner/name, s3://bucket/prefix, pvc://claim/path or file:///folder"
        ),
    ),
    PRINTED_RULE,
    TextRule(
        patterns={kind: kind + _REPOSITORY for kind in _HUB_KINDS},
        message=(
            "must name owner and repository, in letters, digits, dots and dashes: "
            "hf://owner/name, hf://owner/name@revision or hf://datasets/owner/name/path; a "
            "repository of one name has an owner by now, such as openai-community/gpt2"
        ),
    ),
    TextRule(
        patterns={"s3://": "s3://[A-Za-z0-9][A-Za-z0-9_.-]*(/.*)?"},
        message="must name a bucket: s3://bucket or s3://bucket/prefix",
    ),
    TextRule(
        patterns={"pvc://": "pvc://[a-z0-9]([-a-z0-9.]*[a-z0-9])?(/.*)?"},
        message=(
            "must name a volume claim, in lower-case letters, digits and dashes: pvc://claim or "
            "pvc://claim/path"
        ),
    ),
    TextRule(
        patterns={"file://": "file://(localhost)?/.*|file://[.][.]?(/.*)?"},
        message=(
            "must name an absolute path with three slashes, file:///folder, or one that counts "
            "from the job file, file://./folder"
        ),
    ),
)
"""Where something lies."""

SOURCE_RULES = (
    TextRule(
        patterns={"": "(hf|s3|pvc|file|traffic)://.*"},
        message=(
            "must be a URI: hf://owner/name, s3://bucket/prefix, pvc://claim/path, file:///folder, "
            "or traffic://endpoint"
        ),
    ),
    *URI_RULES[1:],
    TextRule(
        patterns={"traffic://": "traffic://[a-z0-9]([-a-z0-9]{0,50}[a-z0-9])?"},
        message=(
            "must name a FineTuneEndpoint of the same namespace and nothing else, such as "
            "traffic://headlines; since, until and feedback say which of its answers are taken"
        ),
    ),
)
"""Where examples lie: as ``URI_RULES``, or what an endpoint has captured."""

TIME_RULE = TextRule(
    patterns={
        "": (
            "20[0-9]{2}-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])"
            "|(0[469]|11)-(0[1-9]|[12][0-9]|30)|02-(0[1-9]|[12][0-9]))"
            "T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]Z"
        ),
    },
    message="must be a time in UTC in full seconds, such as 2026-01-01T00:00:00Z",
)
"""A moment. Texts of this form are in the order of time."""

SHA256_RULE = TextRule(
    patterns={"": "[0-9a-f]{64}"},
    message=(
        "must be a whole digest, 64 hex digits in lower case, as status.dataset of the job that "
        "prepared the rows has it"
    ),
)
"""A digest of a data set or a file."""

DURATION_RULE = TextRule(
    patterns={"": "[1-9][0-9]{0,4}[mhd]"},
    message="must be a whole number from 1 to 99999 and a unit: m, h or d, such as 24h or 30d",
)
"""A span of time."""


def _cron_field(value: str) -> str:
    item = f"([*]|({value})(-({value}))?)(/[1-9][0-9]?)?"
    return f"{item}(,{item})*"


_MONTHS = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_WEEKDAYS = "sun|mon|tue|wed|thu|fri|sat"
CRON_RULE = TextRule(
    patterns={
        "": " ".join(
            map(
                _cron_field,
                (
                    "[0-5]?[0-9]",
                    "[01]?[0-9]|2[0-3]",
                    "0?[1-9]|[12][0-9]|3[01]",
                    f"0?[1-9]|1[0-2]|{_MONTHS}|{_MONTHS.upper()}",
                    f"[0-7]|{_WEEKDAYS}|{_WEEKDAYS.upper()}",
                ),
            )
        )
    },
    message=(
        "must be five fields with one blank between them: minute, hour, day of the month, month, "
        "day of the week, such as '0 3 1 */3 *' or '30 2 * * MON-FRI'; timeZone names the time zone"
    ),
)
"""Times of a cron table."""

ZONE_RULE = TextRule(
    patterns={"": "[A-Za-z][A-Za-z0-9_+-]*(/[A-Za-z][A-Za-z0-9_+-]*)*", "L": "L[^o].*|Lo[^c].*"},
    message="must be the IANA name of a time zone, such as Europe/Berlin or UTC",
)
"""A time zone. The operator knows which there are."""

ORIGIN_RULE = TextRule(
    patterns={
        "": (
            "(s3|pvc|file)://.*/"
            "(checkpoints/(step|best)-[0-9]+|adapter|versions/[^/]+/[^/]+/[0-9]+)/?"
        ),
    },
    message=(
        "must name what a run of this product has stored in s3://, pvc:// or file://: a checkpoint "
        "(.../checkpoints/step-200), the best weights of a run (.../checkpoints/best-200), an "
        "adapter (.../adapter) or a published version (.../versions/namespace/name/3)"
    ),
)
"""What a job may begin from."""

ENDPOINT_RULE = TextRule(
    patterns={"": "https?://[!-.0-~]+/?"},
    message=(
        "must be the URL of the server, with http:// or https:// and without a path: "
        "https://s3.example.org or http://10.0.0.5:9000"
    ),
)
"""How an S3 server is reached."""

TRACKER_RULE = TextRule(
    patterns={"": r"https?://[A-Za-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9._~-]+)*/?"},
    message=(
        "must be the URL of the server, with http:// or https://, without user, query or blanks: "
        "https://mlflow.example.org or http://mlflow.mlops:5000/team"
    ),
)
"""How a tracker of experiments is reached."""

MODEL_NAME_RULE = TextRule(
    patterns={"": "[A-Za-z0-9]([A-Za-z0-9 ._-]*[A-Za-z0-9])?"},
    message=(
        "must be letters, digits, blanks, dots, dashes or underscores, and begin and end with a "
        "letter or digit"
    ),
)
"""What an experiment or a registered model is called."""

QUANTITY_RULE = TextRule(
    patterns={"": "[0-9]+([.][0-9]+)?(k|M|G|T|Ki|Mi|Gi|Ti)|[0-9]{4,}"},  # "16" is 16 bytes: a slip
    message=(
        "must be a size with a unit as Kubernetes writes it, such as 16Gi or 500Mi (Ki, Mi, Gi and "
        "Ti count by 1024; k, M, G and T by 1000)"
    ),
)
"""A size."""

CPU_RULE = TextRule(
    patterns={"": "[0-9]+([.][0-9]+)?m?"},
    message="must be a number of CPUs, such as 8, 2.5 or 500m; sizes like 8Gi are for memory",
)
"""A number of CPUs."""

LABEL_RULE = TextRule(
    patterns={"": "[a-z0-9]([-a-z0-9]*[a-z0-9])?"},
    message=(
        "must be lower-case letters, digits or dashes, and begin and end with a letter or digit"
    ),
)
"""A DNS-1123 label."""

SUBDOMAIN_RULE = TextRule(
    patterns={"": "[a-z0-9]([-a-z0-9.]*[a-z0-9])?"},
    message=(
        "must be lower-case letters, digits, dashes or dots, and begin and end with a letter or"
        " digit"
    ),
)
"""Name of an object that labels refer to."""

PATH_RULE = TextRule(
    patterns={"": f"/{_PRINTED}"}, message="must be an absolute path, such as /data"
)
"""A path in a container."""

_SEGMENT = "[.]?[A-Za-z0-9_-][A-Za-z0-9._-]*"  # neither `.` nor `..`

MOUNT_PATH_RULE = TextRule(
    patterns={"": f"(/{_SEGMENT})+"},
    message=(
        "must be an absolute path in letters, digits, dots, dashes and underscores, without '//', "
        "'.', '..' and a trailing slash, such as /data/models"
    ),
)
"""Where a volume is mounted, in the normal form of :func:`finetune_api.paths.normal_path`."""

SUB_PATH_RULE = TextRule(
    patterns={"": f"{_SEGMENT}(/{_SEGMENT})*"},
    message=(
        "must be a path inside the volume in letters, digits, dots, dashes and underscores, "
        "without a leading or trailing slash, '//', '.' and '..', such as models/base"
    ),
)
"""A path inside a volume."""

EXTENDED_RESOURCE_RULE = TextRule(
    patterns={
        "": "[a-z0-9]([-a-z0-9.]*[a-z0-9])?/[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?",
        # Kubernetes' own are no extended resources.
        "kubernetes.io/": "",
        "requests.": "",
    },
    message=(
        "must be an extended resource that a device plugin advertises, domain/name, such as "
        "nvidia.com/gpu or amd.com/gpu; cpu and memory have fields of their own"
    ),
)
"""A resource beside those that Kubernetes knows itself."""

EXTRA_RESOURCE_RULE = TextRule(
    patterns={
        "": f"{EXTENDED_RESOURCE_RULE.patterns['']}|hugepages-[1-9][0-9]*[KMG]i",
        "kubernetes.io/": "",
        "requests.": "",
    },
    message=(
        "must be an extended resource that a device plugin advertises, such as "
        "rdma/hca_shared_devices_a, or huge pages of one size, such as hugepages-2Mi"
    ),
)
"""A resource of a node beside CPU, memory, disk and GPUs."""

_INTERFACE = "[A-Za-z0-9][A-Za-z0-9_.-]{1,14}"

INTERFACE_RULE = TextRule(
    patterns={"": f"[=^]?=?{_INTERFACE}(,{_INTERFACE}){{0,7}}", "=": "=[A-Za-z0-9].*"},
    message=(
        "must be up to eight names of network interfaces as NCCL reads them: eth0 or eth,bond0 "
        "(names that begin so), =eth0 (this name), ^docker0 (all others)"
    ),
)
"""Network interfaces as NCCL chooses them. It ignores a text of one character."""

RDMA_DEVICE_RULE = TextRule(
    patterns={"": "[A-Za-z0-9][A-Za-z0-9_.-]{0,30}(:[0-9]{1,3})?"},
    message="must be the name of a device, such as mlx5_0, or of a port of it, such as mlx5_0:1",
)
"""An InfiniBand or RoCE device as NCCL names it."""

ENTRY_RULE = TextRule(
    patterns={"": "[-._a-zA-Z0-9]+"},
    message="must be the name of an entry of a Secret: letters, digits, dashes, dots, underscores",
)
"""Name of an entry of a Secret or ConfigMap."""

VARIABLE_RULE = TextRule(
    patterns={"": "[A-Za-z_][A-Za-z0-9_]*"},
    message="must be letters, digits and underscores, and not begin with a digit",
)
"""The name of an environment variable."""
