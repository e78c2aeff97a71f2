"""The immutable ConfigMap with ``job.json``: what every attempt of every stage reads."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from finetune_api.names import Owner, config_map_name
from finetune_api.protocol.trainer import resolve_job, to_canonical_json
from finetune_api.uris import replace_uris
from finetune_api.v1alpha1.approval import Subject
from finetune_api.v1alpha1.finetunejob import FineTuneJob
from finetune_api.v1alpha1.status.traffic import TrafficPlace
from finetune_operator.finetunejob.render.claims import to_file_uri

JOB_FILE = "job.json"


def render_config_map(
    job: FineTuneJob,
    owner: Owner,
    *,
    required_approvals: Sequence[Subject] = (),
    traffic: Sequence[TrafficPlace] = (),
) -> dict[str, Any]:
    """Render the ConfigMap ``<job>-job``; each claim goes by the folder it is mounted at.

    Args:
        job: The FineTuneJob.
        owner: The same as the owner of its children.
        required_approvals: What the administrator's policy has a person decide on.
        traffic: Where the answers of its sources ``traffic://`` lie.
    """
    resolved = resolve_job(
        job,
        namespace=owner.namespace,
        uid=owner.uid,
        required_approvals=required_approvals,
        traffic=[each.model_copy(update={"uri": to_file_uri(each.uri)}) for each in traffic],
    ).to_wire()
    replace_uris(resolved["spec"], to_file_uri)
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": owner.metadata_of(config_map_name(owner.name)),
        "immutable": True,
        "data": {JOB_FILE: to_canonical_json(resolved)},
    }


def digest_of(config_map: dict[str, Any]) -> str:
    """Return the sha256 of ``job.json`` as it is mounted, in hex digits; of nothing without one."""
    text = (config_map.get("data") or {}).get(JOB_FILE, "")
    return hashlib.sha256(text.encode()).hexdigest()
