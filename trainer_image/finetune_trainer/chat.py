"""Asks a tuned model."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from finetune_trainer.context import cache_dir
from finetune_trainer.errors import UserError
from finetune_trainer.storage import StorageAccess, fetch_folder, open_store
from finetune_trainer.storage.models.cache import fetch_model

if TYPE_CHECKING:
    from finetune_trainer.model.encoding import ChatTokenizer
    from finetune_trainer.model.pair import ModelPair


@dataclass(frozen=True, kw_only=True, slots=True)
class Chat:
    """A tuned model and its base.

    Attributes:
        model: Name of the base model.
        note: How the base may differ from training's; empty if it does not.
    """

    model: str
    note: str
    pair: ModelPair
    encoder: ChatTokenizer

    def ask(
        self, prompt: str, *, system: str | None, with_base: bool, max_new_tokens: int
    ) -> dict[str, Any]:
        """Return ``{"prompt": ..., "tuned": ..., "base": ...}``.

        There is a ``note`` if reasoning gave no answer.
        """
        from finetune_trainer.evaluate.inference.engine import Prompt
        from finetune_trainer.evaluate.inference.transformers_engine import generate_batch

        ids = _encode(self.encoder, prompt, system)
        line: dict[str, Any] = {"prompt": prompt}
        sides = [("tuned", self.pair.tuned)] + ([("base", self.pair.base)] if with_base else [])
        for name, side in sides:
            with side() as model:
                asked = Prompt(token_ids=ids, max_new_tokens=max_new_tokens)
                stop_ids, pad_id = self.encoder.chat_format.stop_ids, self.encoder.pad_id
                [said] = generate_batch(
                    model, [asked], stop_ids=stop_ids, pad_id=pad_id, part_tokens=None
                )
            answer = self.encoder.reader.read_generated(ids, said.token_ids)
            line[name] = answer or ""
            if answer is None:
                line["note"] = (
                    f"reasoning had no end within {max_new_tokens} tokens, so there is no "
                    "answer; raise --max-new-tokens"
                )
        return line


@contextmanager
def open_chat(
    adapter: str, access: StorageAccess, *, base_model: str | None, trust_remote_code: bool
) -> Iterator[Chat]:
    """Load an adapter and its base.

    Args:
        adapter: URI of the adapter's folder.
        access: How to reach it.
        base_model: URI of the base model; None takes it as recorded.
        trust_remote_code: Run code that ships with the base model.
    """
    import torch

    from finetune_trainer.model.chat_format import FORMAT_NAME, decide_format, read_format
    from finetune_trainer.model.encoding import ChatTokenizer
    from finetune_trainer.model.hardware import detect_hardware
    from finetune_trainer.model.load import load_tokenizer
    from finetune_trainer.model.pair import ModelPair

    with tempfile.TemporaryDirectory(prefix="finetune-chat-") as scratch:
        folder = Path(scratch) / "adapter"
        fetch_folder(open_store(adapter, access), "", folder)
        record = _read_record(folder, adapter)
        trust = _check_trust(record, given=trust_remote_code)
        base_dir, note = _fetch_base(base_model, record, access, allow_code=trust)
        tokenizer = load_tokenizer(base_dir, trust_remote_code=trust)
        # A run from before there was such a file.
        known = (folder / FORMAT_NAME).exists()
        encoder = ChatTokenizer(
            tokenizer,
            read_format(folder) if known else decide_format(tokenizer),
            max_tokens=sys.maxsize,
        )
        hardware = detect_hardware()
        pair = ModelPair(
            base_dir,
            folder,
            dtype=torch.bfloat16 if record["recipe"]["bfloat16"] else torch.float32,
            gpus=[0] if hardware.num_gpus else [],
            gpu_bytes=hardware.memory_bytes,
            # As it was trained and scored. A CPU has the original weights instead, not 4-bit ones.
            quantize=record.get("quantization") is not None and hardware.num_gpus > 0,
            trust_remote_code=trust,
        )
        with pair.tuned():
            chat = Chat(model=record["model"], note=note, pair=pair, encoder=encoder)
        yield chat


def _read_record(folder: Path, uri: str) -> dict[str, Any]:
    try:
        record: dict[str, Any] = json.loads((folder / "run.json").read_text())
    except FileNotFoundError as error:
        raise UserError(
            "NotAnAdapter",
            f"{uri} has no run.json, so no run of this program wrote it as its adapter; give the "
            "folder adapter of a run, or a published version",
        ) from error
    return record


def _check_trust(record: dict[str, Any], *, given: bool) -> bool:
    # Content of a store must not decide that its own code runs here.
    if record.get("trustRemoteCode") and not given:
        raise UserError(
            "CodeNotTrusted",
            f"{record['model']} runs code that ships with it (the job set model.trustRemoteCode); "
            "if you trust that code on this machine, say --trust-remote-code",
        )
    return given


def _fetch_base(
    given: str | None,
    record: dict[str, Any],
    access: StorageAccess,
    *,
    allow_code: bool,
) -> tuple[Path, str]:
    """Fetch the base model; return its folder and a note, empty if it is unchanged.

    The same files have other digests in a folder, a bucket and on the Hub.

    Raises:
        UserError: It is missing; says how to name it.
    """
    known = record.get("modelUri", given) or f"hf://{record['model']}"
    uri = given or known
    recorded = record["revision"]
    try:
        folder, revision = fetch_model(
            uri, recorded if uri == known else None, access, cache_dir(), allow_code=allow_code
        )
    except UserError as error:
        raise UserError(
            error.reason,
            f"{error.message} The adapter was trained on {record['model']} from {known}; if that "
            "lies elsewhere now, name the place: --base-model URI.",
        ) from error
    note = ""
    if revision != recorded:
        note = (
            f"the base model at {uri} is {revision}, the adapter was trained on {recorded}; "
            "answers are only the run's if both hold the same weights"
        )
    return folder, note


def _encode(encoder: ChatTokenizer, prompt: str, system: str | None) -> list[int]:
    if not prompt.strip():
        raise UserError("EmptyPrompt", "the prompt is empty")
    if encoder.chat_format.template is None:
        return encoder.encode_prompt(prompt)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": prompt})
    return encoder.encode_prompt(messages)
