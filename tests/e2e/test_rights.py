"""What the operators asked of the API server in all these tests: by its name the last of them.

On a simulated cluster `control_plane/test_rbac.py` shows that every right of the chart is used;
here nothing beyond them is asked for, on one whose kubelet, garbage collector and users are real.
"""

from __future__ import annotations

import json

import pytest

from kit.cluster.chart import NAMESPACE
from kit.cluster.devcluster import Node
from kit.cluster.rights import rules_of, used
from kit.processes.audit_log import AuditLog
from kit.processes.installation import OPERATOR_LABEL

pytestmark = pytest.mark.slow

KINDS = "roles,rolebindings,clusterroles,clusterrolebindings"


def test_the_operators_kept_to_the_rights_of_their_chart(
    installation: None, node_cluster: Node, audit: AuditLog | None
) -> None:
    if audit is None:
        pytest.skip("the node keeps no audit log: start it with `up --audit-log`")

    def installed(kinds: str, *where: str) -> list[dict]:
        found = node_cluster.kubectl("get", kinds, "-l", OPERATOR_LABEL, "-o", "json", *where)
        return json.loads(found)["items"]

    rules = rules_of(installed(KINDS, "-A"))
    accounts = installed("serviceaccounts", "-n", NAMESPACE)
    users = {f"system:serviceaccount:{NAMESPACE}:{a['metadata']['name']}" for a in accounts}
    assert len(users) == 2
    found, refused = used(audit.entries(), users)
    assert refused == []
    assert found - rules == set()
    assert ("list", "finetune.dev", "finetunejobs") in found
