"""A decision on a job: what is shown before it, and the object that records it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from finetune_api.meta import API_VERSION, APPROVAL_KIND
from finetune_cli.errors import CliError
from finetune_cli.exits import NOT_MET
from finetune_cli.views.state import awaits_data_approval, is_terminal

Body = dict[str, Any]

SHORT_DIGITS = 8


def find_digest(job: Mapping[str, Any] | None, name: str, asked: str | None) -> str:
    """Return the digest to decide on: the given one, else that of the job's data set.

    Raises:
        CliError: It is not known, the job has other data, or nothing is left to decide.
    """
    if job is None:
        if asked is None:
            raise CliError(
                f"there is no FineTuneJob {name} yet; name the data set to decide on with --digest"
            )
        return asked
    if is_terminal(job):
        phase = job.get("status", {}).get("phase")
        raise CliError(
            f"FineTuneJob {name} has ended ({phase}): there is nothing to decide any more",
            exit_code=NOT_MET,
        )
    known = job.get("status", {}).get("dataset", {}).get("digest")
    if asked is not None and known is not None and asked != known:
        raise CliError(
            f"the data set of FineTuneJob {name} is {known}, not {asked}: a decision on other data "
            "would not count",
            exit_code=NOT_MET,
        )
    if known is None and asked is None:
        phase = job.get("status", {}).get("phase", "Pending")
        raise CliError(
            f"the data set of FineTuneJob {name} is not prepared yet, the job is {phase}; wait for "
            f"it: kubectl wait ftj/{name} --for=condition=DatasetReady",
            exit_code=NOT_MET,
        )
    return str(asked or known)


def check_counts(job: Mapping[str, Any] | None, user: str, *, is_approval: bool) -> None:
    """Refuse an approval that would not count: the user has requested the job.

    A rejection always counts.

    Raises:
        CliError: The administrator requires another user to approve.
    """
    if job is None or not is_approval or job["spec"].get("requestedBy") != user:
        return
    if job.get("status", {}).get("approvalPolicy", {}).get("requesterMayApprove", True):
        return
    raise CliError(
        f"{user} has requested FineTuneJob {job['metadata']['name']}, and in this namespace nobody "
        "approves a request of their own: it would not count. Somebody else has to decide",
        exit_code=NOT_MET,
    )


def describe_data(job: Mapping[str, Any] | None, digest: str) -> list[str]:
    """Return what to look at before deciding, a line each."""
    lines = [f"data set  {digest}"]
    if job is None:
        return lines
    dataset = job.get("status", {}).get("dataset", {})
    sources = ", ".join(source["uri"] for source in job["spec"]["dataset"]["sources"])
    lines.append(f"from      {sources}")
    rows = dataset.get("rows", {})
    if rows:
        sides = ("train", "training"), ("validation", "validation"), ("test", "held-out")
        told = ", ".join(f"{rows.get(side, 0)} {word}" for side, word in sides)
        left_out = dataset.get("numInvalidRows", 0)
        too_long = dataset.get("numTruncatedRows", 0)
        lines.append(f"rows      {told}; {left_out} left out, {too_long} over the length limit")
        lines.append(f"report    {dataset.get('uri', '')}/report.html")
    if job["spec"].get("requestedBy"):
        lines.append(f"asked by  {job['spec']['requestedBy']}")
    if not awaits_data_approval(job):
        lines.append("note      this job does not wait for an approval (dataset.approval)")
    return lines


def make_approval(
    *,
    job: str,
    namespace: str,
    digest: str,
    user: str,
    is_approval: bool,
    reason: str | None,
    subject: str = "DataSet",
    panel: str | None = None,
    attempt: int = 1,
) -> Body:
    """Return the FineTuneApproval, named so that one person decides once.

    Args:
        job: Name of the job.
        namespace: Its namespace.
        digest: Digest that is decided on.
        user: The user who decides.
        is_approval: Whether the user approves.
        reason: Reason of the decision.
        subject: ``DataSet`` or ``Publication``.
        panel: Digest of the panel's result that it names.
        attempt: Attempt to publish that it starts; each is decided on by itself.

    Raises:
        CliError: It would not be valid.
    """
    from finetune_api.messages.messages import explain
    from finetune_api.v1alpha1.approval import FineTuneApproval

    verb = "approved" if is_approval else "rejected"
    what = f"{verb}-publication" if subject == "Publication" else verb
    named = digest
    if panel is not None:
        what, named = "reviewed", panel
    who = hashlib.sha256(user.encode()).hexdigest()[:SHORT_DIGITS]
    again = f"-{attempt}" if attempt > 1 else ""
    spec: Body = {
        "job": job,
        "subject": subject,
        "digest": digest,
        "decision": verb.capitalize(),
        "by": user,
        "panel": panel,
        "reason": reason or None,
    }
    body: Body = {
        "apiVersion": API_VERSION,
        "kind": APPROVAL_KIND,
        "metadata": {
            "name": f"{job}-{what}-{named[:SHORT_DIGITS]}-{who}{again}",
            "namespace": namespace,
        },
        "spec": {name: value for name, value in spec.items() if value is not None},
    }
    try:
        FineTuneApproval.from_wire(body)
    except ValidationError as error:
        problems = "\n".join(str(problem) for problem in explain(error, body, kind=APPROVAL_KIND))
        raise CliError(f"this is no decision that a cluster would take:\n{problems}") from error
    return body
