"""``finetune queue``: who runs, who waits, in which place and why."""

from __future__ import annotations

import json
import threading
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from finetune_cli.cluster.client import Cluster
from finetune_cli.views.job import queue_text
from finetune_cli.views.queue import entries, lines, queues_of

NOW = datetime(2026, 11, 25, 12, 0, tzinfo=UTC)


def job(name, phase, *, queue="team", namespace="a", reason="", place=None, ends=None, **spec):
    told = {"phase": phase, "reason": reason, "conditions": []}
    if queue:
        told["queue"] = {"localQueue": queue, "workload": f"job-{name}"}
    if place:
        told["queue"] |= {"position": place, "positionInLocalQueue": 1}
    if ends:
        told["progress"] = {"estimatedCompletionTime": ends}
    if phase == "Succeeded":
        told["conditions"] = [{"type": "Complete", "status": "True"}]
    return {
        "metadata": {
            "name": name,
            "namespace": namespace,
            "creationTimestamp": f"2026-11-25T11:{len(name):02}:00Z",
        },
        "spec": {"queueName": queue, **spec} if queue else spec,
        "status": told,
    }


def pending(name, place, priority=0):
    return {
        "metadata": {"name": f"job-{name}"},
        "positionInClusterQueue": place,
        "positionInLocalQueue": 0,
        "priority": priority,
    }


JOBS = [
    job("last", "Queued", reason="Pending", place=9),
    job("next", "Queued", reason="Preempted", priorityClassName="low"),
    job("runs", "Training", reason="Running", ends="2026-11-25T12:35:10Z"),
    job("over", "Succeeded"),
    job("alone", "Training", queue=""),
    job("other", "Queued", queue="more", namespace="b"),
]


def test_running_jobs_come_first_then_the_line():
    said = {("a", "team"): [pending("foreign", 0), pending("next", 1, 7), pending("last", 2)]}
    found = entries(JOBS, said, "team")
    assert [(e.name, e.place, e.priority) for e in found] == [
        ("runs", None, ""), ("next", 2, "low (7)"), ("last", 3, "0"),
    ]  # fmt: skip
    shown = lines(found, NOW, is_wide=False, with_namespace=False)
    assert shown[0].split() == [
        "QUEUE", "PLACE", "NAME", "PHASE", "PRIORITY", "AGE", "ENDS", "REASON",
    ]  # fmt: skip
    assert shown[1].split() == ["team", "runs", "Training", "56m", "in", "35m", "Running"]
    assert "Preempted" in shown[2]


def test_without_the_visibility_api_the_operators_places_stand():
    found = entries(JOBS, {("a", "team"): None}, "team")
    assert {e.name: e.place for e in found} == {"runs": None, "next": None, "last": 9}


def test_a_job_that_kueue_does_not_have_in_the_line_has_no_place():
    (last,) = [e for e in entries(JOBS, {("a", "team"): []}, "team") if e.name == "last"]
    assert last.place is None


def test_all_queues_of_unfinished_jobs_are_asked_for():
    assert queues_of(JOBS, None) == [("a", "team"), ("b", "more")]
    assert queues_of(JOBS, "more") == [("b", "more")]


def test_a_queue_that_kueue_chose_is_a_queue():
    chosen = job("default", "Queued")
    del chosen["spec"]["queueName"]
    assert queues_of([chosen], None) == [("a", "team")]


def test_describe_says_where_a_job_stands():
    waits = job("waits", "Queued", place=3, priorityClassName="low")
    assert queue_text(waits) == "team, place 3, priority low"
    assert queue_text(job("alone", "Training", queue="")) == ""


class Visibility(BaseHTTPRequestHandler):
    """Kueue's visibility API, in one version, for one queue; and nothing else."""

    def do_GET(self) -> None:
        queue = "/v1beta1/namespaces/a/localqueues/team/pendingworkloads"
        is_there = self.path.startswith("/apis/visibility.kueue.x-k8s.io" + queue)
        body = json.dumps({"items": [pending("next", 4)]} if is_there else {"message": "no"})
        self.send_response(200 if is_there else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body.encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def cluster(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Visibility)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    config = {
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "users": [{"name": "u", "user": {}}],
        "current-context": "c",
    }
    (tmp_path / "kubeconfig").write_text(json.dumps(config))
    yield Cluster.connect(context=None, namespace="a", kubeconfig=tmp_path / "kubeconfig")
    server.shutdown()
    server.server_close()
    thread.join()


def test_places_are_asked_for_in_the_version_that_is_served_and_may_be_missing(cluster):
    found, why = cluster.list_pending([("a", "team"), ("a", "other")])
    assert found == {("a", "team"): [pending("next", 4)], ("a", "other"): None}
    assert "queue a/other" in why
