"""Claims on a node: only the socket, the service and the file on disk connect a pod with its devices."""

from typing import Any

import pytest


def out(bench: Any, pod: Any, container: str | None = None) -> str:
    text: str = bench.nodes[0].log(pod, container).decode()
    return text


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
        assert "DRA driver is not registered" in event["message"]
        assert bench.api.get("/api/v1/namespaces/default/pods/p")["status"]["phase"] == "Pending"
        bench.plugin.start()
        bench.wait_phase("p", "Running")


def test_an_error_of_the_plugin_is_an_event_and_is_tried_again(running: Any) -> None:
    running.plugin.error = "no such GPU"
    running.claim("c")
    running.pod("p", claims=("c",))
    assert "no such GPU" in running.wait_event("FailedPrepareDynamicResources")["message"]
    running.plugin.error = ""
    running.wait_phase("p", "Running")


@pytest.mark.parametrize(
    ("claim", "pod", "message"),
    [
        ({"allocated": False}, {"reserve": False}, "it is not allocated"),
        ({}, {"reserve": False}, "is not allowed to use it"),
    ],
    ids=["not allocated", "not reserved"],
)
def test_the_kubelets_checks(running: Any, claim: dict[str, Any], pod: dict[str, Any], message: str) -> None:
    running.claim("c", **claim)
    running.pod("p", claims=("c",), **pod)
    assert message in running.wait_event("FailedPrepareDynamicResources")["message"]
    assert running.plugin.calls == []


def test_a_claim_that_does_not_exist_is_an_event(running: Any) -> None:
    running.pod("p", claims=("c",), reserve=False)
    assert (
        'claim default/c: cannot be read: resourceclaims.resource.k8s.io "c" not found'
        in running.wait_event("FailedPrepareDynamicResources")["message"]
    )


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


def test_a_release_that_fails_keeps_the_pod(running: Any) -> None:
    running.claim("c")
    running.pod("p", claims=("c",))
    running.wait_phase("p", "Running")
    running.plugin.error = "busy"
    running.delete("p")
    assert "busy" in running.wait_event("FailedUnprepareDynamicResources")["message"]
    assert "deletionTimestamp" in running.api.get("/api/v1/namespaces/default/pods/p")["metadata"]
    running.plugin.error = ""
    running.wait_gone("p")


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
        assert "an older claim of this name" in bench.wait_event("FailedPrepareDynamicResources", "q")["message"]
