"""Further versions of a published one: damaged on purpose, and signed by whoever has the bucket."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from finetune_trainer.storage import (
    Manifest,
    ManifestFile,
    hash_file,
    make_manifest,
    open_store,
    read_manifest,
)

NAMESPACE = "default"
WEIGHTS = "adapter_model.safetensors"

Tensors = dict[str, Any]


@dataclass(frozen=True, kw_only=True, slots=True)
class StoredVersion:
    """A version in a folder, with the answers that its evaluation stored.

    Attributes:
        output: Folder of the output.
        run: Prefix of the run that made it.
        uid: UID of that run's job.
        answers: Answers of the tuned model, by the text of the question.
    """

    output: Path
    job: str
    number: int
    run: str
    uid: str
    answers: Mapping[str, str]

    @property
    def adapter(self) -> Path:
        """Folder of its adapter."""
        return self.output / self.run / "adapter"

    def published_by(self, spec: Mapping[str, Any]) -> dict[str, Any]:
        """Return the FineTuneJob that says it has published this version."""
        manifest = f"versions/{NAMESPACE}/{self.job}/{self.number}/manifest.json"
        artifact = {
            "version": self.number,
            "manifestUri": f"file://{self.output}/{manifest}",
            "sha256": hash_file(self.adapter / WEIGHTS)[1],
        }
        return {
            "metadata": {"name": self.job, "namespace": NAMESPACE, "uid": self.uid},
            "spec": {**spec},
            "status": {"artifact": artifact},
        }


def read_version(output: Path, job: str, number: int) -> StoredVersion:
    """Read a version and what its evaluation stored."""
    manifest = read_manifest(open_store(f"file://{output}"), _prefix(job, number))
    run = manifest.inputs["run"]
    lines = (output / run / "evaluation" / "samples.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return StoredVersion(
        output=output,
        job=job,
        number=number,
        run=run,
        uid=manifest.inputs["uid"],
        answers={row["prompt"][-1]["content"]: row["tuned"].strip() for row in rows},
    )


def publish_changed(
    source: StoredVersion,
    number: int,
    change: Callable[[Path], object],
    *,
    job: str | None = None,
    answers: Mapping[str, str] | None = None,
) -> StoredVersion:
    """Publish a version's files again after a change, as a run of its own with whole manifests.

    Args:
        source: The version.
        number: Number of the new one.
        change: Changes files in the folder of the adapter.
        job: Name of its job; by default the same.
        answers: What its evaluation has stored, by question; by default the same.
    """
    job = job or source.job
    uid = f"{job}-{number}"
    run = f"runs/{NAMESPACE}/{job}/{uid}"
    folder = source.output / run
    shutil.copytree(source.output / source.run, folder)
    change(folder / "adapter")
    store = open_store(f"file://{source.output}")
    if answers is not None:
        _store_answers(folder / "evaluation", answers)
        _sign(folder / "evaluation", read_manifest(store, f"{run}/evaluation"))
    evaluation = read_manifest(store, f"{run}/evaluation").digest
    known = read_manifest(store, _prefix(source.job, source.number))
    files = []
    for file in known.files:
        key = file.object_key.replace(source.run, run)
        num_bytes, sha256 = hash_file(source.output / key)
        files.append(ManifestFile(path=file.path, num_bytes=num_bytes, sha256=sha256, key=key))
    inputs = {**known.inputs, "run": run, "uid": uid, "evaluation": evaluation}
    signed = make_manifest(files, created_by=known.created_by, inputs=inputs)
    place = source.output / _prefix(job, number)
    place.mkdir(parents=True)
    (place / "manifest.json").write_bytes(signed.to_bytes())
    return read_version(source.output, job, number)


def change_weights(change: Callable[[Tensors], Tensors]) -> Callable[[Path], object]:
    """Return a change of the weights alone."""

    def write(folder: Path) -> None:
        from safetensors.torch import load_file, save_file

        weights = folder / WEIGHTS
        save_file(change(load_file(weights)), weights, metadata={"format": "pt"})

    return write


def _store_answers(evaluation: Path, answers: Mapping[str, str]) -> None:
    """Replace the samples by one for each question, with the base model's answers as they are."""
    samples = evaluation / "samples.jsonl"
    known = [json.loads(line) for line in samples.read_text().splitlines()]
    rows = []
    for number, (question, answer) in enumerate(answers.items()):
        like = next((r for r in known if r["prompt"][-1]["content"] == question), known[0])
        prompt = [{"role": "user", "content": question}]
        changed = {"prompt": prompt, "tuned": answer, "references": [answer], "cut": []}
        rows.append({**like, **changed, "group": f"question-{number}"})
    samples.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _sign(folder: Path, known: Manifest) -> None:
    files = []
    for file in known.files:
        num_bytes, sha256 = hash_file(folder / file.path)
        files.append(ManifestFile(path=file.path, num_bytes=num_bytes, sha256=sha256, key=file.key))
    signed = make_manifest(files, created_by=known.created_by, inputs=known.inputs)
    (folder / "manifest.json").write_bytes(signed.to_bytes())


def _prefix(job: str, number: int) -> str:
    return f"versions/{NAMESPACE}/{job}/{number}"
