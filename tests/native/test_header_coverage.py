"""No function of the driver that can take device memory or give it back is unknown: it is hooked, or somebody said why.

The list is derived from cuda.h, so a header of a newer CUDA (pin a newer nvidia-cuda-runtime) that brings an allocator
turns this red until the allocator is hooked or has its reason in not_hooked.toml.
"""

import tomllib
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

from tests.native.drivers import SYMBOLS
from tests.native.headers import HEADERS, Function, base_name, functions, header

FANCY: Final = "CUresult cuMemAllocFancy(CUdeviceptr *dptr, size_t bytes);"


@dataclass(frozen=True, slots=True)
class Reviewed:
    """not_hooked.toml."""

    groups: tuple[frozenset[str], ...]
    pending: frozenset[str]

    @property
    def names(self) -> frozenset[str]:
        return frozenset().union(*self.groups, self.pending)


@pytest.fixture(scope="module")
def reviewed() -> Reviewed:
    content = tomllib.loads((Path(__file__).parent / "not_hooked.toml").read_text())
    assert all(group["reason"].endswith(".") for group in content["group"])
    return Reviewed(
        groups=tuple(frozenset(group["functions"]) for group in content["group"]),
        pending=frozenset(content.get("pending", {}).get("functions", ())),
    )


@pytest.fixture(scope="module")
def newest() -> dict[str, Function]:
    return functions(header("nvidia-cuda-runtime"), more=FANCY)


@pytest.fixture(scope="module")
def hooked(hooks: tuple[Any, ...]) -> frozenset[str]:
    return frozenset(hook.symbol for hook in hooks if hook.library == "cuda")


def unknown(declared: Iterable[Function], hooked: frozenset[str], reviewed: Reviewed) -> set[str]:
    known = {base_name(symbol) for symbol in hooked} | reviewed.names
    return {function.name for function in declared if function.may_change_memory and function.base not in known}


def test_every_allocator_is_hooked_or_reviewed(
    newest: dict[str, Function], hooked: frozenset[str], reviewed: Reviewed
) -> None:
    found = unknown(newest.values(), hooked, reviewed)
    assert found == {"cuMemAllocFancy"}, (
        "hook them, or say in not_hooked.toml why not (the fancy one is the test's own)"
    )
    waiting = sorted(reviewed.pending - {base_name(symbol) for symbol in hooked})
    if waiting:
        warnings.warn(f"not hooked yet: {', '.join(waiting)}", stacklevel=1)


def test_the_series_before_has_none_that_the_newest_has_not(hooked: frozenset[str], reviewed: Reviewed) -> None:
    declared = functions(header("nvidia-cuda-runtime-cu12"))
    assert len(declared) > 600
    assert unknown(declared.values(), hooked, reviewed) == set()


def test_reviews_are_of_functions_that_exist_and_need_them(newest: dict[str, Function], reviewed: Reviewed) -> None:
    suspects = {function.base for function in newest.values() if function.may_change_memory}
    assert reviewed.names - suspects == set()
    assert sum(map(len, reviewed.groups)) + len(reviewed.pending) == len(reviewed.names), "a name is in two groups"


def test_no_reason_not_to_hook_what_is_hooked(hooked: frozenset[str], reviewed: Reviewed) -> None:
    assert frozenset().union(*reviewed.groups) & {base_name(symbol) for symbol in hooked} == set()


def test_every_spelling_of_a_hooked_function_is_hooked(hooked: frozenset[str]) -> None:
    """Whatever any driver exports: cuMemAlloc and cuMemAlloc_v2, cuMemFreeAsync and cuMemFreeAsync_ptsz, ..."""
    bases = {base_name(symbol) for symbol in hooked}
    assert {symbol.name for symbol in SYMBOLS if symbol.base in bases} - hooked == set()


def test_hooks_are_symbols_of_a_driver(hooked: frozenset[str]) -> None:
    assert hooked - {symbol.name for symbol in SYMBOLS} == set()


@pytest.mark.parametrize("distribution", HEADERS)
def test_the_model_exports_what_the_header_declares(distribution: str) -> None:
    assert set(functions(header(distribution))) - {symbol.name for symbol in SYMBOLS} == set()


SUSPECTS: Final = """
CUresult cuFancyArray(CUarray *array, const CUDA_ARRAY3D_DESCRIPTOR *descriptor);
CUresult cuFancyNode(CUDA_MEM_ALLOC_NODE_PARAMS *params);
CUresult cuFancyRelease(unsigned long long what);
CUresult cuHostAlloc_v7_ptsz(void **address, size_t bytes);
"""
INNOCENT: Final = """
CUresult cuFancyCopy(const CUdeviceptr *addresses, size_t count);
CUresult cuFancyLoadfactor(float *factor);
"""


def test_who_is_a_suspect(newest: dict[str, Function]) -> None:
    declared = functions(header("nvidia-cuda-runtime"), more=SUSPECTS + INNOCENT)
    judged = {name: function.may_change_memory for name, function in declared.items() if name not in newest}
    assert judged == {
        "cuFancyArray": True,
        "cuFancyNode": True,
        "cuFancyRelease": True,
        "cuHostAlloc_v7_ptsz": True,
        "cuFancyCopy": False,
        "cuFancyLoadfactor": False,
    }
