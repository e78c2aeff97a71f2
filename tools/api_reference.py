"""Reference pages in Markdown, rendered from the CRD's schema and the trainer protocol.

``tools/generate.py`` reads and writes the files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from finetune_api.crd import JOBS, CustomKind
from finetune_api.meta import API_VERSION
from finetune_api.protocol.reasons.data import DATA
from finetune_api.protocol.reasons.model import MODEL
from finetune_api.protocol.reasons.program import PROGRAM
from finetune_api.protocol.reasons.results import RESULTS
from finetune_api.protocol.reasons.storage import STORAGE
from finetune_api.protocol.reasons.traffic import TRAFFIC
from finetune_api.protocol.reasons.train import TRAIN
from finetune_api.protocol.trainer import CLASS_OF_EXIT_CODE, NON_RETRYABLE_EXIT_CODES, ExitCode
from finetune_api.reason_help import ReasonHelp
from finetune_api.reasons.acceptance import ACCEPTANCE
from finetune_api.reasons.endpoints import ENDPOINTS
from finetune_api.reasons.failures import CLASSES, PODS
from finetune_api.reasons.life import EVENTS, LIFE
from finetune_api.reasons.queue import QUEUE
from finetune_api.reasons.schedules import SCHEDULES
from finetune_api.reasons.sweeps import SWEEPS

Schema = dict[str, Any]

EXIT_CODE_HELP: dict[ExitCode, tuple[str, str]] = {
    ExitCode.OK: ("The stage finished and its results are in object storage.", "Nothing."),
    ExitCode.USER_ERROR: (
        "The job asks for something that cannot work: a missing bucket, model or file, refused "
        "credentials, a target module the model does not have.",
        "Correct the value named in the message and create the job anew.",
    ),
    ExitCode.DATA_ERROR: (
        "The examples cannot be trained on: unreadable rows, an empty side of the split, every "
        "row over `maxSequenceLength`.",
        "Correct the data; the message names file, line and reason of the first rows, and where "
        "all are listed (`invalid-rows.jsonl` of the run).",
    ),
    ExitCode.INTERNAL: (
        "A defect, or a library raised something nobody foresaw.",
        "Read the log; report it with the traceback.",
    ),
    ExitCode.STORAGE: (
        "Object storage or a judge did not answer, a checksum did not match, or the disk is full.",
        "Check the server and the space; what was published before is untouched.",
    ),
    ExitCode.RETRYABLE: (
        "Something that should pass: a peer of the rendezvous vanished, a download was cut.",
        "Nothing: the stage starts again and resumes at its last complete checkpoint. More than "
        "`backoffLimit` + 1 such ends in a row without a new step end the job: then look at the "
        "network between its pods and at the memory of its nodes.",
    ),
    ExitCode.HANG: (
        "No rank made a step for longer than `trainer.stepTimeoutSeconds` allows: a collective "
        "that a rank never joined, a data loader or a file system that never answers.",
        "Read the message: it names the rank that was behind, where it was, and the folder with "
        "the stacks of all ranks. The stage starts again and resumes at its last checkpoint.",
    ),
    ExitCode.OUT_OF_MEMORY: (
        "GPU or host memory did not suffice.",
        "Nothing while `train` can do with less: its next attempt takes half the micro batch and "
        "keeps the global batch, and a job that does not fit at the smallest ends with 64. Else "
        "lower `maxSequenceLength`, use more GPUs with ZeRO3 or FSDP2, or raise "
        "`resources.memory`.",
    ),
    ExitCode.STOPPED: (
        "The stage was asked to stop (SIGTERM: suspended, preempted, node drained, Ctrl-C), saved "
        "a complete checkpoint and left.",
        "Nothing: it resumes there when it runs again.",
    ),
}
"""What each exit code means, and what to do."""


def render_exit_codes() -> str:
    """Render the page on the exit codes of a stage."""
    lines = [
        "# Exit codes of a stage",
        "",
        "`prepare`, `train` and `evaluate` end with one of these codes, on a cluster and under",
        "`finetune run` alike. The operator decides by them whether a stage runs again. Codes",
        "64 to 77 have their `sysexits.h` meaning where it has a fitting one.",
        "",
        "| code | class | runs again | meaning | what to do |",
        "|---|---|---|---|---|",
    ]
    for code in ExitCode:
        meaning, remedy = EXIT_CODE_HELP[code]
        failure_class = CLASS_OF_EXIT_CODE.get(code)
        shown = f"`{failure_class}`" if failure_class else ""
        lines.append(f"| {code.value} | {shown} | {_retry_word(code)} | {meaning} | {remedy} |")
    lines += [
        "",
        "A container killed by the kernel for memory ends with 137, or with 77 where only a",
        "process below its first one was killed; the reason is `OOMKilled` either way, the class",
        "`OutOfMemory`. Beside the code a stage leaves a JSON message in its termination log with",
        "the cause, the remedy and, on success, its result.",
        "",
        "`finetune run` ends with the code of the stage that failed, with 1 when every stage",
        "finished but the goal was missed, or when the data set waits for an approval, with 79",
        "when it was stopped between two stages or attempts, and with 0 otherwise. Any other",
        "command that Ctrl-C ends has 79 as well, but for `chat`: Ctrl-C is the way out of it,",
        "and it ends with 0.",
    ]
    return "\n".join(lines) + "\n"


_REASON_SECTIONS: tuple[tuple[str, dict[str, ReasonHelp]], ...] = (
    ("Whether a job is accepted", ACCEPTANCE),
    ("The life of a job", LIFE),
    ("Events that are no condition's", EVENTS),
    ("Classes of failures", CLASSES),
    ("Pods and their containers", PODS),
    ("Kueue", QUEUE),
    ("Sweeps", SWEEPS),
    ("Endpoints", ENDPOINTS),
    ("Schedules", SCHEDULES),
    ("Stages: object stores, folders and the Hub", STORAGE),
    ("Stages: base model, tokenizer and chat template", MODEL),
    ("Stage `prepare`: sources, rows and split", DATA),
    ("Stage `train`", TRAIN),
    ("Stage `evaluate` and publishing", RESULTS),
    ("Captured traffic, and looks at it", TRAFFIC),
    ("The program itself", PROGRAM),
)


def render_reasons() -> str:
    """Render the page on the reasons in conditions, in ``status.lastFailure`` and of rows."""
    lines = [
        "# Reasons",
        "",
        "The words in the `reason` of conditions and Events, in `status.lastFailure` and of rows",
        "that are refused. They are stable: scripts may compare them. The message beside a reason",
        "names the values. Other reasons are names of unexpected exceptions (class `Internal`),",
        "`ExitCodeN` of a container without a message, and reasons of Kubernetes or Kueue.",
        "",
    ]
    for title, section in _REASON_SECTIONS:
        lines += [f"## {title}", "", "| reason | meaning | what to do |", "|---|---|---|"]
        lines += [
            f"| `{reason}` | {_escaped(told.meaning)} | {_escaped(told.remedy)} |"
            for reason, told in section.items()
        ]
        lines.append("")
    return "\n".join(lines)


def _retry_word(code: ExitCode) -> str:
    if code is ExitCode.OK:
        return "-"
    if code in NON_RETRYABLE_EXIT_CODES:
        return "never"
    if code in (ExitCode.RETRYABLE, ExitCode.STOPPED):
        return "yes, not counted"
    return "up to `backoffLimit` or `retryPolicy`"


def render_kind(custom: CustomKind) -> str:
    """Render the page on every field of a kind."""
    schema = custom.build_schema()
    lines = [f"# {custom.kind} (`{API_VERSION}`)", "", schema["description"], ""]
    if custom is JOBS:
        lines += [*_JOB_NOTES, "", "## metadata", ""]
        lines += [schema["x-kubernetes-validations"][0]["message"] + ".", ""]
    else:
        lines += ["Unknown fields are refused.", ""]
    for section in ("spec", "status"):
        if section in schema["properties"]:
            lines += _section(section, schema["properties"][section])
    return "\n".join(lines) + "\n"


_JOB_NOTES = (
    'A decimal is written in quotes (`"0.9"`); a whole number needs none. For `finetune` no',
    "decimal of a FineTuneJob needs quotes: `finetune submit` sends it as text. Fields marked",
    "*fixed* cannot change once the job exists. Unknown fields are refused.",
)


_DOCUMENTED_ELSEWHERE = {
    "spec.template": "finetunejob.md",
    "spec.jobTemplate.spec": "finetunejob.md",
}
"""Objects whose fields another page tells."""


def _section(path: str, schema: Schema) -> list[str]:
    lines = [f"## {path}", "", schema["description"], ""]
    lines += _table(path, schema)
    for child_path, child in _objects_below(path, schema):
        lines += [f"### {child_path}", "", child.get("description", ""), ""]
        lines += _table(child_path, child)
    return lines


def _table(path: str, schema: Schema) -> list[str]:
    lines = ["| field | type | default | description |", "|---|---|---|---|"]
    required = schema.get("required", [])
    for name, field in schema["properties"].items():
        default = "**required**" if name in required else _default_text(field)
        lines.append(
            f"| `{name}` | {_type_text(field)} | {default} | {_description(path, name, field)} |"
        )
    lines.append("")
    rules = dict.fromkeys(
        rule["message"]
        for rule in schema.get("x-kubernetes-validations", [])
        if "oldSelf" not in rule["rule"]
    )
    if rules:
        lines += ["Rules:", "", *(f"- {_escaped(rule)}" for rule in rules), ""]
    return lines


def _objects_below(path: str, schema: Schema) -> Iterator[tuple[str, Schema]]:
    for name, field in schema["properties"].items():
        child_path, child = f"{path}.{name}", field
        if "items" in field:
            child_path, child = f"{child_path}[]", field["items"]
        if "properties" in child and child_path not in _DOCUMENTED_ELSEWHERE:
            yield child_path, child
            yield from _objects_below(child_path, child)


def _description(path: str, name: str, field: Schema) -> str:
    text = _escaped(field.get("description", ""))
    if page := _DOCUMENTED_ELSEWHERE.get(f"{path}.{name}"):
        text += f" See [{page}]({page})."
    rules = field.get("x-kubernetes-validations", [])
    if path == "spec" and any(rule["rule"] == "self == oldSelf" for rule in rules):
        text += " *Fixed.*"
    return text


def _default_text(field: Schema) -> str:
    default = field.get("default")
    if default is None or default == {}:
        return ""
    if isinstance(default, bool):
        return f"`{str(default).lower()}`"
    if isinstance(default, list):
        return f"`[{', '.join(str(item) for item in default)}]`"
    return f'`"{default}"`' if "pattern" in field else f"`{default}`"


def _type_text(field: Schema) -> str:
    if "enum" in field:
        return " \\| ".join(f"`{value}`" for value in field["enum"])
    if "pattern" in field and field.get("x-kubernetes-int-or-string"):
        return "`auto` or decimal" if field["pattern"].startswith("^auto$|") else "decimal"
    if field.get("x-kubernetes-int-or-string"):
        rules = field.get("x-kubernetes-validations")
        message: str = rules[0]["message"] if rules else "integer or string"
        return message.removeprefix("must be ")
    if field.get("x-kubernetes-preserve-unknown-fields"):
        return "free-form object"
    kind = field["type"]
    if kind == "integer":
        return "integer" + _range_text(field.get("minimum"), field.get("maximum"))
    if kind == "array":
        bounds = _range_text(field.get("minItems"), field.get("maxItems"))
        return f"list of {_type_text(field['items'])}{bounds}"
    if kind == "object" and "additionalProperties" in field:
        return f"map of string{_range_text(None, field.get('maxProperties'))}"
    if kind == "string":
        return _string_text(field)
    return str(kind)


def _string_text(field: Schema) -> str:
    rules = field.get("x-kubernetes-validations", [])
    if any("Ki|Mi" in rule["rule"] for rule in rules):
        return "quantity"
    return "string" + _range_text(None, field.get("maxLength"), unit=" characters")


def _range_text(low: int | None, high: int | None, unit: str = "") -> str:
    if low is None and high is None:
        return ""
    if low is None:
        return f", at most {high}{unit}"
    if high is None:
        return f", at least {low}{unit}"
    return f", {low} to {high}{unit}"


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")
