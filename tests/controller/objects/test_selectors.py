"""CEL selectors: what they answer, what is refused by name, and that remembered answers are the right ones."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.controller.fit.views import AnyGpu, GpuView
from fracgpu.controller.objects.selector_reads import domains_of, reads_of
from fracgpu.controller.objects.selectors import CelSelector, SelectorFailed, SelectorNotSupported, selector_of
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.names import CLASS_FRACTION, CLASS_WHOLE, DRIVER_NAME

GIB = 1 << 30
A = f"device.attributes['{DRIVER_NAME}']"
C = f"device.capacity['{DRIVER_NAME}']"
S = "device.attributes['resource.kubernetes.io']"
GPU = GpuView(
    node="n",
    pool="n",
    device="gpu-0",
    physical_memory_bytes=48 * GIB,
    memory_bytes=48 * GIB,
    attributes={
        "uuid": "GPU-1",
        "productName": "NVIDIA L40S",
        "numaNode": 1,
        "oversubscribed": False,
        "allocator": "controller",
        "driverVersion": "580.65.6",
        "cudaComputeCapability": "8.9.0",
        "resource.kubernetes.io/pcieRoot": "pci0000:00",
    },
)


def _holds(expression: str, gpu: GpuView = GPU) -> bool:
    return selector_of([expression], "claim ns/c request gpu").matches(gpu)


def _shipped() -> dict[str, list[str]]:
    path = Path(__file__).parents[3] / "deploy" / "deviceclasses.yaml"
    classes = list(yaml.safe_load_all(path.read_text()))
    return {
        item["metadata"]["name"]: [selector["cel"]["expression"] for selector in item["spec"]["selectors"]]
        for item in classes
    }


@pytest.mark.parametrize(
    ("changes", "fraction", "whole"),
    [({}, True, True), ({"oversubscribed": True}, True, False), ({"allocator": ""}, True, True)],
)
def test_the_shipped_classes(changes: dict[str, Any], fraction: bool, whole: bool) -> None:
    gpu = replace(GPU, attributes={**GPU.attributes, **changes})
    assert selector_of(_shipped()[CLASS_FRACTION], "class").matches(gpu) is fraction
    assert selector_of(_shipped()[CLASS_WHOLE], "class").matches(gpu) is whole


def test_a_gpu_that_does_not_say_whether_it_is_oversubscribed_is_not_whole() -> None:
    assert not selector_of(_shipped()[CLASS_WHOLE], "class").matches(replace(GPU, attributes={}))


@pytest.mark.parametrize(
    ("expression", "holds"),
    [
        ("true", True),
        (f"device.driver != '{DRIVER_NAME}'", False),
        ("device.allowMultipleAllocations", True),
        # Strings and numbers
        (f'{A}.productName == "NVIDIA L40S"', True),
        (f"{A}.productName.startsWith('NVIDIA T4')", False),
        (f"{A}['productName'].contains('L40')", True),
        (f"{A}.productName.endsWith('S') && {A}.productName.size() == 11", True),
        (f"{A}.productName.matches('L[0-9]+S$')", True),
        (f"{A}.productName.lowerAscii().split(' ')[1] == 'l40s'", True),
        (f"{A}.productName in ['NVIDIA L4', 'NVIDIA L40S']", True),
        (f"{A}.numaNode == 1 && !{A}.oversubscribed", True),
        (f"{A}.numaNode > 1 || {A}.numaNode <= 0", False),
        (f"{A}.numaNode == '1'", False),
        (f"cel.bind(name, {A}.productName, name.contains('L') && name.contains('S'))", True),
        # What a GPU has not
        (f"'numaNode' in {A}", True),
        (f"has({A}.numaNode) && !has({A}.missing)", True),
        (f"{A}.?missing.orValue('none') == 'none'", True),
        (f"{A}[?'missing'].hasValue()", False),
        (f"{A}.?missing == {A}.?other", True),
        (f"{A}.?numaNode == optional.of(1)", True),
        ("device.attributes['other.example.com'].?tier.orValue('') == ''", True),
        ("device.capacity['other.example.com'].?size.hasValue()", False),
        (f"{A}.missing == 1 || true", True),
        # Standard attributes
        (f"{S}.pcieRoot == 'pci0000:00'", True),
        (f"has({A}.pcieRoot)", False),
        # Quantities
        (f"{C}.memory.compareTo(quantity('40Gi')) >= 0", True),
        (f"{C}.memory.isLessThan(quantity('40Gi'))", False),
        (f"{C}.memory.isGreaterThan(quantity('47Gi'))", True),
        (f"{C}.memory == quantity('49152Mi') && quantity('0.5') == quantity('500m')", True),
        (f"{C}.cores.asInteger() == 100 && {C}.slots.isInteger()", True),
        (f"{C}.memory.sub(quantity('48Gi')).sign() == 0", True),
        (f"{C}.cores.add(1).compareTo(quantity('101')) == 0", True),
        ("quantity('1.5').isInteger() || isQuantity('x') || !isQuantity('8Gi')", False),
        ("quantity('1500m').asApproximateFloat() == 1.5", True),
        # Versions
        (f"{A}.driverVersion.isGreaterThan(semver('535.104.5'))", True),
        (f"{A}.driverVersion.compareTo(semver('580.65.06', true)) == 0", True),
        (f"{A}.cudaComputeCapability.major() == 8 && {A}.cudaComputeCapability.minor() == 9", True),
        (f"{A}.driverVersion.isLessThan(semver('580.65.10')) && {A}.driverVersion.patch() == 6", True),
        (f"{A}.driverVersion == semver('580.65.6+build')", True),
        ("isSemver('1.2') || !isSemver('v1.2', true)", False),
    ],
)
def test_expressions(expression: str, holds: bool) -> None:
    assert _holds(expression) is holds


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        (f"{A}.missing == 1", '"missing"'),
        (f"{A}.numaNode.orValue(2) == 1", "orValue"),
        (f"{A}.productName.?part.orValue('') == ''", "overload"),
        (f"'L40' in {A}.productName", "overload"),
        (f"{A}.numaNode && true", "overload"),
        (f"{A}.productName", "must evaluate to bool, not string"),
        (f"{C}.memory == quantity('x')", "'x' is not a quantity"),
        (f"{C}.memory.isGreaterThan(semver('1.2.3'))", "a quantity is needed, not a version"),
        (f"{A}.driverVersion.isGreaterThan(quantity('1'))", "a version is needed, not a quantity"),
        (f"{A}.driverVersion.asInteger() == 1", "a quantity is needed, not a version"),
        (f"{C}.memory.major() == 1", "a version is needed, not a quantity"),
        ("quantity('1.5').asInteger() == 1", "cannot convert"),
        (f"{A}.driverVersion.isGreaterThan(semver('535'))", "'535' is not a semantic version"),
        (f"{A}.driverVersion > '5'", "overload"),
        (f"{A}.productName.matches('(')", ""),
    ],
)
def test_an_expression_that_cannot_be_evaluated_is_named(expression: str, text: str) -> None:
    with pytest.raises(SelectorFailed) as caught:
        _holds(expression)
    assert repr(expression) in caught.value.what
    assert text in caught.value.what
    assert caught.value.code is ReasonCode.SELECTOR_FAILED
    assert caught.value.subject == "claim ns/c request gpu"


@pytest.mark.parametrize(
    ("expression", "text"),
    [
        ("device.driver ==", "Syntax error"),
        ("device.driver == 'a", "Syntax error"),
        ("(true", "Syntax error"),
        ("true false", "Syntax error"),
        ("", "Syntax error"),
        ("devices.all(d, true)", "devices"),
        (f"{A}.?numaNode == 1", "optional"),
        (f"{A}.productName.find('[0-9]+') == '40'", "'find'"),
        ("url('https://a').getHost() == 'a'", "'url'"),
        ("ip('10.0.0.1').family() == 4", "'ip'"),
        ("[1, 2].sum() == 3", "'sum'"),
        ("'1' > 2", "_>_"),
    ],
)
def test_what_this_cel_does_not_have_is_refused_by_name(expression: str, text: str) -> None:
    with pytest.raises(SelectorNotSupported) as caught:
        selector_of([expression], "claim ns/c request gpu")
    assert repr(expression) in caught.value.what
    assert text in caught.value.what
    assert caught.value.code is ReasonCode.SELECTOR_NOT_SUPPORTED


def test_all_expressions_must_hold() -> None:
    assert selector_of(["true", f"{A}.numaNode == 1"], "x").matches(GPU)
    assert not selector_of(["true", f"{A}.numaNode == 2"], "x").matches(GPU)
    # The first that does not hold ends it, as kube-scheduler does.
    assert not selector_of(["false", f"{A}.missing == 2"], "x").matches(GPU)


def test_equal_expressions_are_equal_selectors() -> None:
    one, other = selector_of(["true"], "a"), selector_of(["true"], "b")
    assert (one, hash(one)) == (other, hash(other))
    assert one != selector_of(["false"], "a")
    assert selector_of([], "a") == AnyGpu()


@pytest.mark.parametrize(
    ("expression", "code"),
    [
        (f"{A}.uuid == 'x'", ReasonCode.CARD_UUID_MISMATCH),
        (f"{A}.uuid == 'x' && {A}.productName == 'x'", ReasonCode.CARD_UUID_MISMATCH),
        (f"{A}.productName == 'x'", ReasonCode.CARD_TYPE_MISMATCH),
        (f"{A}.cudaComputeCapability.isGreaterThan(semver('9.0.0'))", ReasonCode.CARD_TYPE_MISMATCH),
        (f"{A}.numaNode == 7", ReasonCode.SELECTOR_MISMATCH),
        ("device.attributes['other'].?uuid.orValue('') == 'x'", ReasonCode.SELECTOR_MISMATCH),
        (f"'x' in {A}", ReasonCode.SELECTOR_MISMATCH),
        (f"{C}.memory.isLessThan(quantity('1'))", ReasonCode.SELECTOR_MISMATCH),
    ],
)
def test_why_not(expression: str, code: ReasonCode) -> None:
    selector = CelSelector(("true", expression, "false"))
    assert selector.why_not(GPU) == (code, f"not selected by {expression}")


def test_long_expressions_are_shortened_in_texts() -> None:
    selector = CelSelector((f"{A}.uuid in ['{'x' * 1000}',\n  'y']",))
    code, text = selector.why_not(GPU)
    assert code is ReasonCode.CARD_UUID_MISMATCH
    assert len(text) < 200
    assert text.endswith("...")


# What an expression reads


@pytest.mark.parametrize(
    ("expression", "reads"),
    [
        ("true", ()),
        ("device.driver == 'x'", (("driver", "", ""),)),
        (f"{A}.uuid == 'x' && {A}.?uuid.hasValue()", (("attributes", DRIVER_NAME, "uuid"),)),
        (
            f"{C}['memory'] == {C}[?\"cores\"]",
            (("capacity", DRIVER_NAME, "memory"), ("capacity", DRIVER_NAME, "cores")),
        ),
        ("device . attributes [ \"a.b\" ] . name == ''", (("attributes", "a.b", "name"),)),
        ("device.attributes[?'a.b'].?name.orValue('') == ''", (("attributes", "a.b", "name"),)),
        # Anything else could read anything.
        (f"{A}.exists(k, k == 'x')", None),
        (f"'uuid' in {A}", None),
        (f"{A}[device.driver] == 1", None),
        (f"{A}['a' + 'b'] == 1", None),
        ("device.attributes[device.driver].uuid == ''", None),
        ("[device].exists(d, d.driver == '')", None),
        ("cel.bind(x, device, x.driver == '')", None),
        ("device.attributes.other.uuid == ''", None),
        # A literal that looks like a path must not swallow the code after it.
        ("'device.attributes[\"' == device.driver + '\"].name'", None),
    ],
)
def test_reads(expression: str, reads: tuple[tuple[str, str, str], ...] | None) -> None:
    assert reads_of(expression) == reads


def test_domains() -> None:
    assert domains_of(f'{A}.x == 1 && device.capacity[?"b.c"].?y.hasValue() && device.attributes.d.?e.hasValue()') == (
        DRIVER_NAME,
        "b.c",
        "d",
    )


VALUES = st.sampled_from([0, 1, 2, True, False, "1", "x", "NVIDIA L40S", ""])
ATTRIBUTES = st.dictionaries(st.sampled_from(["numaNode", "productName", "uuid", "r.k/x"]), VALUES)
EXPRESSIONS = [
    f"{A}.?numaNode.orValue(0) == 1",
    f"{A}.?productName.orValue('') == 'x' || {A}.?uuid.orValue('') == 'x'",
    f"{A}.numaNode == true",
    f"{C}.memory.isGreaterThan(quantity('2Gi')) && {A}[?'uuid'].orValue('y') != 'x'",
    "device.attributes['r.k'].?x.orValue(5) == 1",
    "size(device.attributes['r.k']) == 1",
]


@given(st.lists(st.tuples(ATTRIBUTES, st.integers(1, 3)), min_size=2, max_size=6))
def test_remembered_answers_are_those_of_a_fresh_evaluation(kinds: list[tuple[dict[str, Any], int]]) -> None:
    """The same expression with a comment is another program, without memory of what the first was asked."""
    gpus = [
        GpuView(
            node="n",
            pool="n",
            device=f"g{number}",
            physical_memory_bytes=GIB,
            memory_bytes=size * GIB,
            attributes=values,
        )
        for number, (values, size) in enumerate(kinds)
    ]
    for expression in EXPRESSIONS:
        for number, gpu in enumerate(gpus):
            assert _told(expression, gpu) == _told(f"{expression} // {gpu.attributes!r:.40} {number}", gpu)


def _told(expression: str, gpu: GpuView) -> bool | str:
    try:
        return _holds(expression, gpu)
    except SelectorFailed as error:
        return error.what.partition("for a GPU: ")[2]
