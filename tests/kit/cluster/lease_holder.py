"""A process that leads and writes: ``python lease_holder.py KUBECONFIG NAMESPACE IDENTITY``.

While it leads it applies the ConfigMap ``written-by-<identity>`` again and again through a fenced
client. It exits with 3 when it loses the lease. A test stops it with SIGSTOP beyond its lease.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path

from finetune_operator.kube.api.client import KubeClient
from finetune_operator.kube.api.connection import load_kubeconfig
from finetune_operator.kube.api.errors import KubeError
from finetune_operator.kube.api.resource import CONFIG_MAPS
from finetune_operator.kube.api.transport import Transport
from finetune_operator.kube.clock import SystemClock
from finetune_operator.kube.leader import LeaderElector, LeadershipLost


async def main(kubeconfig: str, namespace: str, identity: str) -> int:
    """Lead until the lease is lost."""
    async with KubeClient(Transport(load_kubeconfig([Path(kubeconfig)]))) as client:
        elector = LeaderElector(
            client,
            namespace=namespace,
            name="leader",
            identity=identity,
            clock=SystemClock(),
            lease_duration_seconds=15.0,
            renew_deadline_seconds=12.0,
            retry_period_seconds=1.0,
        )
        fenced = client.fenced(elector.fence)

        async def lead() -> None:
            number = 0
            while True:
                number += 1
                obj = {
                    "metadata": {"name": f"written-by-{identity}", "namespace": namespace},
                    "data": {"number": str(number)},
                }
                # What the server could not do, on a host whose disk is busy, ends no leadership.
                with contextlib.suppress(KubeError):
                    await fenced.apply(CONFIG_MAPS, obj, field_manager=identity)
                await asyncio.sleep(0.01)

        try:
            await elector.run(lead)
        except LeadershipLost:
            return 3
    return 0


if __name__ == "__main__":
    sys.exit(asyncio.run(main(*sys.argv[1:])))
