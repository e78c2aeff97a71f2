"""The job's unchecked declarations: intended use, limits, provenance of rows.

Pure. The card escapes their markup.
"""

from __future__ import annotations

import re

from finetune_api.protocol.trainer import ResolvedJob

PROVENANCE_COLUMNS = ("source", "licence", "legal basis", "origin", "collected")
NOT_STATED = "not stated"
_MARKUP = re.compile(r"([\\`*_{}\[\]()#+!|~>-])")


def provenance_rows(job: ResolvedJob) -> list[list[str]]:
    """Return the cells of :data:`PROVENANCE_COLUMNS` of each source; empty if none states any."""
    sources = job.spec.dataset.sources
    if not any(source.provenance for source in sources):
        return []
    rows = []
    for source in sources:
        stated = source.provenance
        fields = (
            (stated.licence, stated.legal_basis, stated.origin, stated.collected)
            if stated
            else (None,) * 4
        )
        rows.append([source.uri, *(field or NOT_STATED for field in fields)])
    return rows


def use_facts(job: ResolvedJob) -> dict[str, str]:
    """Return intended use and limits by their headings; a text that is missing is said so."""
    card = job.spec.output.card
    return {
        "Intended use": (card.intended_use if card else None) or "Not stated by the job.",
        "Limits": (card.limits if card else None) or "Not stated by the job.",
    }


def declared_section(job: ResolvedJob) -> str:
    """Return the part of the model card that the job declares, as Markdown without its markup."""
    parts = [f"## {heading}\n\n{plain_text(text)}" for heading, text in use_facts(job).items()]
    if rows := provenance_rows(job):
        lines = [PROVENANCE_COLUMNS, ("---",) * len(PROVENANCE_COLUMNS)]
        lines += [tuple(plain_text(cell) for cell in row) for row in rows]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        parts.append(f"## Provenance of the rows\n\nAs the job states it.\n\n{table}")
    return "\n\n".join(parts)


def plain_text(text: str) -> str:
    """Return text on one line that Markdown shows as it stands: no markup, no HTML, no links."""
    line = " ".join(text.split()).replace("&", "&amp;").replace("<", "&lt;")
    # A URL that stands alone is a link in some renderers: an entity in it ends that.
    return _MARKUP.sub(r"\\\1", line).replace("://", ":&#47;&#47;")
