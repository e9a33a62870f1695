"""Reads a claim from an API server that may be away for a moment.

The kubelet has read the claim itself just before it calls, so an API server that does not answer now has mostly gone
only now, to be back in seconds. A Prepare that fails is no sync error to the kubelet (1.36.3, kuberuntime_manager.go):
the pod is tried again when it is synced the next time, 60 to 90 s later. So a short wait here saves a long one there.

It is short because the thread that waits is one of those that Unprepares need, which ask nobody.
"""

import time
from collections.abc import Callable
from typing import Final

from fracgpu.driver.kube.errors import Unavailable
from fracgpu.kubeletplugin.api.cluster import ClusterApi, Json
from fracgpu.kubeletplugin.prepare.claim import ClaimRef
from fracgpu.kubeletplugin.prepare.deadline import Deadline

PAUSES_SECONDS: Final = (0.2, 0.5, 1.0, 2.0, 2.0, 2.0, 2.0, 2.0, 2.0)
"""Between two attempts; all together 13.7 s, to which come those in which the server is silent instead of away."""


def read_patiently(
    cluster: ClusterApi, ref: ClaimRef, deadline: Deadline, *, sleep: Callable[[float], None] = time.sleep
) -> Json:
    """Return the claim, asked for again after each of PAUSES_SECONDS that fits before `deadline`.

    Raises Unavailable, that of the last attempt; any other ClusterError at once.
    """
    for pause in PAUSES_SECONDS:
        try:
            return cluster.get_claim(ref.namespace, ref.name, timeout_seconds=deadline.remaining_seconds)
        except Unavailable:
            if deadline.remaining_seconds <= pause:
                raise
        sleep(pause)
    return cluster.get_claim(ref.namespace, ref.name, timeout_seconds=deadline.remaining_seconds)
