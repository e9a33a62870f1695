"""What cuda.h declares, and which of it can take device memory or give it back, judged by signature and by name.

Two judges, because each is blind where the other sees: a function that hands out something that lives in device memory
has a parameter that points to it, whatever its name; one that gives it back, or takes memory for what exists already,
says so by its verb.
"""

import importlib.metadata
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from pycparser import c_ast, c_parser

# Distribution, its cuda.h: the newest CUDA that is pinned, and the last of the series before it.
HEADERS: Final = {
    "nvidia-cuda-runtime": "nvidia/cu13/include/cuda.h",
    "nvidia-cuda-runtime-cu12": "nvidia/cuda_runtime/include/cuda.h",
}

# What lives in device memory, or keeps alive what does.
RESOURCES: Final = frozenset(
    {
        "CUarray",
        "CUcontext",
        "CUdeviceptr",
        "CUdeviceptr_v1",
        "CUevent",
        "CUexternalMemory",
        "CUexternalSemaphore",
        "CUgraph",
        "CUgraphExec",
        "CUgraphNode",
        "CUgraphicsResource",
        "CUgreenCtx",
        "CUlibrary",
        "CUlinkState",
        "CUlogicalEndpointId",
        "CUmemGenericAllocationHandle",
        "CUmemoryPool",
        "CUmipmappedArray",
        "CUmodule",
        "CUstream",
        "CUsurfObject",
        "CUsurfref",
        "CUtexObject",
        "CUtexref",
        "CUuserObject",
    }
)

_TAKES: Final = (
    "Add|Alloc|Attach|Begin|Bind|Clone|Create|Enable|End|Import|Instantiate|Load|Map|Open|Register|Reserve|Restore|"
    "Retain|Set|Update|Upload"
)
_GIVES: Final = (
    "Checkpoint|Close|Destroy|Detach|Disable|Discard|Free|Release|Remove|Reset|Trim|Unbind|Unload|Unmap|Unregister"
)
_VERB: Final = re.compile(rf"(?<=[a-z0-9])(?:{_TAKES}|{_GIVES})(?![a-z])")
_SPELLING: Final = re.compile(r"(?:_v[2-9])?(?:_pt[sd][sz])?$")

# Instead of the C library's headers: all that cuda.h takes from them.
_STAND_INS: Final = {
    "stdlib.h": "typedef unsigned long size_t; typedef int wchar_t;\n",
    "stdint.h": "typedef unsigned int uint32_t; typedef unsigned long uint64_t;\n",
}


@dataclass(frozen=True, slots=True)
class Function:
    """One declaration: its name as exported, and the types that its parameters let the driver write to."""

    name: str
    hands_out: frozenset[str]

    @property
    def base(self) -> str:
        """The name without version and kind of default stream."""
        return base_name(self.name)

    @property
    def verbs(self) -> frozenset[str]:
        """The words in the name that speak of taking or giving back."""
        return frozenset(_VERB.findall(self.base))

    @property
    def may_change_memory(self) -> bool:
        """Can a call of it take device memory or give it back, as far as its declaration tells?"""
        return bool(self.hands_out & RESOURCES or self.verbs)


def base_name(symbol: str) -> str:
    """Return the name that all spellings of a function share."""
    return _SPELLING.sub("", symbol)


def header(distribution: str) -> Path:
    """Return the path of the cuda.h that an installed distribution brings."""
    return Path(str(importlib.metadata.distribution(distribution).locate_file(HEADERS[distribution])))


def functions(cuda_h: Path, *, more: str = "") -> dict[str, Function]:
    """Read the exported functions of a cuda.h, in all spellings, and of the declarations `more` after it."""
    with tempfile.TemporaryDirectory() as directory:
        for name, text in _STAND_INS.items():
            (Path(directory) / name).write_text(text)
        # INTERNAL is how the driver itself is compiled: every spelling is declared.
        flags = ["-nostdinc", "-D__attribute__(x)=", "-D__CUDA_API_VERSION_INTERNAL", f"-I{directory}"]
        source = subprocess.run(
            [sys.executable, "-m", "ziglang", "cc", "-E", "-P", "-x", "c", *flags, "-"],
            input=f'#include "{cuda_h}"\n{more}\n',
            check=True,
            capture_output=True,
            text=True,
        ).stdout
    return {function.name: function for function in _declared(source)}


def _declared(source: str) -> Iterator[Function]:
    nodes = c_parser.CParser().parse(source).ext
    holders = _holders(nodes)
    for node in nodes:
        if isinstance(node, c_ast.Decl) and isinstance(node.type, c_ast.FuncDecl) and node.name.startswith("cu"):
            parameters = node.type.args.params if node.type.args is not None else []
            written = {name for name in map(_written, parameters) if name is not None}
            yield Function(node.name, frozenset(written | {part for name in written for part in holders.get(name, ())}))


def _written(parameter: c_ast.Node) -> str | None:
    """Return the name of the type that a parameter lets the driver write, None for one that it only reads."""
    pointer = parameter.type
    if not isinstance(pointer, (c_ast.PtrDecl, c_ast.ArrayDecl)) or not isinstance(pointer.type, c_ast.TypeDecl):
        return None
    return None if "const" in pointer.type.quals else _type_name(pointer.type)


def _type_name(declared: c_ast.Node) -> str | None:
    while isinstance(declared, (c_ast.ArrayDecl, c_ast.PtrDecl)):
        declared = declared.type
    named = isinstance(declared, c_ast.TypeDecl) and isinstance(declared.type, c_ast.IdentifierType)
    return str(declared.type.names[-1]) if named else None


def _holders(nodes: list[c_ast.Node]) -> dict[str, frozenset[str]]:
    """Return for each type the names of the types inside it: other names of it, members, members of members."""
    inside: dict[str, set[str]] = {}
    for node in nodes:
        if not isinstance(node, c_ast.Typedef):
            continue
        target = node.type.type
        if isinstance(target, (c_ast.Struct, c_ast.Union)):
            inside[node.name] = set(_members(target))
        elif isinstance(target, c_ast.IdentifierType):
            inside[node.name] = {target.names[-1]}
    for name, parts in inside.items():
        todo = list(parts)
        while todo:
            new = inside.get(todo.pop(), set()) - parts
            parts |= new
            todo.extend(new)
        parts.discard(name)
    return {name: frozenset(parts) for name, parts in inside.items()}


def _members(structure: c_ast.Node) -> Iterator[str]:
    for member in structure.decls or ():
        inner = member.type.type if isinstance(member.type, c_ast.TypeDecl) else member.type
        if isinstance(inner, (c_ast.Struct, c_ast.Union)):
            yield from _members(inner)
        elif (name := _type_name(member.type)) is not None:
            yield name
