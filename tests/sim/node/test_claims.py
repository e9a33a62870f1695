"""Claims on a node: only the socket, the service and the file on disk connect a pod with its devices."""

import time
from collections.abc import Callable
from typing import Any

from fracgpu.sim.node.timings import Timings


def out(bench: Any, pod: Any, container: str | None = None) -> str:
    text: str = bench.nodes[0].log(pod, container).decode()
    return text


def wait_until(holds: Callable[[], bool]) -> None:
    end = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.01)


PRINT = "env | grep ^CLAIM_ | sort"


def test_a_claim_is_prepared_before_and_released_after(running: Any) -> None:
    running.claim("c")
    running.pod("p", PRINT, claims=("c",))
    pod = running.wait_phase("p", "Succeeded")
    assert out(running, pod) == "CLAIM_gpu=c\n"
    with running.plugin.changed:
        assert running.plugin.changed.wait_for(lambda: len(running.plugin.calls) == 2, 30)
    assert running.plugin.calls == [("prepare", "c"), ("unprepare", "c")]
    assert list(running.cdi_dir.iterdir()) == []


def test_without_plugin_a_pod_waits_and_starts_when_it_comes(bench: Any) -> None:
    bench.claim("c")
    with bench.make_node():
        bench.pod("p", claims=("c",))
        event = bench.wait_event("FailedPrepareDynamicResources")
        assert event["message"] == (
            "Failed to prepare dynamic resources: prepare dynamic resources: "
            "DRA driver test.example.com is not registered"
        )
        assert bench.api.get("/api/v1/namespaces/default/pods/p")["status"]["phase"] == "Pending"
        bench.plugin.start()
        bench.wait_phase("p", "Running")


def test_an_error_of_the_plugin_is_an_event_and_is_tried_again(running: Any) -> None:
    running.plugin.error = "no such GPU"
    running.claim("c")
    running.pod("p", claims=("c",))
    assert running.wait_event("FailedPrepareDynamicResources")["message"] == (
        "Failed to prepare dynamic resources: prepare dynamic resources: "
        "NodePrepareResources failed for ResourceClaim c: no such GPU"
    )
    running.plugin.error = ""
    running.wait_phase("p", "Running")


def test_a_failed_prepare_waits_for_the_next_sync_or_a_change_of_the_pod(bench: Any) -> None:
    bench.plugin.start()
    bench.plugin.error = "no such GPU"
    bench.claim("c")
    with bench.make_node(timings=Timings(sync=1000.0, sync_retry=0.05, reconcile=0.1)) as node:
        assert node.wait_for_driver("test.example.com", 30)
        bench.pod("p", claims=("c",))
        bench.wait_event("FailedPrepareDynamicResources")
        bench.plugin.error = ""
        bench.api.merge_patch("/api/v1/namespaces/default/pods/p", {"metadata": {"annotations": {"try": "again"}}})
        bench.wait_phase("p", "Running")
    assert bench.plugin.calls == [("prepare", "c")] * 2


def test_a_claim_that_is_not_reserved_for_the_pod_is_not_prepared(running: Any) -> None:
    claim = running.claim("c")
    pod = running.pod("p", claims=("c",), reserve=False)
    who, which = (f"{one['metadata']['name']} ({one['metadata']['uid']})" for one in (pod, claim))
    message = running.wait_event("FailedPrepareDynamicResources")["message"]
    assert message.endswith(f"resources: pod {who} is not allowed to use ResourceClaim {which}")
    assert running.plugin.calls == []


def test_a_claim_that_does_not_exist_is_an_event(running: Any) -> None:
    running.pod("p", claims=("c",), reserve=False)
    message = running.wait_event("FailedPrepareDynamicResources")["message"]
    assert message.endswith('resources: fetch ResourceClaim c: resourceclaims.resource.k8s.io "c" not found')


def test_a_pod_whose_driver_never_came_can_leave(bench: Any) -> None:
    bench.claim("c")
    with bench.make_node():
        bench.pod("p", claims=("c",))
        bench.wait_event("FailedPrepareDynamicResources")
        bench.delete("p")
        bench.wait_gone("p")


def test_a_second_pod_of_a_prepared_claim_waits_while_the_driver_is_away(running: Any) -> None:
    running.claim("c")
    running.pod("p", claims=("c",))
    running.wait_phase("p", "Running")
    running.plugin.stop()
    wait_until(lambda: running.nodes[0].plugin_instances("test.example.com") == [])
    running.pod("q", claims=("c",))
    assert "is not registered" in running.wait_event("FailedPrepareDynamicResources", "q")["message"]
    running.plugin.start()
    running.wait_phase("q", "Running")
    assert running.plugin.calls == [("prepare", "c")]


def test_a_claim_of_two_pods_is_prepared_once_and_released_with_the_last(running: Any) -> None:
    running.claim("c")
    for name in ("p", "q"):
        running.pod(name, claims=("c",))
        running.wait_phase(name, "Running")
    assert running.plugin.calls == [("prepare", "c")]
    running.delete("p")
    running.wait_gone("p")
    assert running.plugin.calls == [("prepare", "c")]
    running.delete("q")
    running.wait_gone("q")
    assert running.plugin.calls == [("prepare", "c"), ("unprepare", "c")]


def test_a_container_gets_only_the_requests_that_it_names(running: Any) -> None:
    running.plugin.requests = ("a", "b")
    running.claim("c", requests=("a", "b"))
    command = ["sh", "-c", PRINT]
    entries = {"all": {"name": "c"}, "one": {"name": "c", "request": "b"}, "none": None}
    containers = [
        {"name": name, "image": "none", "command": command, "resources": {"claims": [entry] if entry else []}}
        for name, entry in entries.items()
    ]
    running.pod("p", claims=("c",), containers=containers)
    pod = running.wait_pod(
        "p",
        lambda pod: all(
            "terminated" in one["state"] for one in pod["status"].get("containerStatuses", [{"state": {}}])
        ),
    )
    assert out(running, pod, "all") == "CLAIM_a=c\nCLAIM_b=c\n"
    assert out(running, pod, "one") == "CLAIM_b=c\n"
    assert out(running, pod, "none") == ""
    assert running.plugin.calls[0] == ("prepare", "c")


def test_a_release_that_fails_keeps_the_pod_and_is_no_event(running: Any) -> None:
    running.claim("c")
    running.pod("p", claims=("c",))
    running.wait_phase("p", "Running")
    running.plugin.error = "busy"
    running.delete("p")
    with running.plugin.changed:
        assert running.plugin.changed.wait_for(lambda: running.plugin.calls.count(("unprepare", "c")) > 1, 30)
    assert "deletionTimestamp" in running.api.get("/api/v1/namespaces/default/pods/p")["metadata"]
    reasons = {event["reason"] for event in running.api.get("/api/v1/namespaces/default/events")["items"]}
    assert reasons == {"Started", "Killing"}
    running.plugin.error = ""
    running.wait_gone("p")


def test_the_phase_says_that_a_pod_ended_when_its_claims_are_released(running: Any) -> None:
    running.claim("c")
    # It ends only after the plugin is set to fail.
    gate = running.base / "gate"
    running.pod("p", f"until [ -e {gate} ]; do sleep 0.05; done", claims=("c",))
    running.wait_phase("p", "Running")
    running.plugin.error = "busy"
    gate.touch()
    running.wait_pod("p", lambda pod: "terminated" in pod["status"]["containerStatuses"][0]["state"])
    with running.plugin.changed:
        assert running.plugin.changed.wait_for(lambda: running.plugin.calls.count(("unprepare", "c")) > 1, 30)
    pod = running.api.get("/api/v1/namespaces/default/pods/p")
    assert pod["status"]["phase"] == "Running"
    assert {one["type"]: one["status"] for one in pod["status"]["conditions"]}["Ready"] == "False"
    running.plugin.error = ""
    running.wait_phase("p", "Succeeded")


def test_a_missing_cdi_file_is_a_create_error(running: Any) -> None:
    running.claim("c")
    running.pod("first", claims=("c",))
    running.wait_phase("first", "Running")
    for path in running.cdi_dir.iterdir():
        path.unlink()
    running.pod("p", claims=("c",))
    assert "unresolvable: no spec file names it" in running.wait_event("Failed")["message"]
    pod = running.wait_pod("p", lambda pod: "CreateContainerError" in str(pod["status"]))
    assert pod["status"]["phase"] == "Pending"


def test_an_older_claim_of_the_same_name_is_not_taken_for_the_new_one(bench: Any) -> None:
    bench.plugin.start()
    bench.claim("c")
    with bench.make_node():
        bench.pod("p", claims=("c",))
        bench.wait_phase("p", "Running")
    bench.api.delete("/apis/resource.k8s.io/v1/namespaces/default/resourceclaims/c")
    bench.claim("c")
    bench.plugin.error = "busy"
    with bench.make_node():
        bench.pod("q", claims=("c",))
        assert (
            "old ResourceClaim with same name c and different UID"
            in bench.wait_event("FailedPrepareDynamicResources", "q")["message"]
        )
