"""``pvc://claim/path``: a folder on a PersistentVolumeClaim of the job's own namespace.

The trainer knows only files: the claim is mounted at a fixed folder and ``job.json`` names that
folder. Results are reported the other way round, so that nobody reads a pod's path in a status.
"""

from __future__ import annotations

import re
from typing import Any

from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec

CLAIMS_DIR = "/var/lib/finetune/claims"
_CLAIM_URI = re.compile(r"^pvc://([a-z0-9]([-a-z0-9.]*[a-z0-9])?)(/.*)?$")


def parse_claim_uri(uri: str) -> tuple[str, str] | None:
    """Split ``pvc://claim/path`` into (claim, path); None if it is not well formed.

    A path with ``..`` is not well formed: it would leave the claim.
    """
    match = _CLAIM_URI.match(uri)
    if not match:
        return None
    path = (match[3] or "").strip("/")
    if any(part in (".", "..") for part in path.split("/")):
        return None
    return match[1], path


def to_file_uri(uri: str) -> str:
    """Return the URI the trainer opens; anything but ``pvc://`` passes unchanged."""
    parsed = parse_claim_uri(uri)
    if parsed is None:
        return uri
    claim, path = parsed
    return f"file://{CLAIMS_DIR}/{claim}/{path}".rstrip("/")


def to_claim_uri(uri: str) -> str:
    """Return the URI a user knows; the reverse of :func:`to_file_uri`."""
    prefix = f"file://{CLAIMS_DIR}/"
    return f"pvc://{uri[len(prefix) :]}" if uri.startswith(prefix) else uri


def with_file_uris(spec: FineTuneJobSpec) -> FineTuneJobSpec:
    """Replace every ``pvc://`` URI of a spec by the folder its claim is mounted at."""
    if not claims_of(spec):
        return spec

    def moved(part: Any) -> Any:
        return part.model_copy(update={"uri": to_file_uri(part.uri)})

    contamination = spec.dataset.contamination
    if contamination is not None:
        against = [moved(benchmark) for benchmark in contamination.against]
        contamination = contamination.model_copy(update={"against": against})
    dataset = spec.dataset.model_copy(
        update={
            "sources": [moved(source) for source in spec.dataset.sources],
            "contamination": contamination,
        }
    )
    model = moved(spec.model)
    template = spec.model.chat_template
    if template is not None and template.uri is not None:
        model = model.model_copy(update={"chat_template": moved(template)})
    schema, evaluation = spec.evaluation.json_schema, spec.evaluation
    if schema is not None and schema.uri is not None:
        evaluation = evaluation.model_copy(update={"json_schema": moved(schema)})
    forgetting = evaluation.forgetting
    if forgetting is not None and forgetting.texts is not None:
        forgetting = forgetting.model_copy(update={"texts": moved(forgetting.texts)})
        evaluation = evaluation.model_copy(update={"forgetting": forgetting})
    return spec.model_copy(
        update={
            "model": model,
            "evaluation": evaluation,
            "dataset": dataset,
            "output": moved(spec.output),
            "init_from": moved(spec.init_from) if spec.init_from else None,
        }
    )


def claims_of(spec: FineTuneJobSpec) -> dict[str, bool]:
    """Return the claims a spec names, each with whether it is only read."""
    claims: dict[str, bool] = {}
    reads = [spec.model.uri, *(source.uri for source in spec.dataset.sources)]
    reads += [benchmark.uri for benchmark in spec.dataset.benchmarks]
    reads += [spec.init_from.uri] if spec.init_from else []
    if spec.model.chat_template is not None:
        reads.append(spec.model.chat_template.uri or "")
    if spec.evaluation.json_schema is not None:
        reads.append(spec.evaluation.json_schema.uri or "")
    if spec.evaluation.forgetting is not None and spec.evaluation.forgetting.texts is not None:
        reads.append(spec.evaluation.forgetting.texts.uri)
    for uri, read_only in [*((uri, True) for uri in reads), (spec.output.uri, False)]:
        parsed = parse_claim_uri(uri)
        if parsed is not None:
            claims[parsed[0]] = claims.get(parsed[0], True) and read_only
    return claims
