"""Pods on a node: phases, exit codes, restarts, deletion."""

import os
import select
import subprocess
from pathlib import Path
from typing import Any

import pytest

from fracgpu.sim.node.api import Json
from fracgpu.sim.node.errors import ContainerStartError
from fracgpu.sim.node.node import Node


def container(pod: Json, index: int = 0) -> Json:
    statuses = pod["status"].get("containerStatuses") or []
    return statuses[index] if statuses else {"state": {}, "restartCount": 0}


def conditions(pod: Json) -> dict[str, str]:
    return {one["type"]: one["status"] for one in pod["status"]["conditions"]}


def exists(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"


class Signal:
    """A named pipe: containers say through it how far they are, and a test waits without asking again and again."""

    def __init__(self, path: Path) -> None:
        os.mkfifo(path)
        self.path = path
        # Open at both ends: what was written stays in the pipe after the writer has closed it.
        self._descriptor = os.open(path, os.O_RDWR)

    def wait(self) -> str:
        ready, _, _ = select.select([self._descriptor], [], [], 30)
        assert ready, "the container did not write"
        return os.read(self._descriptor, 4096).decode()


@pytest.fixture
def said(tmp_path: Path) -> Signal:
    return Signal(tmp_path / "said")


def log(node: Node, pod: Json, name: str | None = None) -> str:
    return node.log(pod, name).decode()


def test_the_node_object_is_ready(running: Any) -> None:
    node = running.api.get("/api/v1/nodes/node-1")
    assert {one["type"]: one["status"] for one in node["status"]["conditions"]} == {"Ready": "True"}
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == "node-1"


def test_a_pod_runs_and_is_ready(running: Any) -> None:
    running.pod("p", "echo hello; echo trouble >&2; sleep 1000")
    pod = running.wait_phase("p", "Running")
    assert conditions(pod)["Ready"] == "True"
    assert container(pod)["ready"]
    assert "startedAt" in container(pod)["state"]["running"]
    assert container(pod)["restartCount"] == 0


@pytest.mark.parametrize(
    ("script", "phase", "code", "reason"),
    [
        ("echo out", "Succeeded", 0, "Completed"),
        ("exit 3", "Failed", 3, "Error"),
        ("kill -9 $$", "Failed", 137, "Error"),
    ],
    ids=["success", "failure", "killed"],
)
def test_a_pod_that_is_not_restarted_ends(running: Any, script: str, phase: str, code: int, reason: str) -> None:
    running.pod("p", script)
    pod = running.wait_phase("p", phase)
    ended = container(pod)["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, reason)
    assert conditions(pod)["Ready"] == "False"


def test_output_is_kept(running: Any) -> None:
    running.pod("p", "echo out; echo err >&2")
    pod = running.wait_phase("p", "Succeeded")
    assert log(running.nodes[0], pod) == "out\nerr\n"


def test_a_command_that_does_not_exist_is_a_start_error(running: Any) -> None:
    running.pod("p", containers=[{"name": "main", "image": "none", "command": ["no-such-command"]}])
    pod = running.wait_phase("p", "Failed")
    ended = container(pod)["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (128, "StartError")
    assert "no-such-command" in ended["message"]


def test_a_pod_without_command_is_a_create_error(running: Any) -> None:
    running.pod("p", containers=[{"name": "main", "image": "none"}])
    event = running.wait_event("Failed")
    assert "has no command" in event["message"]
    pod = running.wait_pod("p", lambda pod: "CreateContainerError" in str(pod["status"]))
    assert pod["status"]["phase"] == "Pending"


@pytest.mark.parametrize(
    "changes",
    [
        {"hostUsers": False},
        {"containers": [{"name": "main", "image": "x", "command": ["env"], "securityContext": {"runAsUser": 1000}}]},
        {"securityContext": {"runAsUser": 1000}},
        {
            "containers": [
                {
                    "name": "main",
                    "image": "x",
                    "command": ["env"],
                    "env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
                }
            ]
        },
    ],
    ids=["user namespace", "user", "user of all", "env from fields"],
)
def test_what_the_node_cannot_do_it_says(running: Any, changes: dict[str, Any]) -> None:
    running.pod("p", **changes)
    assert "does not support" in running.wait_event("Failed")["message"]


def test_a_failing_container_is_restarted(running: Any) -> None:
    marker = running.base / "ran"
    running.pod("p", f"[ -e {marker} ] && exec sleep 1000; touch {marker}; exit 5", restartPolicy="OnFailure")
    pod = running.wait_pod("p", lambda pod: "running" in container(pod)["state"] and container(pod)["restartCount"])
    assert container(pod)["restartCount"] == 1
    assert container(pod)["lastState"]["terminated"]["exitCode"] == 5


def test_a_container_that_keeps_failing_backs_off(running: Any) -> None:
    running.pod("p", "exit 1", restartPolicy="Always")
    pod = running.wait_pod("p", lambda pod: "CrashLoopBackOff" in str(container(pod)["state"]))
    assert pod["status"]["phase"] == "Running"
    running.wait_pod("p", lambda pod: container(pod)["restartCount"] >= 3)


def test_success_is_not_restarted_on_failure_policy(running: Any) -> None:
    running.pod("p", "exit 0", restartPolicy="OnFailure")
    assert container(running.wait_phase("p", "Succeeded"))["restartCount"] == 0


def test_two_containers_end_independently(running: Any) -> None:
    command = ["sh", "-c"]
    running.pod(
        "p",
        containers=[
            {"name": "short", "image": "none", "command": [*command, "exit 0"]},
            {"name": "long", "image": "none", "command": [*command, "sleep 1000"]},
        ],
    )
    pod = running.wait_pod(
        "p", lambda pod: "terminated" in container(pod)["state"] and "running" in container(pod, 1)["state"]
    )
    assert pod["status"]["phase"] == "Running"
    assert conditions(pod)["Ready"] == "False"


def test_environment_and_arguments(running: Any) -> None:
    running.pod(
        "p",
        containers=[
            {
                "name": "main",
                "image": "none",
                "command": ["sh", "-c", 'echo "$A $HOSTNAME $0 visible=[$FRACGPU_FAKE_VISIBLE]"'],
                "args": ["zero"],
                "env": [{"name": "A", "value": "a b"}],
            }
        ],
    )
    pod = running.wait_phase("p", "Succeeded")
    assert log(running.nodes[0], pod) == "a b p zero visible=[]\n"


def test_deletion_is_asked_for_first(running: Any, said: Signal) -> None:
    running.pod("p", f"trap 'echo bye > {said.path}; exit 0' TERM; echo up > {said.path}; while :; do sleep 0.05; done")
    assert said.wait() == "up\n"
    running.wait_phase("p", "Running")
    running.delete("p")
    running.wait_gone("p")
    assert said.wait() == "bye\n"


def test_who_does_not_end_is_killed_after_the_grace(running: Any, said: Signal) -> None:
    script = f"trap '' TERM; echo $$ > {said.path}; while :; do sleep 0.05; done"
    running.pod("p", script, terminationGracePeriodSeconds=1)
    pid = int(said.wait())
    running.wait_phase("p", "Running")
    running.delete("p")
    running.wait_gone("p")
    assert not exists(pid)


def test_a_pod_deleted_by_force_ends_too(running: Any, said: Signal) -> None:
    running.claim("c")
    running.pod("p", f"trap '' TERM; echo $$ > {said.path}; while :; do sleep 0.05; done", claims=("c",))
    pid = int(said.wait())
    running.wait_phase("p", "Running")
    running.delete("p", gracePeriodSeconds=0)
    running.wait_gone("p")
    with running.plugin.changed:
        assert running.plugin.changed.wait_for(lambda: ("unprepare", "c") in running.plugin.calls, 30)
    assert not exists(pid)


def test_a_finished_pod_can_be_deleted(running: Any) -> None:
    running.pod("p", "true")
    running.wait_phase("p", "Succeeded")
    running.delete("p")
    running.wait_gone("p")


def test_commands_run_inside_and_end_with_the_container(running: Any) -> None:
    running.pod("p", "sleep 1000", containers=None)
    pod = running.wait_phase("p", "Running")
    node = running.nodes[0]
    code, out, _ = node.execute(
        pod, ("sh", "-c", "echo $HOSTNAME"), stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ).communicate()
    assert (code, out) == (0, b"p\n")
    inside = node.execute(pod, ("sleep", "1000"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    running.delete("p")
    assert inside.wait() == 137
    running.wait_gone("p")
    with pytest.raises(ContainerStartError, match=r"does not run|is not running"):
        node.execute(pod, ("true",), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def test_a_node_that_goes_down_takes_its_containers_along(bench: Any, said: Signal) -> None:
    with bench.make_node():
        bench.pod("p", f"trap '' TERM; echo $$ > {said.path}; while :; do sleep 0.05; done")
        pid = int(said.wait())
    assert not exists(pid)


def test_a_node_that_comes_back_restarts_its_pods(bench: Any) -> None:
    bench.plugin.start()
    bench.claim("c")
    with bench.make_node():
        bench.pod("p", claims=("c",), restartPolicy="Always")
        bench.wait_phase("p", "Running")
    with bench.make_node():
        pod = bench.wait_pod(
            "p", lambda pod: container(pod)["restartCount"] == 1 and "running" in container(pod)["state"]
        )
        assert bench.plugin.calls == [("prepare", "c"), ("prepare", "c")]
        bench.delete(pod["metadata"]["name"])
        bench.wait_gone("p")
    assert bench.plugin.calls[-1] == ("unprepare", "c")


def test_a_pod_that_is_not_restarted_gets_nothing_prepared_again(bench: Any) -> None:
    bench.plugin.start()
    bench.claim("c")
    with bench.make_node():
        bench.pod("p", claims=("c",))
        bench.wait_phase("p", "Running")
    with bench.make_node() as node:
        pod = bench.wait_phase("p", "Failed")
        assert container(pod)["state"]["terminated"]["exitCode"] == 255
        assert bench.plugin.calls == [("prepare", "c"), ("unprepare", "c")]
        assert node.wait_for_driver("test.example.com", 30)
    # One that the node meets ended stays as it is.
    with bench.make_node():
        bench.pod("q", "true")
        bench.wait_phase("q", "Succeeded")
        assert bench.api.get("/api/v1/namespaces/default/pods/p")["status"] == pod["status"]
    assert len(bench.plugin.calls) == 2


def test_claims_of_a_pod_that_vanished_meanwhile_are_released(bench: Any) -> None:
    bench.plugin.start()
    bench.claim("c")
    with bench.make_node():
        bench.pod("p", claims=("c",))
        bench.wait_phase("p", "Running")
    bench.delete("p", gracePeriodSeconds=0)
    with bench.make_node(), bench.plugin.changed:
        assert bench.plugin.changed.wait_for(lambda: ("unprepare", "c") in bench.plugin.calls, 30)
