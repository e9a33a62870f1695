"""The real cluster of a kubeconfig, used by kubectl as its users do, and by JSON where that is what a test sees."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator
from typing import Final

from fracgpu.sim.lab.cluster import ClusterUnderTest, CommandResult
from fracgpu.sim.lab.errors import CommandFailed
from fracgpu.sim.node.api import Json, KubeApi
from tests.cluster.kubectl import Kubectl
from tests.cluster.pod_command import PodCommand

WORKLOAD_IMAGE: Final = "fracgpu.test/workload:e2e"


class ClusterClient(ClusterUnderTest):
    """A client with an administrator's rights. `deadline_s` bounds every single wait, `image` is what pods run."""

    def __init__(
        self, api: KubeApi, kubectl: Kubectl, *, deadline_s: float = 90.0, image: str = WORKLOAD_IMAGE
    ) -> None:
        """Use a cluster by JSON and by kubectl; nothing is sent yet."""
        self.api, self.kubectl, self.deadline_s = api, kubectl, deadline_s
        self._image = image

    @property
    def image(self) -> str:
        """The image of pods; `make e2e` builds it."""
        return self._image

    def apply(self, manifest: str, namespace: str = "default") -> list[Json]:
        """Apply every object of a YAML manifest; return them as the API server stored them. Raises CommandFailed."""
        printed = self.kubectl.output("apply", "--namespace", namespace, "-o", "json", "-f", "-", stdin=manifest)
        # One object is printed as itself, several as a List.
        document = json.loads(printed)
        return list(document["items"]) if document["kind"] == "List" else [document]

    def logs(self, name: str, container: str | None = None, namespace: str = "default") -> str:
        """Return what a container has written, stdout and stderr together; empty before it started."""
        arguments = ["logs", "--namespace", namespace, name, *(["--container", container] if container else [])]
        return self.kubectl.run(*arguments).stdout

    def spawn(
        self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default"
    ) -> PodCommand:
        """Start a command inside a running container; raises CommandFailed."""
        return PodCommand(self.kubectl, _target(name, container, namespace), argv)

    def execute(
        self, name: str, argv: list[str], *, container: str | None = None, namespace: str = "default"
    ) -> CommandResult:
        """Run a command inside a running container to its end."""
        result = self.kubectl.run("exec", *_target(name, container, namespace), "--", *argv)
        return CommandResult(result.returncode, result.stdout, result.stderr)

    def describe_claim(self, name: str, namespace: str = "default") -> str:
        """Return what ``kubectl describe resourceclaim`` prints."""
        return self.kubectl.output("describe", "resourceclaim", "--namespace", namespace, name)


@contextlib.contextmanager
def proxied_api(kubectl: Kubectl) -> Iterator[KubeApi]:
    """Reach the cluster of any kubeconfig, whatever its credentials, through ``kubectl proxy`` on the loopback."""
    command = kubectl.command("proxy", "--port=0", "--address=127.0.0.1")
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        if "127.0.0.1:" not in line:
            raise CommandFailed("kubectl proxy", f"did not start: {line.strip()}", remedy="check the kubeconfig")
        yield KubeApi(f"http://127.0.0.1:{line.strip().rpartition(':')[2]}")
    finally:
        process.terminate()
        process.wait()


def _target(name: str, container: str | None, namespace: str) -> list[str]:
    return ["--namespace", namespace, name, *(["--container", container] if container else [])]
