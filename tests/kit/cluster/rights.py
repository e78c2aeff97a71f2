"""Rights as (verb, group, resource): what roles grant, and what an audit log shows to be used."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Right = tuple[str, str, str]

# Discovery and reviews of oneself: what every authenticated user may do.
COMMON = {"selfsubjectaccessreviews", "selfsubjectrulesreviews"}


def rules_of(documents: Iterable[dict[str, Any]]) -> set[Right]:
    """Return what those of the roles grant that are bound to somebody."""
    known = list(documents)
    bound = {document["roleRef"]["name"] for document in known if "roleRef" in document}
    return {
        (verb, group, resource)
        for document in known
        if document["metadata"]["name"] in bound and "rules" in document
        for rule in document["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def used(entries: Iterable[dict[str, Any]], users: set[str]) -> tuple[set[Right], list[str]]:
    """Return what some users asked for, and what of it was refused."""
    found, refused = set(), []
    for entry in entries:
        reference = entry["objectRef"]
        resource = reference["resource"]
        if entry["user"]["username"] not in users or resource in COMMON:
            continue
        if reference.get("subresource"):
            resource += f"/{reference['subresource']}"
        right = (entry["verb"], reference.get("apiGroup", ""), resource)
        if entry["responseStatus"].get("code") == 403:
            refused.append(f"{right}: {entry['responseStatus'].get('message')}")
        found.add(right)
    return found, refused
