"""The shape of what comes out: kinds, containers, leftovers, what is said about them."""

import copy
import re
from typing import Any

import pytest
from hypothesis import given as examples
from hypothesis import strategies as st

from fracgpu.controller.convert.convert import convert
from fracgpu.controller.convert.edits import apply_edits
from fracgpu.controller.convert.options import ConvertOptions
from fracgpu.controller.fit.views import GpuView
from fracgpu.controller.objects.selectors import selector_of
from fracgpu.driver.quantity import MIB
from tests.controller.convert.pods import (
    container,
    devices_of,
    messages,
    pod,
    refusals,
    request_of,
    translated,
)

Json = dict[str, Any]
SLICE = {"nvidia.com/gpu": 1, "nvidia.com/gpumem": 3000}
SCHEDULER = ConvertOptions(allocator="scheduler")
KINDS = [
    ("v1", "ReplicationController", ("spec", "template")),
    ("v1", "PodTemplate", ("template",)),
    ("apps/v1", "Deployment", ("spec", "template")),
    ("apps/v1", "StatefulSet", ("spec", "template")),
    ("apps/v1", "DaemonSet", ("spec", "template")),
    ("apps/v1", "ReplicaSet", ("spec", "template")),
    ("batch/v1", "Job", ("spec", "template")),
    ("batch/v1", "CronJob", ("spec", "jobTemplate", "spec", "template")),
]


def nested(path: tuple[str, ...], value: Json) -> Json:
    for step in reversed(path):
        value = {step: value}
    return value


@pytest.mark.parametrize(("api_version", "kind", "path"), KINDS, ids=[kind for _, kind, _ in KINDS])
def test_every_kind_with_pods_gets_claims(api_version: str, kind: str, path: tuple[str, ...]) -> None:
    inner = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [container(limits=SLICE)]}}
    obj = {"apiVersion": api_version, "kind": kind, "metadata": {"name": "w", "namespace": "ns"}, **nested(path, inner)}
    before = copy.deepcopy(obj)
    after, template, said = translated(obj)
    assert obj == before
    assert said == []
    assert template["metadata"]["namespace"] == "ns"
    found: Any = after
    for step in path:
        found = found[step]
    name = template["metadata"]["name"]
    assert found["spec"]["resourceClaims"] == [{"name": "gpu", "resourceClaimTemplateName": name}]
    assert found["spec"]["containers"][0]["resources"] == {"claims": [{"name": "gpu"}]}
    assert found["metadata"] == {"labels": {"a": "b"}}


def test_another_groups_job_is_not_kubernetes_job() -> None:
    spec = {"tasks": [{"template": {"spec": {"containers": [container(limits=SLICE)]}}}]}
    obj = {"apiVersion": "batch.volcano.sh/v1alpha1", "kind": "Job", "metadata": {"name": "v"}, "spec": spec}
    assert refusals(obj) == [
        "not translated: Job v: asks for nvidia.com/gpu, nvidia.com/gpumem, and this kind is not known; pods of "
        "CronJob, DaemonSet, Deployment, Job, Pod, PodTemplate, ReplicaSet, ReplicationController, StatefulSet are; "
        "translate the pod inside by hand"
    ]


def test_a_quota_of_gpus_is_named() -> None:
    spec = {"hard": {"requests.nvidia.com/gpu": 4, "limits.nvidia.com/gpumem": 1000, "cpu": 1}}
    obj = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "q"}, "spec": spec}
    assert refusals(obj) == [
        "not translated: ResourceQuota q: limits.nvidia.com/gpumem, requests.nvidia.com/gpu: claims are not counted by "
        "them; write a FractionQuota"
    ]


@pytest.mark.parametrize(
    "obj",
    [
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "nvidia.com/gpu"}},
        pod(container(limits={"cpu": "1"})),
        pod(container(), tolerations=[{"key": "nvidia.com/gpu", "operator": "Exists"}]),
    ],
)
def test_what_asks_for_no_gpu_is_left_alone(obj: Json) -> None:
    conversion = convert(obj, ConvertOptions())
    assert (conversion.edits, conversion.template, conversion.findings) == ((), None, ())


def test_each_container_has_its_request_and_the_others_none() -> None:
    limits = {"cpu": 1, **SLICE}
    after, template, _ = translated(pod(container("a", limits), container("b"), container("c", {"nvidia.com/gpu": 2})))
    a, b, c = after["spec"]["containers"]
    assert a["resources"] == {"limits": {"cpu": 1}, "claims": [{"name": "gpu", "request": "a"}]}
    assert "resources" not in b
    assert c["resources"] == {"claims": [{"name": "gpu", "request": "c"}]}
    assert [item["name"] for item in devices_of(template)["requests"]] == ["a", "c"]
    assert [entry["requests"] for entry in devices_of(template)["config"]] == [["a"]]


def test_requests_are_read_where_there_is_no_limit_and_differences_are_said() -> None:
    body = container() | {"resources": {"requests": {"nvidia.com/gpu": 2}}}
    _, template, said = translated(pod(body))
    assert request_of(template)["exactly"]["count"] == 2
    assert said == []
    body = container(limits={"nvidia.com/gpu": 1}) | {}
    body["resources"]["requests"] = {"nvidia.com/gpu": 2}
    after, template, said = translated(pod(body))
    assert "count" not in request_of(template)["exactly"]
    assert after["spec"]["containers"][0]["resources"] == {"claims": [{"name": "gpu"}]}
    assert said == ["note: Pod p, container main: nvidia.com/gpu is 1 in limits and 2 in requests: the limit was taken"]


def test_an_init_container_takes_the_gpu_of_a_later_one() -> None:
    init = [container("load", SLICE)]
    after, template, said = translated(pod(container("main", SLICE), initContainers=init))
    assert len(devices_of(template)["requests"]) == 1
    assert after["spec"]["initContainers"][0]["resources"] == {"claims": [{"name": "gpu"}]}
    assert said == []


def test_an_init_container_that_asks_for_more_is_said() -> None:
    init = [container("load", {"nvidia.com/gpu": 1})]
    _, template, said = translated(pod(container("main", SLICE), initContainers=init))
    assert [item["name"] for item in devices_of(template)["requests"]] == ["main", "load"]
    assert said == [
        "note: Pod p, container load: no later container asks for the same, so its GPU is held as long as the pod "
        "lives; give it the amounts of one that does the work"
    ]


def test_a_sidecar_runs_beside_the_others_and_has_a_gpu_of_its_own() -> None:
    init = [container("side", SLICE, restartPolicy="Always")]
    _, template, _ = translated(pod(container("main", SLICE), initContainers=init))
    assert [item["name"] for item in devices_of(template)["requests"]] == ["main", "side"]


def test_nothing_is_changed_if_one_container_can_not_be_translated() -> None:
    found = refusals(pod(container("a", SLICE), container("b", {"nvidia.com/mig-1g.5gb": 1})))
    assert found == [
        "not translated: Pod p, container b: nvidia.com/mig-1g.5gb is a MIG device, which no claim of ours can be; "
        "leave it to NVIDIA's driver"
    ]


def test_too_many_gpus_in_one_pod_are_refused() -> None:
    found = refusals(pod(*(container(f"c{i}", {"nvidia.com/gpu": 17}) for i in range(2))))
    assert found == ["not translated: Pod p: asks for 34 GPUs, and a claim can have 32; use several pods"]


def test_zero_gpus_are_none() -> None:
    obj = pod(container(limits={"cpu": 1, "nvidia.com/gpu": 0, "nvidia.com/gpumem": 100}))
    conversion = convert(obj, ConvertOptions())
    assert conversion.template is None
    assert apply_edits(obj, conversion.edits) == pod(container(limits={"cpu": 1}))


def test_a_claim_of_the_users_own_stays_and_ours_has_another_name() -> None:
    own = {"name": "gpu", "resourceClaimName": "theirs"}
    body = container(limits=SLICE)
    body["resources"]["claims"] = [{"name": "gpu"}]
    after, template, _ = translated(pod(body, resourceClaims=[own]))
    ours = {"name": "gpu-2", "resourceClaimTemplateName": template["metadata"]["name"]}
    assert after["spec"]["resourceClaims"] == [own, ours]
    assert after["spec"]["containers"][0]["resources"] == {"claims": [{"name": "gpu"}, {"name": "gpu-2"}]}


def test_what_speaks_to_other_schedulers_and_runtimes_goes_and_is_said() -> None:
    env = [
        {"name": "A", "value": "1"},
        {"name": "NVIDIA_VISIBLE_DEVICES", "value": "all"},
        {"name": "CUDA_DEVICE_MEMORY_LIMIT_0", "value": "3000m"},
        {"name": "LD_PRELOAD", "value": "/usr/local/vgpu/libvgpu.so"},
        {"name": "CUDA_DISABLE_CONTROL", "value": "true"},
        {"name": "CUDA_VISIBLE_DEVICES", "value": "0"},
    ]
    obj = pod(
        container(limits=SLICE, env=env),
        annotations={"hami.io/bind-phase": "success", "mine": "1"},
        schedulerName="hami-scheduler",
        runtimeClassName="nvidia",
        nodeName="n1",
    )
    after, _, said = translated(obj)
    assert after["metadata"]["annotations"] == {"mine": "1"}
    assert "schedulerName" not in after["spec"]
    assert "runtimeClassName" not in after["spec"]
    assert [item["name"] for item in after["spec"]["containers"][0]["env"]] == ["A", "CUDA_VISIBLE_DEVICES"]
    assert said == [
        "note: Pod p: schedulerName hami-scheduler is dropped: kube-scheduler places the pod",
        "note: Pod p: nodeName n1 goes past the scheduler: nobody reserves the claim; use a nodeSelector",
        "note: Pod p: runtimeClassName nvidia is dropped: the claim brings the driver into the container",
        "note: Pod p, container main: env NVIDIA_VISIBLE_DEVICES is dropped: the claim decides what the container sees",
        "note: Pod p, container main: env CUDA_DEVICE_MEMORY_LIMIT_0 is dropped: the claim decides what the container "
        "sees",
        "note: Pod p, container main: env LD_PRELOAD is dropped: the claim decides what the container sees",
        "note: Pod p, container main: env CUDA_DISABLE_CONTROL is dropped: the limit always holds",
    ]


def test_another_preload_is_the_users_own() -> None:
    env = [{"name": "LD_PRELOAD", "value": "/usr/lib/libjemalloc.so"}]
    after, _, said = translated(pod(container(limits=SLICE, env=env)))
    assert after["spec"]["containers"][0]["env"] == env
    assert said == []


def test_a_network_resource_of_nvidia_stays_and_is_said() -> None:
    after, _, said = translated(pod(container(limits={**SLICE, "nvidia.com/hostdev": 1})))
    assert after["spec"]["containers"][0]["resources"]["limits"] == {"nvidia.com/hostdev": 1}
    assert said == [
        "note: Pod p, container main: nvidia.com/hostdev is left as it is: it is no resource for GPUs that is known "
        "here"
    ]


@pytest.mark.parametrize(
    "obj",
    [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": []},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": {"a": 1}}},
        {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": {"containers": ["a"]}},
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": None,
            "spec": {"containers": [{"resources": []}, {"resources": 1}]},
        },
        {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}, "spec": {"template": None}},
    ],
)
def test_a_malformed_object_is_refused_in_words(obj: Json) -> None:
    found = refusals(obj)
    assert len(found) == 1
    assert found[0].endswith("; correct the manifest")


# Annotations

PRODUCTS = [
    "NVIDIA A10",
    "NVIDIA A100-SXM4-80GB",
    "Tesla V100-PCIE-32GB",
    "NVIDIA L40S",
    "NVIDIA RTX A4000",
    "Tesla T4",
]


def selects(expression: str, product: str) -> bool:
    found = re.fullmatch(
        r"(!?)device\.attributes\['gpu\.fracgpu\.dev'\]\.\?productName\.orValue\(''\)\.matches\('(.*)'\)", expression
    )
    assert found is not None
    return (re.search(found[2], product) is not None) != bool(found[1])


def expressions(annotations: Json) -> list[str]:
    _, template, _ = translated(pod(container(limits=SLICE), annotations=annotations))
    part = request_of(template)["exactly"]
    return [item["cel"]["expression"] for item in part.get("selectors", [])]


@pytest.mark.parametrize("use", [True, False])
@pytest.mark.parametrize(
    "wanted",
    [
        "A10",
        "a10",
        "A100,V100",
        "Tesla V100-PCIE-32GB, NVIDIA A10",
        "NVIDIA",
        "NVIDIA-Tesla",
        "-Tesla T4",
        "A-Tesla",
        "G",
    ],
)
def test_types_are_those_that_hami_would_have_taken(wanted: str, use: bool) -> None:
    name = "nvidia.com/use-gputype" if use else "nvidia.com/nouse-gputype"
    [expression] = expressions({name: wanted})
    for product in PRODUCTS:
        # HAMi knows a card as NVIDIA- and its product name, and looks for each text in it, letters being equal.
        named = any(one.strip().upper() in f"NVIDIA-{product}".upper() for one in wanted.split(","))
        assert selects(expression, product) == (named == use), product


def gpu(product: str, uuid: str) -> GpuView:
    attributes: dict[str, str | int | bool] = {
        "productName": product,
        "uuid": uuid,
        "allocator": "controller",
        "physicalMemoryMiB": 1024,
    }
    memory = 1024 * MIB
    return GpuView(
        node="n", pool="n", device="d", physical_memory_bytes=memory, memory_bytes=memory, attributes=attributes
    )


@pytest.mark.parametrize(
    ("annotations", "products"),
    [
        ({"nvidia.com/use-gputype": "a100,T4"}, ["NVIDIA A100-SXM4-80GB", "Tesla T4"]),
        ({"nvidia.com/nouse-gputype": "NVIDIA-NVIDIA"}, ["Tesla V100-PCIE-32GB", "Tesla T4"]),
        ({"nvidia.com/use-gpuuuid": "GPU-0,GPU-5"}, ["NVIDIA A10", "Tesla T4"]),
        ({"nvidia.com/use-gputype": "A10", "nvidia.com/nouse-gpuuuid": "GPU-0"}, ["NVIDIA A100-SXM4-80GB"]),
    ],
)
def test_the_engine_selects_the_same(annotations: Json, products: list[str]) -> None:
    selector = selector_of(tuple(expressions(annotations)), "a test")
    assert [
        product for number, product in enumerate(PRODUCTS) if selector.matches(gpu(product, f"GPU-{number}"))
    ] == products


@pytest.mark.parametrize("wanted", ["A10'", "", " , ", "A10\\d", "A*", "[A]", "A\nB"])
def test_a_type_that_is_no_products_name_is_refused(wanted: str) -> None:
    found = refusals(pod(container(limits=SLICE), annotations={"nvidia.com/use-gputype": wanted}))
    assert len(found) == 1
    assert "no list of product names" in found[0]


def test_uuids() -> None:
    uuid = "GPU-00552014-5c87-89ac-b1a6-7b53aa24b0ec"
    attribute = "device.attributes['gpu.fracgpu.dev'].?uuid.orValue('')"
    assert expressions({"nvidia.com/use-gpuuuid": f"{uuid}, GPU-x"}) == [f"{attribute} in ['{uuid}', 'GPU-x']"]
    assert expressions({"nvidia.com/nouse-gpuuuid": uuid}) == [f"!({attribute} in ['{uuid}'])"]
    both = {"nvidia.com/use-gpuuuid": uuid, "nvidia.com/nouse-gpuuuid": "GPU-y"}
    assert expressions(both) == [f"{attribute} in ['{uuid}']"]
    assert (
        "is no list of UUIDs" in refusals(pod(container(limits=SLICE), annotations={"nvidia.com/use-gpuuuid": "'"}))[0]
    )


def test_policies_are_placement_for_the_controller_and_said_for_kube_scheduler() -> None:
    annotations = {"hami.io/gpu-scheduler-policy": "binpack", "hami.io/node-scheduler-policy": "spread"}
    obj = pod(container(limits={"nvidia.com/gpu": 1}), annotations=annotations)
    _, template, said = translated(obj)
    parameters = devices_of(template)["config"][0]["opaque"]["parameters"]
    assert parameters["placement"] == {"gpu": "Binpack", "node": "Spread"}
    assert said == []
    _, template, said = translated(obj, SCHEDULER)
    assert "config" not in devices_of(template)
    assert said == [
        "note: Pod p: binpack and spread are dropped: kube-scheduler takes GPUs in the order of the ResourceSlice"
    ]


def test_numa_binds_several_gpus_of_a_container() -> None:
    obj = pod(
        container("a", {"nvidia.com/gpu": 2}), container("b", SLICE), annotations={"nvidia.com/numa-bind": "true"}
    )
    _, template, _ = translated(obj)
    assert devices_of(template)["constraints"] == [{"requests": ["a"], "matchAttribute": "gpu.fracgpu.dev/numaNode"}]


@pytest.mark.parametrize(
    ("annotations", "part"),
    [
        ({"nvidia.com/vgpu-mode": "mig"}, "wants a MIG device"),
        ({"hami.io/gpu-scheduler-policy": "mutex"}, "wants a GPU without sharers"),
    ],
)
def test_an_annotation_that_no_claim_can_keep_is_refused(annotations: Json, part: str) -> None:
    assert part in refusals(pod(container(limits=SLICE), annotations=annotations))[0]


@pytest.mark.parametrize(
    ("annotations", "part"),
    [
        ({"nvidia.com/vgpu-mode": "mps"}, "memory is limited inside the container"),
        ({"hami.io/gpu-scheduler-policy": "topology-aware"}, "there are binpack and spread"),
        ({"nvidia.com/device-topology-mode": "link"}, "links between GPUs are not known"),
        ({"nvidia.com/device-topology-mode": "numa"}, "was a wish"),
        ({"nvidia.com/vgpu-compute-policy": "balance"}, "the DeviceClass says how cores are limited"),
        ({"nvidia.com/memory-scheduler-policy": "virtual"}, "decides on overcommit"),
        ({"hami.io/device-scoring-weights": "slot=1"}, "compared by memory in use"),
    ],
)
def test_an_annotation_without_counterpart_is_said_and_gone(annotations: Json, part: str) -> None:
    after, _, said = translated(pod(container(limits=SLICE), annotations=annotations))
    assert "annotations" not in after["metadata"]
    assert len(said) == 1
    assert part in said[0]


# Names and repetition


def test_the_template_is_named_by_its_content() -> None:
    _, one, _ = translated(pod(container(limits=SLICE), name="a"))
    _, same, _ = translated(pod(container("other", limits={"nvidia.com/gpumem": "3000"}), name="b"))
    _, other, _ = translated(pod(container(limits={**SLICE, "nvidia.com/gpucores": 1})))
    assert one == same
    assert one["metadata"]["name"] != other["metadata"]["name"]
    assert re.fullmatch(r"gpu-3000mi-[0-9a-f]{8}", one["metadata"]["name"])
    assert re.fullmatch(r"gpu-3000mi-1c-[0-9a-f]{8}", other["metadata"]["name"])


LIMITS = st.dictionaries(
    st.sampled_from(
        ["nvidia.com/gpu", "nvidia.com/gpumem", "nvidia.com/gpucores", "nvidia.com/gpumem-percentage", "cpu"]
    ),
    st.integers(0, 110) | st.sampled_from(["1", "x", "8Gi"]),
)
ANNOTATIONS = st.dictionaries(
    st.sampled_from(["nvidia.com/use-gputype", "hami.io/gpu-scheduler-policy", "nvidia.com/numa-bind", "mine"]),
    st.sampled_from(["A10", "binpack", "mutex", "true"]),
)


@examples(st.lists(LIMITS, min_size=1, max_size=3), ANNOTATIONS, st.sampled_from([ConvertOptions(), SCHEDULER]))
def test_a_second_translation_changes_nothing(limits: list[Json], annotations: Json, options: ConvertOptions) -> None:
    containers = [container(f"c{position}", limit) for position, limit in enumerate(limits)]
    obj = pod(*containers, annotations=annotations, schedulerName="hami-scheduler")
    first = convert(obj, options)
    after = apply_edits(obj, first.edits)
    second = convert(after, options)
    refused = any(message.startswith("not translated") for message in messages(first))
    if refused:
        assert after == obj
    else:
        assert (second.edits, second.template, second.findings) == ((), None, ())
        assert "nvidia.com/gpu" not in str(after["spec"])
