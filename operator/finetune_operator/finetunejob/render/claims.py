"""``pvc://claim/path``: a folder on a PersistentVolumeClaim of the job's own namespace.

The trainer knows only files: the claim is mounted at a fixed folder and ``job.json`` names that
folder. Results are reported the other way round, so that nobody reads a pod's path in a status.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

from finetune_api.paths import normal_path
from finetune_api.uris import OUTPUT_FIELD, find_uris
from finetune_api.v1alpha1.finetunejob import FineTuneJobSpec
from finetune_api.v1alpha1.status.traffic import TrafficPlace

CLAIMS_DIR = "/var/lib/finetune/claims"
_CLAIM_URI = re.compile(r"^pvc://([a-z0-9]([-a-z0-9.]*[a-z0-9])?)(/.*)?$", re.DOTALL)


def parse_claim_uri(uri: str) -> tuple[str, str] | None:
    """Split ``pvc://claim/path`` into (claim, path); None if it is not well formed.

    A path with ``..`` is not well formed: it would leave the claim. The trainer decodes ``%2e`` and
    drops tabs, so the path is judged as the trainer reads it.
    """
    match = _CLAIM_URI.fullmatch(uri)
    if not match:
        return None
    path = (match[3] or "").strip("/")
    try:
        normal_path("/" + unquote(path))
    except ValueError:
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


def claims_of(spec: FineTuneJobSpec, traffic: Sequence[TrafficPlace] = ()) -> dict[str, bool]:
    """Return the claims that a spec and its traffic name, each with whether it is only read."""
    places = (parse_claim_uri(each.uri) for each in traffic)
    claims = {place[0]: True for place in places if place is not None}
    for place, uri in find_uris(spec.to_wire()):
        parsed = parse_claim_uri(uri)
        if parsed is not None:
            claims[parsed[0]] = claims.get(parsed[0], True) and place != OUTPUT_FIELD
    return claims
