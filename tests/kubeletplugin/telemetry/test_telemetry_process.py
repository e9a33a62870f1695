"""The shipped plugin as a process in the lab, scraped like a node's: what Prometheus, the probes and the log say."""

import json
import re
import time
from collections.abc import Iterator
from contextlib import closing
from http.client import HTTPConnection
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from fracgpu.native.libraries import NativeLibraries
from fracgpu.sim.lab import plugin_process
from fracgpu.sim.lab.lab import Lab
from fracgpu.sim.lab.layout import Layout
from fracgpu.sim.lab.options import LabOptions
from fracgpu.sim.lab.plugin_process import plugin_arguments

TIMEOUT_SECONDS = 120
CLAIM_AND_POD = """
apiVersion: resource.k8s.io/v1
kind: ResourceClaim
metadata: {name: share}
spec:
  devices:
    requests:
    - name: gpu
      exactly:
        deviceClassName: gpu.fracgpu.dev
        capacity: {requests: {memory: 2Gi, cores: "30"}}
---
apiVersion: v1
kind: Pod
metadata: {name: user}
spec:
  resourceClaims: [{name: gpu, resourceClaimName: share}]
  containers:
  - name: c
    image: none
    command: [sleep, infinity]
    resources: {claims: [{name: gpu}]}
"""


def with_port(layout: Layout, options: LabOptions) -> list[str]:
    """Return the arguments of a lab's plugin that opens its HTTP port."""
    return [*plugin_arguments(layout, options), "--http-port=0", "--http-address=127.0.0.1"]


@pytest.fixture(scope="module")
def lab(native_build: NativeLibraries) -> Iterator[Lab]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plugin_process, "plugin_arguments", with_port)
        with Lab() as running:
            yield running


def get(lab: Lab, path: str) -> tuple[int, str]:
    (port,) = re.findall(r'msg="metrics and health served" port=(\d+)', lab.layout.plugin_log.read_text())
    with closing(HTTPConnection("127.0.0.1", int(port), timeout=TIMEOUT_SECONDS)) as connection:
        connection.request("GET", path)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()


def samples(lab: Lab) -> dict[str, list[Any]]:
    status, body = get(lab, "/metrics")
    assert status == 200
    found: dict[str, list[Any]] = {}
    for family in text_string_to_metric_families(body):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(sample)
    return found


def wait_for_series(lab: Lab, name: str) -> list[Any]:
    """The observer looks each second; nobody can be asked when it has."""
    end = time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < end:
        if found := samples(lab).get(name):
            return found
        time.sleep(0.1)
    raise AssertionError(f"no {name}; the end of the plugin's log:\n{lab.plugin.log_tail()}")


def test_the_plugin_is_alive_and_ready_once_the_lab_stands(lab: Lab) -> None:
    # The slice is seen by others a moment before the plugin has the answer to its write.
    end = time.monotonic() + TIMEOUT_SECONDS
    while get(lab, "/readyz")[0] != 200 and time.monotonic() < end:
        time.sleep(0.05)
    assert get(lab, "/readyz")[0] == 200
    status, body = get(lab, "/healthz")
    checks = json.loads(body)["checks"]
    assert status == 200, checks
    assert {"sockets", "health", "slices", "slice-watch"} <= set(checks)


def test_a_pods_claim_shows_in_metrics_and_log(lab: Lab) -> None:
    lab.apply(CLAIM_AND_POD)
    lab.wait_pod("user")
    shown = samples(lab)
    assert {sample.labels["outcome"] for sample in shown["fracgpu_claim_operation_duration_seconds_count"]} == {"ok"}
    assert [sample.value for sample in shown["fracgpu_claims"] if sample.labels["state"] == "prepared"] == [1.0]
    assert (
        sum(sample.value for sample in shown["fracgpu_slice_writes_total"] if sample.labels["outcome"] == "created") > 0
    )
    assert shown["fracgpu_nvml_available"][0].value == 1
    (limit,) = wait_for_series(lab, "fracgpu_allocation_memory_limit_bytes")
    assert limit.value == 2 << 30
    assert (limit.labels["namespace"], limit.labels["claim"], limit.labels["request"]) == ("default", "share", "gpu")
    (line,) = [line for line in lab.layout.plugin_log.read_text().splitlines() if 'msg="claim prepared"' in line]
    assert " op=prepare claim=default/share pod=default/user " in line
    assert f" gpu={limit.labels['gpu_uuid']} " in line
