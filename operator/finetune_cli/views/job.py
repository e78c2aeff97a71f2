"""How a FineTuneJob from a cluster is shown; pure functions over the object as a dict."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from finetune_cli.views.display import duration_text
from finetune_cli.views.layout import age, conditions, facts, section, table
from finetune_cli.views.state import Body, awaits_data_approval, condition


def metric(job: Body, name: str) -> str:
    """Return the latest value of a training metric, or nothing."""
    metrics = job.get("status", {}).get("metrics", [])
    return next((str(m.get("value", "")) for m in metrics if m.get("name") == name), "")


def describe(job: Body, events: Iterable[Body], now: datetime) -> list[str]:
    """Return the lines of ``finetune status``."""
    lines: list[str] = []
    lines += facts(_overview(job, now))
    lines += section("Progress", facts(_progress(job)))
    lines += section("Conditions", conditions(job, now))
    lines += section("Data set", facts(_dataset(job)))
    lines += section("Plan", facts(_plan(job)))
    lines += section("Cost", facts(_cost(job)))
    lines += section("Evaluation", _evaluation(job))
    lines += section("Adapter", facts(_artifact(job)))
    lines += section("Incidents", _incidents(job, now))
    lines += section("Last failure", facts(_failure(job)))
    lines += section("Events", _events(events, now))
    return lines


def _overview(job: Body, now: datetime) -> dict[str, Any]:
    metadata, spec, status = job["metadata"], job["spec"], job.get("status", {})
    resources = spec.get("resources", {})
    return {
        "Name": f"{metadata.get('namespace', 'default')}/{metadata['name']}",
        "Phase": status.get("phase", "Pending"),
        "Age": age(metadata.get("creationTimestamp"), now),
        "Requested by": spec.get("requestedBy"),
        "Approvals": approval_text(status),
        "Model": spec["model"]["uri"],
        **_origin(spec.get("initFrom", {})),
        "Data": ", ".join(source["uri"] for source in spec["dataset"]["sources"]),
        "Output": spec["output"]["uri"],
        "Nodes": nodes_text(resources),
        "Queue": queue_text(job),
        "Suspended": "yes" if spec.get("suspend") else None,
        "Tracked at": ", ".join(status.get("tracking", {}).get("uris", [])) or None,
        "Not tracked": status.get("tracking", {}).get("message"),
        "Held after": spec.get("holdAfter"),
        "Prune": "yes" if spec.get("prune") else None,
    }


def approval_text(status: Body) -> str | None:
    """Return what the administrator asks about approvals of a job, where anything."""
    policy = status.get("approvalPolicy", {})
    words = []
    if policy.get("required"):
        words.append(f"the namespace's policy asks for one of {', '.join(policy['required'])}")
    if not policy.get("requesterMayApprove", True):
        words.append("the requester's own do not count")
    if policy.get("reviewersAreUsers"):
        words.append("each reviewer approves the panel's result as a user")
    return "; ".join(words) or None


def _origin(origin: Body) -> dict[str, Any]:
    label = "Trains nothing, takes" if origin.get("train") is False else "Begins from"
    return {label: origin.get("uri")}


def queue_text(job: Body) -> str:
    """Return where a job stands: ``team-a, place 3, priority low``."""
    spec, told = job["spec"], job.get("status", {}).get("queue", {})
    queue = told.get("localQueue") or spec.get("queueName") or ""
    place = f"place {told['position']}" if told.get("position") else ""
    priority = f"priority {spec['priorityClassName']}" if spec.get("priorityClassName") else ""
    return ", ".join(part for part in (queue, place, priority) if part) if queue else ""


def nodes_text(resources: Mapping[str, Any]) -> str:
    """Return what a job trains on: ``2 with 8 GPUs each``."""
    nodes, gpus = resources.get("nodes", 1), resources.get("gpusPerNode", 1)
    if not gpus:
        return f"{nodes} without GPUs"
    return f"{nodes} with {gpus} GPU{'s' if gpus > 1 else ''}{' each' if nodes > 1 else ''}"


def _progress(job: Body) -> dict[str, Any]:
    status = job.get("status", {})
    progress = status.get("progress", {})
    step, total = progress.get("step"), progress.get("totalSteps")
    attempts = status.get("attempts", {})
    metrics = ", ".join(f"{m['name']} {m['value']}" for m in status.get("metrics", []))
    return {
        "Stage": progress.get("stage"),
        "Step": None if step is None else f"{step}/{total}" if total else step,
        "Epoch": progress.get("epoch"),
        "Expected end": progress.get("estimatedCompletionTime"),
        "Metrics": metrics or None,
        "Validation": _validation(status.get("validation", {})),
        "Validation score": _validation_score(status.get("selection", {}).get("score", {})),
        "Pods started": attempts.get("total"),
        "Failures counted": attempts.get("counted") or None,
        "Preemptions": attempts.get("preemptions") or None,
    }


def _validation(told: Body) -> str | None:
    """Return the validation losses: ``best 0.41 at step 40; 20: 0.52, 40: 0.41``."""
    points = ", ".join(f"{point['step']}: {point['loss']}" for point in told.get("curve", []))
    best = f"best {told['bestLoss']} at step {told['bestStep']}" if told.get("bestLoss") else ""
    return "; ".join(part for part in (best, points) if part) or None


def _validation_score(told: Body) -> str | None:
    """Return the score on validation rows: ``exactMatch 0.91 [0.84, 0.95] on 9 rows``."""
    if not told:
        return None
    if not told.get("value"):
        return f"{told['metric']} not measured: {told.get('reason')}: {told.get('message')}"
    bounds = f"[{told.get('low')}, {told.get('high')}]"
    return f"{told['metric']} {told['value']} {bounds} on {told.get('numSamples')} rows"


def _dataset(job: Body) -> dict[str, Any]:
    dataset = job.get("status", {}).get("dataset", {})
    rows = dataset.get("rows", {})
    sides = [side for side in ("train", "validation", "test") if side in rows]
    return {
        "Version": dataset.get("digest"),
        "Rows": ", ".join(f"{rows[side]} {side}" for side in sides) or None,
        "Tokens": dataset.get("numTokens"),
        "Invalid rows": dataset.get("numInvalidRows"),
        "The first": _invalid_rows(dataset),
        "Truncated rows": dataset.get("numTruncatedRows"),
        "Questions asked": dataset.get("questions", {}).get("message"),
        "Decision": decision_text(job),
    }


def decision_text(job: Body) -> str | None:
    """Return who decided on the data set, where somebody has to."""
    made = job.get("status", {}).get("dataApproval")
    if made:
        why = f": {made['reason']}" if made.get("reason") else ""
        return f"{made['decision']} by {made['by']} ({made.get('time', '')}){why}"
    is_known = bool(job.get("status", {}).get("dataset", {}).get("digest"))
    if not is_known or not awaits_data_approval(job):
        return None
    told = condition(job, "DataApproved")
    own = " that counts" if told.get("reason") == "ApprovedByRequester" else ""
    return f"none yet{own}: finetune approve {job['metadata']['name']}"


def _plan(job: Body) -> dict[str, Any]:
    plan = job.get("status", {}).get("plan", {})
    if not plan:
        return {}
    if not plan.get("totalSteps"):
        reasons = [each["reason"] for each in plan.get("reasons", [])]
        return {"Steps": "none", "Why": "; ".join(reasons)}
    memory = plan.get("memory", {})
    return {
        "Steps": f"{plan.get('totalSteps')} of {plan.get('globalBatchSize')} examples",
        "Batch": f"{plan.get('microBatchSize')} micro x {plan.get('accumulationSteps')} "
        f"accumulation x {plan.get('worldSize')} rank(s)",
        "Learning rate": plan.get("learningRate"),
        "Training": f"{plan.get('precision')}, {plan.get('layout')}, {plan.get('strategy')}",
        "Memory": f"about {memory.get('total', 0) / 2**30:.1f} of "
        f"{memory.get('available', 0) / 2**30:.1f} GiB per rank",
    }


def _cost(job: Body) -> dict[str, Any]:
    """Return the estimated cost, the cost so far, and the budget."""
    status, budget = job.get("status", {}), job["spec"].get("budget", {})
    estimate, cost = status.get("estimate", {}), status.get("cost", {})
    gpus, hourly = estimate.get("gpus"), estimate.get("hourlyAmount")
    return {
        "Training holds": gpus and f"{gpus} GPU(s){f', {hourly} an hour' if hourly else ''}",
        "Estimate": _estimate_text(estimate),
        "Rests on": estimate.get("message"),
        "So far": _hours_text(cost),
        "Budget": _hours_text(budget),
    }


def _estimate_text(estimate: Body) -> str | None:
    answers, training = estimate.get("validationSeconds"), "training"
    if answers:
        training += f" ({duration_text(answers)} of it answers to validation rows)"
    times = ", ".join(
        f"{duration_text(estimate[name])} of {what}"
        for name, what in (("trainSeconds", training), ("evaluateSeconds", "evaluation"))
        if estimate.get(name)
    )
    parts = [f"about {times}" if times else "", _hours_text(estimate) or ""]
    return ": ".join(filter(None, parts)) or None


def _hours_text(told: Body) -> str | None:
    hours, amount = told.get("gpuHours"), told.get("amount")
    parts = [f"{hours} GPU hours" if hours else "", f"an amount of {amount}" if amount else ""]
    return ", ".join(filter(None, parts)) or None


def _evaluation(job: Body) -> list[str]:
    evaluation = job.get("status", {}).get("evaluation", {})
    rows = [
        [s["name"], s["base"], s.get("baseline", ""), s["tuned"], s.get("published", "")]
        for s in evaluation.get("scores", [])
    ]
    columns = ["METRIC", "BASE", "ASKED", "TUNED", "PUBLISHED"]
    if not any(row[-1] for row in rows):
        rows, columns = [row[:-1] for row in rows], columns[:-1]
    if not rows:
        return []
    told = {
        "Goal met": {True: "yes", False: "no"}.get(evaluation.get("goalMet")),
        "Goal": evaluation.get("message"),
        "Samples": evaluation.get("numSamples"),
        "Look": evaluation.get("look", {}).get("message"),
        "Judge": _judge_text(evaluation.get("judge")),
        "Published version": evaluation.get("publishedVersion"),
        "Published meanwhile": evaluation.get("newerVersion"),
        "Report": evaluation.get("reportUri"),
    }
    gates = [
        [g["name"], _gate_verdict(g), g.get("message", "")] for g in evaluation.get("gates", [])
    ]
    return [
        *table(rows, columns),
        *(table(gates, ("GATE", "VERDICT", "WHY")) if gates else ()),
        *facts(told),
    ]


def _judge_text(judge: Body | None) -> str | None:
    if judge is None:
        return None
    words = [f"{judge.get('rows', 0)} questions judged"]
    if "agreement" in judge:
        words.append(f"agrees with itself on {judge['agreement']} of the pairs")
    return "; ".join([*words, *([judge["message"]] if "message" in judge else [])])


def _gate_verdict(gate: Body) -> str:
    if gate.get("applicable") is False:
        return "not applicable"
    if gate["met"]:
        return "met"
    return "missed" if gate.get("severity") == "Block" else "missed (warning)"


def _artifact(job: Body) -> dict[str, Any]:
    artifact = job.get("status", {}).get("artifact", {})
    return {
        "URI": artifact.get("uri"),
        "Version": artifact.get("version"),
        "Decision": _publication_text(job),
        "SHA-256": artifact.get("sha256"),
        "Bytes": artifact.get("bytes"),
        "Manifest": artifact.get("manifestUri"),
    }


def _publication_text(job: Body) -> str | None:
    """Return who decided on the publication, if anyone did."""
    made = job.get("status", {}).get("publication")
    if not made:
        return None
    return f"{made['decision']} by {made['by']} ({made.get('time', '')}): {made.get('reason', '')}"


def _incidents(job: Body, now: datetime) -> list[str]:
    """Return a line for each of the last ends of attempts, oldest first."""
    columns = ("CLASS", "REASON", "STAGE", "RANK", "NODE", "STEPS", "COUNTED", "AGE")
    rows = []
    for entry in job.get("status", {}).get("attempts", {}).get("history", []):
        steps = [str(entry[key]) for key in ("fromStep", "toStep") if key in entry]
        rows.append(
            [
                entry.get("class", ""),
                entry.get("reason", ""),
                entry.get("stage", ""),
                str(entry.get("rank", "")),
                entry.get("node", ""),
                " to ".join(steps),
                "yes" if entry.get("counted") else "no",
                age(entry.get("time"), now),
            ]
        )
    return table(rows, columns) if rows else []


def _failure(job: Body) -> dict[str, Any]:
    failure = job.get("status", {}).get("lastFailure", {})
    return {
        "Class": failure.get("class"),
        "Reason": failure.get("reason"),
        "Stage": failure.get("stage"),
        "Exit code": failure.get("exitCode"),
        "Pod": failure.get("pod"),
        "Node": failure.get("node"),
        "Time": failure.get("time"),
        "Message": failure.get("message"),
        "Rows": _invalid_rows(failure),
    }


def _invalid_rows(holder: Body) -> str | None:
    rows = holder.get("invalidRows", [])
    return ", ".join(f"{row['file']}:{row['line']} {row['reason']}" for row in rows) or None


def _events(events: Iterable[Body], now: datetime) -> list[str]:
    rows = [
        [
            event.get("type", ""),
            event.get("reason", ""),
            age(event.get("lastTimestamp") or event.get("eventTime"), now),
            str(event.get("count") or 1),
            event.get("message", ""),
        ]
        for event in events
    ]
    return table(rows, ("TYPE", "REASON", "AGE", "COUNT", "MESSAGE")) if rows else []
