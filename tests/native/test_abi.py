"""The C compiler and cffi agree on every size, offset and constant of the ABI."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native import abi

STRUCTS = (
    "fracgpu_config",
    "fracgpu_feedback_header",
    "fracgpu_feedback_slot",
    "fracgpu_state_header",
    "fracgpu_slot",
)


def fields(struct: str) -> list[str]:
    described: Any = abi.ffi.typeof(f"struct {struct}").fields
    return [name for name, _ in described]


def c_program() -> str:
    lines = ["#include <stdio.h>", f'#include "{abi.HEADER_PATH}"', "int main(void) {"]
    for struct in STRUCTS:
        lines.append(f'printf("{struct} %zu\\n", sizeof(struct {struct}));')
        lines += [f'printf("{struct}.{f} %zu\\n", offsetof(struct {struct}, {f}));' for f in fields(struct)]
    lines += [f'printf("{name} %llu\\n", (unsigned long long){name});' for name in constants()]
    return "\n".join([*lines, "return 0; }"])


def constants() -> dict[str, int]:
    named = {
        "FRACGPU_CONFIG_MAGIC": abi.CONFIG_MAGIC,
        "FRACGPU_STATE_MAGIC": abi.STATE_MAGIC,
        "FRACGPU_NO_LIMIT": abi.NO_LIMIT,
    }
    for enum in ("fracgpu_abi", "fracgpu_config_flags", "fracgpu_utilization_view", "fracgpu_slot_state"):
        values: Any = abi.ffi.typeof(f"enum {enum}").relements
        named |= values
    return named


def test_compiler_and_cffi_agree(tmp_path: Path, c_compiler: tuple[str, ...]) -> None:
    source = tmp_path / "layout.c"
    source.write_text(c_program())
    subprocess.run([*c_compiler, "-std=c11", str(source), "-o", str(tmp_path / "layout")], check=True)
    printed = subprocess.run([tmp_path / "layout"], check=True, capture_output=True, text=True).stdout
    expected = dict(constants())
    for struct in STRUCTS:
        expected[struct] = abi.ffi.sizeof(f"struct {struct}")
        expected |= {f"{struct}.{name}": abi.ffi.offsetof(f"struct {struct}", name) for name in fields(struct)}
    assert {line.split()[0]: int(line.split()[1]) for line in printed.splitlines()} == expected


@pytest.mark.parametrize("header", ["", "/* ABI-BEGIN */\n/* ABI-END */\n" * 2], ids=["none", "two"])
def test_markers_must_be_there_once(header: str) -> None:
    with pytest.raises(ValueError, match="ABI markers"):
        abi.abi_definitions(header)
