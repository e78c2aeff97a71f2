"""Published versions with their evaluations, written to a folder as stages write them."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.storage import Manifest, make_manifest, open_store, publish_folder
from kit.servers.serving_engine import ANSWERS

LABELS = ("billing", "refund", "delivery", "other")


@dataclass(frozen=True, kw_only=True)
class Version:
    """A version in storage.

    Attributes:
        root: Folder of the output.
        tuned: Answers of the tuned model, by question.
        base: Answers of the base model.
    """

    root: Path
    job: str
    number: int
    manifest: Manifest
    tuned: dict[str, str]
    base: dict[str, str]

    @property
    def name(self) -> str:
        """Name that it is loaded under."""
        return f"team.{self.job}-v{self.number}"

    @property
    def sha256(self) -> str:
        """Digest of the bytes of its manifest."""
        return hashlib.sha256(self.manifest.to_bytes()).hexdigest()

    @property
    def weights(self) -> str:
        """Digest of its weights file."""
        file = self.manifest.file("adapter_model.safetensors")
        assert file is not None
        return file.sha256

    def served(self, **changes: Any) -> dict[str, Any]:
        """Return the version as the status of an endpoint names it."""
        uri = f"file://{self.root}"
        served = {
            "version": self.number,
            "adapter": self.name,
            "manifestUri": f"{uri}/versions/team/{self.job}/{self.number}/manifest.json",
            "sha256": self.sha256,
            "server": "fts-0123456789ab",
            "baseModel": "hf://org/model@main",
            "storage": {"uri": uri},
        }
        return served | changes


def publish_version(
    root: Path,
    *,
    job: str = "tickets",
    number: int = 1,
    shift: int = 0,
    questions: int = 60,
    base_answers: str = "own",
    record: dict[str, Any] | None = None,
    report: dict[str, Any] | None = None,
) -> Version:
    """Publish a version whose answers are labels.

    Args:
        root: Folder of the output.
        shift: Chooses the labels.
        base_answers: ``own``, or ``tuned`` for the same answers.
        record: Changes of ``run.json``.
        report: Changes of ``report.json``.
    """
    store = open_store(f"file://{root}")
    asked = [f"Ticket {each}" for each in range(questions)]
    tuned = {text: LABELS[(place * place + shift) % 4] for place, text in enumerate(asked)}
    base = {text: f"It is about {LABELS[place % 4]}" for place, text in enumerate(asked)}
    base = tuned if base_answers == "tuned" else base
    uid = f"uid-{job}-{number}"
    run = f"runs/team/{job}/{uid}"
    folder = root.parent / f"made-{job}-{number}"
    for name in ("adapter", "evaluation"):
        (folder / name).mkdir(parents=True)
    run_record = {"modelUri": "hf://org/model", "revision": "c0ffee", "recipe": {"bfloat16": False}}
    (folder / "adapter/run.json").write_text(json.dumps(run_record | (record or {})))
    (folder / "adapter" / ANSWERS).write_text(json.dumps(tuned))
    (folder / "adapter/adapter_model.safetensors").write_bytes(f"weights {shift}".encode())
    adapter = publish_folder(store, f"{run}/adapter", folder / "adapter", created_by="train")
    rows = [
        {
            "prompt": [{"role": "user", "content": text}],
            "references": [tuned[text]],
            "base": base[text],
            "tuned": tuned[text],
            "group": text,
        }
        for text in asked
    ]
    told = {
        "engine": "Transformers 5.0.0",
        "answerTokens": 7,
        "result": {"scores": [{"name": "exactMatch"}, {"name": "loss"}]},
    }
    (folder / "evaluation/report.json").write_text(json.dumps(told | (report or {})))
    (folder / "evaluation/samples.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    evaluation = publish_folder(
        store, f"{run}/evaluation", folder / "evaluation", created_by="evaluate"
    )
    manifest = make_manifest(
        [file.stored_at(f"{run}/adapter/{file.object_key}") for file in adapter.files],
        created_by="publish",
        inputs={"uid": uid, "run": run, "evaluation": evaluation.digest},
    )
    store.write_bytes(f"versions/team/{job}/{number}/manifest.json", manifest.to_bytes())
    return Version(root=root, job=job, number=number, manifest=manifest, tuned=tuned, base=base)


def endpoint_with(job: str = "tickets", **status: Any) -> dict[str, Any]:
    """Return a FineTuneEndpoint of a job with a status."""
    return {
        "apiVersion": "finetune.dev/v1alpha1",
        "kind": "FineTuneEndpoint",
        "metadata": {"name": job, "namespace": "team", "resourceVersion": "1"},
        "spec": {"jobRef": {"name": job}},
        "status": status,
    }
