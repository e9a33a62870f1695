"""Where the kubelet of this node keeps its files.

Nearly everywhere that is /var/lib/kubelet, but some distributions of Kubernetes put it elsewhere, and a plugin that
registers where no kubelet looks is never called. Not asked of the kubelet itself: its command line is not ours to see
from a container.
"""

from pathlib import Path
from typing import Final

DEFAULT_KUBELET_ROOT: Final = Path("/var/lib/kubelet")
# MicroK8s, k0s, IBM Cloud, RKE on read-only systems, TKGI.
_ELSEWHERE: Final = (
    Path("/var/snap/microk8s/common/var/lib/kubelet"),
    Path("/var/lib/k0s/kubelet"),
    Path("/var/data/kubelet"),
    Path("/opt/rke/var/lib/kubelet"),
    Path("/var/vcap/data/kubelet"),
)
_REGISTRY: Final = "plugins_registry"


def find_kubelet_root(host_root: Path) -> Path:
    """Return the kubelet's root directory, as the host calls it, looked for below `host_root`.

    A root with a plugin registry wins over one that merely exists, because other software leaves empty directories at
    the usual place; without any it is the usual place.
    """
    candidates = (DEFAULT_KUBELET_ROOT, *_ELSEWHERE)
    for wanted in (_REGISTRY, "."):
        for root in candidates:
            if (host_root / root.relative_to("/") / wanted).is_dir():
                return root
    return DEFAULT_KUBELET_ROOT
