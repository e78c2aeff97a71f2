"""Finds and fetches the published version that gates compare with, and says why it cannot be asked.

The newest version of the job's name is pinned at the first attempt of the evaluation: a retry
compares with the same one, whatever was published meanwhile. A version that cannot be asked is no
reason to end the evaluation: the gates that ask for it are missed, with the reason.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_api.protocol.evaluation_result import PublishedVersion
from finetune_api.protocol.trainer import ResolvedJob
from finetune_trainer.errors import StorageError, TrainerError
from finetune_trainer.evaluate.question_set import AskedPublished
from finetune_trainer.evaluate.questions import Question
from finetune_trainer.evaluate.tokenized import encode_questions
from finetune_trainer.model.chat_format import FORMAT_NAME, ChatFormat, read_format
from finetune_trainer.model.encoding import make_encoder
from finetune_trainer.model.pair import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    PublishedFolder,
)
from finetune_trainer.publish.versions import CARD, newest_version, version_of
from finetune_trainer.run import RunStorage, Workspace
from finetune_trainer.storage import (
    AlreadyExists,
    ChecksumMismatch,
    IncompleteFolder,
    ObjectNotFound,
    ObjectStore,
    fetch_folder,
    find_manifest,
    read_json,
)

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIN = "published.json"
RECORD = "run.json"
DAMAGED = (ChecksumMismatch, IncompleteFolder, ObjectNotFound)
"""What storage that works says of files that are not what they were."""
_REMEDY = (
    "publish a version that can be asked (finetune publish --override, with a reason), give the "
    "job another name, or set severity: Warn"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class FoundPublished:
    """What is known of the published version.

    Attributes:
        told: The version as reports show it.
        source: Its files; None where there is none that can be asked.
        record: Its ``run.json``.
    """

    told: PublishedVersion
    source: PublishedFolder | None = None
    record: Mapping[str, Any] | None = None

    def unusable(self, problem: str) -> FoundPublished:
        """Return the same without files to ask, and why."""
        told = self.told.model_copy(update={"problem": f"{problem}; {_REMEDY}"})
        return replace(self, told=told, source=None)


class _Unusable(Exception):  # noqa: N818 - what is wrong, for the report
    """The version cannot be asked."""


def find_published(
    storage: RunStorage, workspace: Workspace, *, model_name: str, revision: str
) -> FoundPublished:
    """Find, pin, fetch and check the published version.

    Args:
        storage: The run's.
        workspace: The run's.
        model_name: Public name of the base model.
        revision: Resolved revision of the base model.

    Raises:
        StorageError: Storage failed.
    """
    job = storage.job
    pin = _pin(storage)
    number = pin.get("version")
    if not isinstance(number, int):
        name = f"{job.namespace}/{job.published_name}"
        storage.say(f"nothing is published as {name} yet: there is no version to compare")
        return FoundPublished(told=PublishedVersion())
    prefix = version_of(job, number).prefix
    digest = str(pin.get("digest", ""))
    told = PublishedVersion(version=number, uri=storage.uri_of(prefix), digest=digest)
    found = FoundPublished(told=told)
    try:
        source, record = _fetch(
            storage.output, workspace, prefix, digest, base=(model_name, revision)
        )
    except _Unusable as problem:
        found = found.unusable(str(problem))
        storage.say(f"version {number} cannot be asked: {found.told.problem}")
        return found
    return replace(found, source=source, record=record)


def _pin(storage: RunStorage) -> Mapping[str, Any]:
    """Return number and digest of the newest version, as the first attempt found them."""
    key = f"{storage.job.run_prefix}/{PIN}"
    pinned = read_json(storage.output, key)
    if pinned is not None:
        return pinned
    newest = newest_version(storage)
    body: dict[str, Any] = {"version": None, "digest": ""}
    if newest is not None:
        digest = ""
        with suppress(StorageError):  # told once it is fetched
            manifest = find_manifest(storage.output, newest.prefix)
            digest = manifest.digest if manifest else ""
        body = {"version": newest.number, "digest": digest}
    with suppress(AlreadyExists):
        data = json.dumps(body, indent=1, sort_keys=True) + "\n"
        storage.output.write_bytes(key, data.encode(), if_absent=True)
    return read_json(storage.output, key) or body


def _fetch(
    store: ObjectStore, workspace: Workspace, prefix: str, digest: str, *, base: tuple[str, str]
) -> tuple[PublishedFolder, Mapping[str, Any]]:
    """Fetch a version, every byte checked, and make sure that it lies on this base model.

    Args:
        store: Storage of the run.
        workspace: The run's.
        prefix: Key of the version's folder.
        digest: Digest of its manifest, as pinned.
        base: Name and revision of the base model.

    Raises:
        _Unusable: It is damaged, changed since it was pinned, or of another base model.
        StorageError: Storage failed.
    """
    folder = workspace.scratch("published", fresh=True)
    try:
        manifest = find_manifest(store, prefix)
        if manifest is None or manifest.digest != digest:
            raise _Unusable("its manifest changed or went away since this evaluation began")
        wanted = {file.path for file in manifest.files} - {CARD}
        # Its manifest points at files of the run that made it, from the output's root.
        fetch_folder(store, prefix, folder, only=wanted, keys_from="")
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        bfloat16 = bool(record["recipe"]["bfloat16"])
    except DAMAGED as error:
        raise _Unusable(f"it is damaged: {error.message}") from error
    except StorageError as error:
        if error.reason != "ManifestInvalid":
            raise
        raise _Unusable(f"it is damaged: {error.message}") from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"its {RECORD} cannot be read: {error!r}") from error
    _check_base(record, *base)
    _check_adapter(folder)
    quantize = record.get("quantization") is not None
    return PublishedFolder(folder=folder, bfloat16=bfloat16, quantize=quantize), record


def _check_base(record: Mapping[str, Any], model: str, revision: str) -> None:
    theirs = record.get("revision")
    if theirs != revision:
        raise _Unusable(
            f"it was tuned from {record.get('model') or 'an unknown model'} at revision "
            f"{theirs or 'unknown'}, and this job's base is {model} at revision {revision}: it "
            "cannot answer on it"
        )


def _check_adapter(folder: Path) -> None:
    if not (folder / ADAPTER_CONFIG).exists():
        return
    try:
        kind = json.loads((folder / ADAPTER_CONFIG).read_text(encoding="utf-8"))["peft_type"]
    except (ValueError, KeyError, TypeError) as error:
        raise _Unusable(f"its {ADAPTER_CONFIG} cannot be read: {error!r}") from error
    if kind != "LORA" or not (folder / ADAPTER_WEIGHTS).exists():
        raise _Unusable(f"its adapter is of a kind that is not known here ({kind})")


def ready_to_ask(
    job: ResolvedJob,
    tokenizer: PreTrainedTokenizerBase,
    found: FoundPublished,
    questions: list[Question],
    own: ChatFormat,
    *,
    room: int | None,
) -> tuple[FoundPublished, AskedPublished | None]:
    """Write the questions in the published version's own chat format.

    Args:
        job: The effective job.
        tokenizer: The base model's.
        found: What is known of the version.
        questions: The held-out questions.
        own: This job's chat format, for versions from before there was a file of it.
        room: Tokens that the base model takes; None where nobody knows.

    Returns:
        What is known of it now, and what to ask; None where there is nothing to ask.
    """
    if found.source is None:
        return found, None
    folder = found.source.folder
    try:
        chat_format = read_format(folder) if (folder / FORMAT_NAME).exists() else own
        encoder = make_encoder(job, tokenizer, chat_format)
        asked = job.spec.evaluation.max_new_tokens
        encoded = encode_questions(encoder, questions, asked, context=room)
    except TrainerError as error:
        return found.unusable(f"its chat format does not fit: {error.message}"), None
    asked_published = AskedPublished(
        source=found.source, encoder=encoder, encoded=encoded, digest=found.told.digest
    )
    return found, asked_published


def add_problem(told: PublishedVersion, problem: str) -> PublishedVersion:
    """Return what reports say of the version, where the workers found out why it cannot be asked.

    Args:
        told: What was said of it before.
        problem: What the workers found; empty if nothing was in the way.
    """
    if not problem:
        return told
    return told.model_copy(update={"problem": f"{problem}; {_REMEDY}"})
