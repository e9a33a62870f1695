"""A cluster that somebody else runs, by its kubeconfig. The driver has to be installed there already."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.sim.node.api import Json
from fracgpu.sim.transport import ApiRefusedError, ApiUnreachableError
from tests.cluster.client import ClusterClient, proxied_api
from tests.cluster.errors import ClusterUnavailable
from tests.cluster.kubectl import Kubectl

IMAGE_ENV: Final = "FRACGPU_E2E_IMAGE"
KUBECTL_ENV: Final = "KUBECTL"


@contextlib.contextmanager
def foreign_cluster(kubeconfig: Path, cache: Path) -> Iterator[ClusterClient]:
    """Yield a client of the cluster; `cache` is a directory for kubectl.

    Raises:
        ClusterUnavailable: no kubectl, no image for pods, no such file, no answer, or no driver in the cluster.
        CommandFailed: kubectl cannot use the kubeconfig.

    """
    image = os.environ.get(IMAGE_ENV)
    if not image:
        what = "does not know which image the tests' pods can run"
        raise ClusterUnavailable(f"cluster of {kubeconfig}", what, remedy=f"set {IMAGE_ENV}, see docs/dev/testing.md")
    program = os.environ.get(KUBECTL_ENV) or shutil.which("kubectl")
    if not program:
        raise ClusterUnavailable("kubectl", "is not in PATH", remedy=f"install it, or name it with {KUBECTL_ENV}=")
    if not kubeconfig.is_file():
        raise ClusterUnavailable(f"kubeconfig {kubeconfig}", "is not a file", remedy="name one with KUBECONFIG=")
    kubectl = Kubectl(Path(program), kubeconfig, cache)
    with proxied_api(kubectl) as api:
        client = ClusterClient(api, kubectl, image=image)
        if not _slices(client, kubeconfig):
            what = f"has no ResourceSlice of {DRIVER_NAME}: the driver is not installed there, or publishes nothing"
            raise ClusterUnavailable(f"cluster of {kubeconfig}", what, remedy="install it: deploy/README.md")
        yield client


def _slices(client: ClusterClient, kubeconfig: Path) -> list[Json]:
    try:
        return client.slices(DRIVER_NAME)
    except (ApiRefusedError, ApiUnreachableError) as error:
        # kubectl's proxy answers for a server that it does not reach.
        what = f"does not show its ResourceSlices: {error.what}"
        raise ClusterUnavailable(f"cluster of {kubeconfig}", what, remedy="check the kubeconfig") from error
