"""Brings the base model to an engine that waits for its place."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from finetune_api.v1alpha1.status.endpoint import ServedStorage
from finetune_trainer.errors import UserError
from finetune_trainer.serve.agent.bounds import Refusal
from finetune_trainer.serve.agent.fetching import Fetched, access_of, to_file_uri
from finetune_trainer.storage.errors import local_writes
from finetune_trainer.storage.models.cache import fetch_model

ARGUMENTS_NAME = "arguments"
"""File that the engine waits for: its further arguments, one a line."""
RECORD_NAME = "base.json"
"""File with the revision of the model and the chat template that the engine was given."""
BASE_NAME = "base"
"""Name of the base model in the engine. The gate never passes it."""
TEMPLATE_NAME = "chat_template.jinja"
_OTHER_CONTENT = ("RevisionMismatch", "BaseModelChanged")


class Base(Protocol):
    """The base model of the engine."""

    dtype: str
    """Type of the weights in the engine's arguments; empty without any."""

    async def prepare(self, fetched: Fetched) -> None:
        """Bring the base model of a version to the engine, which may wait for it.

        Raises:
            TrainerError: It cannot be fetched now.
            Refusal: ``OtherBaseModel``: the engine has another one.
        """


@dataclass(kw_only=True)
class NoBase:
    """An engine that was started with its base model."""

    dtype: str = ""

    async def prepare(self, fetched: Fetched) -> None:
        """Do nothing."""


@dataclass(kw_only=True)
class EngineBase:
    """Fetches the base model once, in the revision of the first version, and tells the engine.

    vLLM has one chat template for all adapters, that of the first version. Our engine uses each
    version's own.

    Attributes:
        uri: URI of the base model.
        storage: How it is reached, if the model has no Secret of its own.
        model_secret: Secret that opens the base model; empty for the storage's.
        folder: Folder that the engine waits at.
        engine_name: ``VLLM`` or ``Transformers``.
        whole: Name of the one version that is served whole, without a base; empty for adapters.
        allow_code: The administrator allows code that ships with a model, for ``trustRemoteCode``.
        dtype: Type of the weights in the engine's arguments; empty until they are written.
    """

    uri: str
    storage: ServedStorage
    model_secret: str
    credentials_dir: Path | None
    cache_dir: Path
    folder: Path
    engine_name: str
    whole: str = ""
    allow_code: bool = False
    dtype: str = field(default="", init=False)
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False, repr=False)

    async def prepare(self, fetched: Fetched) -> None:
        """Bring the base model of a version to the engine.

        Raises:
            TrainerError: It cannot be fetched now.
            Refusal: ``OtherBaseModel``, or ``EngineRefused`` for a model that runs code.
        """
        if _needs_code(fetched) and not self.allow_code:
            raise _code_not_allowed(fetched)
        async with self._lock:
            given = await asyncio.to_thread(self._prepare, fetched)
        self.dtype = given.get("dtype", "")
        if _needs_code(fetched) and not given.get("code"):
            raise _without_code(fetched)
        if not self.whole and fetched.revision not in ("", given["revision"]):
            raise _other(fetched, given["revision"])
        template = _template_digest(fetched)
        if self.engine_name != "Transformers" and template != given["template"]:
            raise _other_template(template, given["template"])

    def _prepare(self, fetched: Fetched) -> dict[str, str]:
        record = self.folder / RECORD_NAME
        # Both: an agent that ended between the two has not told the engine.
        if record.exists() and (self.folder / ARGUMENTS_NAME).exists():
            known: dict[str, str] = json.loads(record.read_text("utf-8"))
            return known
        if self.whole:
            model, revision = fetched.folder, ""
        else:
            model, revision = self._fetch(fetched)
        given = {
            "revision": revision,
            "template": _template_digest(fetched),
            "code": "allowed" if _needs_code(fetched) else "",
            "dtype": _dtype_of(fetched),
        }
        with local_writes(self.folder):
            record.write_text(json.dumps(given), "utf-8")
            arguments = self.folder / ARGUMENTS_NAME
            lines = "".join(f"{each}\n" for each in self._arguments(model, fetched))
            partial = arguments.with_name(f".{ARGUMENTS_NAME}.{os.getpid()}")
            partial.write_text(lines, "utf-8")
            partial.replace(arguments)
        return given

    def _fetch(self, fetched: Fetched) -> tuple[Path, str]:
        secret = self.model_secret or self.storage.credentials_secret
        storage = self.storage.model_copy(update={"credentials_secret": secret})
        # The revision that was trained on counts, not what a branch names today.
        uri = to_file_uri(self.uri)
        uri = uri.partition("@")[0] if uri.startswith("hf://") and fetched.revision else uri
        try:
            return fetch_model(
                uri,
                fetched.revision or None,
                access_of(storage, self.credentials_dir),
                self.cache_dir,
                allow_code=_needs_code(fetched),
            )
        except UserError as error:
            if error.reason in _OTHER_CONTENT:
                raise Refusal("OtherBaseModel", error.message) from error
            raise

    def _arguments(self, model: Path, fetched: Fetched) -> Sequence[str]:
        arguments = [
            f"--served-model-name={self.whole or BASE_NAME}",
            # The type of training, which evaluation took, too: vLLM would halve float32.
            f"--dtype={_dtype_of(fetched)}",
        ]
        if _needs_code(fetched):
            arguments.append("--trust-remote-code")
        if self.engine_name == "Transformers":
            # vLLM may hold the whole base beside adapters of QLoRA: serve.arguments decide.
            is_quantized = bool(fetched.record.get("quantization")) and not self.whole
            return [f"--model={model}", *arguments, *(["--quantize"] if is_quantized else [])]
        template = fetched.folder / TEMPLATE_NAME
        kept = self.folder / TEMPLATE_NAME
        if template.exists():
            # A copy: the version's own folder goes when nobody serves the version.
            kept.write_bytes(template.read_bytes())
            arguments.append(f"--chat-template={kept}")
        return [str(model), *arguments]


def _dtype_of(fetched: Fetched) -> str:
    recipe = fetched.record.get("recipe") or {}
    return "bfloat16" if recipe.get("bfloat16") else "float32"


def _needs_code(fetched: Fetched) -> bool:
    """Whether the base model of a version runs code that ships with it."""
    return bool(fetched.record.get("trustRemoteCode"))


def _template_digest(fetched: Fetched) -> str:
    """Return the SHA-256 of a version's chat template; empty if it has none of its own."""
    template = fetched.folder / TEMPLATE_NAME
    return hashlib.sha256(template.read_bytes()).hexdigest() if template.exists() else ""


def _other_template(template: str, given: str) -> Refusal:
    return Refusal(
        "OtherBaseModel",
        f"the version has chat template {template[:12] or 'of the base model'}, and vLLM on this "
        f"server has {given[:12] or 'that of the base model'} for all versions: set "
        "serve.engine: Transformers, which uses each version's own template, or serve versions of "
        "other templates from endpoints of their own with serve.dedicated",
    )


def _other(fetched: Fetched, revision: str) -> Refusal:
    return Refusal(
        "OtherBaseModel",
        f"the version was trained on revision {fetched.revision} of {fetched.record.get('model')}, "
        f"and this server has revision {revision}",
    )


def _code_not_allowed(fetched: Fetched) -> Refusal:
    return Refusal(
        "EngineRefused",
        f"{fetched.record.get('model')} runs code that ships with it (the job set "
        "model.trustRemoteCode), and this cluster does not run it: ask the administrator to set "
        "config.allowTrustRemoteCode, or train on a model without code",
    )


def _without_code(fetched: Fetched) -> Refusal:
    return Refusal(
        "OtherBaseModel",
        f"the version needs the code that ships with {fetched.record.get('model')}, and the first "
        "version of this server did not: serve it from an endpoint of its own with serve.dedicated",
    )
