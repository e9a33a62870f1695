"""Init containers and sidecars: who starts when, who is restarted, who is stopped last, and what the status says."""

from __future__ import annotations

from typing import Any

from fracgpu.sim.node.api import Json


def script(name: str, text: str, **members: Any) -> Json:
    return {"name": name, "image": "none", "command": ["sh", "-c", text], **members}


def state(pod: Json, name: str) -> Json:
    groups = ("initContainerStatuses", "containerStatuses")
    found = [one for group in groups for one in pod["status"].get(group) or [] if one["name"] == name]
    assert found, name
    status: Json = found[0]
    return status


def initialized(pod: Json) -> str:
    return str(next(one["status"] for one in pod["status"]["conditions"] if one["type"] == "Initialized"))


def test_init_containers_run_one_after_the_other_and_first(running: Any) -> None:
    log = running.base / "log"
    first = [script(name, f"echo {name} >> {log}; sleep 0.1; echo {name}-end >> {log}") for name in ("a", "b")]
    running.pod("p", f"echo main >> {log}", initContainers=first)
    pod = running.wait_phase("p", "Succeeded")
    assert log.read_text().split() == ["a", "a-end", "b", "b-end", "main"]
    assert initialized(pod) == "True"
    assert [state(pod, name)["ready"] for name in ("a", "b", "main")] == [True, True, False]


def test_the_pod_is_pending_while_it_is_initialized(running: Any) -> None:
    running.pod("p", initContainers=[script("first", "sleep 1000")])
    pod = running.wait_pod("p", lambda pod: "running" in str(pod["status"].get("initContainerStatuses")))
    assert (pod["status"]["phase"], initialized(pod)) == ("Pending", "False")
    assert state(pod, "main")["state"] == {"waiting": {"reason": "PodInitializing"}}
    running.delete("p", gracePeriodSeconds=1)
    running.wait_gone("p")


def test_a_pod_that_never_restarts_fails_with_its_init_container(running: Any) -> None:
    running.pod("p", initContainers=[script("first", "exit 3"), script("second", "true")])
    pod = running.wait_phase("p", "Failed")
    assert state(pod, "first")["state"]["terminated"]["exitCode"] == 3
    assert [state(pod, name)["state"] for name in ("second", "main")] == [
        {"waiting": {"reason": "PodInitializing"}}
    ] * 2


def test_any_other_pod_tries_its_init_container_again(running: Any) -> None:
    marker = running.base / "ran"
    first = script("first", f"[ -e {marker} ] || {{ touch {marker}; exit 1; }}")
    running.pod("p", restartPolicy="Always", initContainers=[first])
    pod = running.wait_phase("p", "Running")
    assert state(pod, "first")["restartCount"] == 1
    assert state(pod, "first")["state"]["terminated"]["exitCode"] == 0


def test_a_sidecar_runs_beside_the_containers_and_ends_after_them(running: Any) -> None:
    log = running.base / "log"
    text = f"trap 'echo side-end >> {log}; exit 0' TERM; echo side >> {log}; while :; do sleep 0.05; done"
    side = script("side", text, restartPolicy="Always")
    running.pod("p", f"echo main >> {log}; sleep 0.3; echo main-end >> {log}", initContainers=[side])
    pod = running.wait_phase("p", "Running")
    assert (state(pod, "side")["ready"], initialized(pod)) == (True, "True")
    running.wait_phase("p", "Succeeded")
    # Which of the first two writes first is not said: the container starts when the sidecar runs.
    lines = log.read_text().split()
    assert (set(lines[:2]), lines[2:]) == ({"side", "main"}, ["main-end", "side-end"])


def test_a_sidecar_is_restarted_whatever_the_pod_says(running: Any) -> None:
    marker = running.base / "ran"
    side = script("side", f"[ -e {marker} ] && exec sleep 1000; touch {marker}", restartPolicy="Always")
    running.pod("p", initContainers=[side])
    running.wait_phase("p", "Running")
    pod = running.wait_pod("p", lambda pod: state(pod, "side")["restartCount"] == 1)
    assert pod["status"]["phase"] == "Running"


def test_all_of_them_use_the_pods_claims(running: Any) -> None:
    running.claim("c")
    uses = {"resources": {"claims": [{"name": "c"}]}}
    first = script("first", 'test "$CLAIM_gpu" = c', **uses)
    running.pod("p", 'test "$CLAIM_gpu" = c', claims=("c",), initContainers=[first])
    running.wait_phase("p", "Succeeded")
    assert [call for call, _ in running.plugin.calls] == ["prepare", "unprepare"]
