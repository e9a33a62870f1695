"""A rolling update to a plugin with another interceptor, and back, under pods that use their GPUs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from fracgpu.driver.names import DRIVER_NAME
from fracgpu.kubeletplugin.api.kubernetes_cluster import KubernetesCluster
from fracgpu.kubeletplugin.janitor.janitor import Janitor
from fracgpu.kubeletplugin.options import PluginOptions
from tests.cluster.cluster import Cluster
from tests.cluster.derived_image import read_from_image, write_derived_image
from tests.cluster.eventually import eventually
from tests.cluster.installation import IMAGE_TAG, PLUGIN_IMAGE
from tests.cluster.machine.layout import CDI_DIR
from tests.cluster.node_state import LIBRARIES, processes_of
from tests.cluster.worker import Worker

_NEXT_TAG = "next"
_INTERCEPTOR = "/container/libcuda.so.1"


@pytest.fixture
def next_version(cluster: Cluster, tmp_path: Path) -> Iterator[str]:
    """A version of the plugin with some bytes more in its interceptor, which is what tells versions apart."""
    archive = cluster.artifacts.images[f"{PLUGIN_IMAGE}:{IMAGE_TAG}"]
    path, content = read_from_image(archive, _INTERCEPTOR)
    derived = tmp_path / "next.tar"
    write_derived_image(derived, archive, f"{PLUGIN_IMAGE}:{_NEXT_TAG}", {path: content + b"another build"})
    cluster.runtime.import_image(derived)
    yield _NEXT_TAG
    cluster.installation.set_image(IMAGE_TAG)


def _libraries() -> set[str]:
    return {path.name for path in LIBRARIES.iterdir()}


def _spec(worker: Worker) -> str:
    (path,) = CDI_DIR.glob(f"*{worker.claim()['metadata']['uid']}*")
    return path.read_text()


def _mapped(worker: Worker) -> set[str]:
    """Return the versions of the interceptor that processes of the pod have mounted."""
    mounts = "".join(
        Path(f"/proc/{process}/mountinfo").read_text() for process in processes_of(worker.pod(), "python3")
    )
    return {name for name in _libraries() if f"/{name}/" in mounts}


def _sweep(cluster: Cluster, own: str) -> None:
    """Do what the plugin's janitor does in the course of ten minutes, with the patience taken out."""
    options = PluginOptions(node_name=cluster.node_name, allocator="scheduler")
    api = KubernetesCluster(cluster.plane.admin_kubeconfig)
    janitor = Janitor(options=options, cluster=api, library_digest=own, grace_seconds=0)
    for _ in range(3):
        janitor.sweep()
    api.close()


def test_an_upgrade_disturbs_no_pod_and_gives_new_pods_the_new_library(
    cluster: Cluster, namespace: str, next_version: str
) -> None:
    (old,) = _libraries()
    on_old = Worker.start(cluster, namespace, "on-old")
    container = on_old.container()
    (before,) = cluster.slices(DRIVER_NAME)

    cluster.installation.set_image(next_version)

    on_old.more()
    (new,) = _libraries() - {old}
    on_new = Worker.start(cluster, namespace, "on-new")
    assert (_mapped(on_old), _mapped(on_new)) == ({old}, {new})
    assert old in _spec(on_old)
    assert old not in _spec(on_new)
    # One slice all the time: the new plugin came before the old one went.
    (after,) = cluster.slices(DRIVER_NAME)
    assert after["metadata"]["uid"] == before["metadata"]["uid"]

    _sweep(cluster, new)
    assert _libraries() == {old, new}
    on_old.more()
    assert on_old.container() == container
    cluster.delete_pod("on-old", namespace)
    _sweep(cluster, new)
    assert _libraries() == {new}
    on_new.more()

    # And back, under a pod of the version that is taken back.
    cluster.installation.set_image(IMAGE_TAG)
    on_new.more()
    assert _libraries() == {old, new}
    cluster.delete_pod("on-new", namespace)
    eventually(lambda: not list(CDI_DIR.iterdir()), what="end of the CDI specs")
    _sweep(cluster, old)
    assert _libraries() == {old}
