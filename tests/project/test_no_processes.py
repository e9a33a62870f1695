"""The plugin starts no process: gRPC's threads and NVML's handles do not survive a fork, and nobody could tell how."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# What runs in the plugin's process, the bindings of native/ included.
PACKAGES = ("cdi", "driver", "kubeletplugin", "native", "proto")
# Run by hand, not by the plugin.
TOOLS = {"proto/generate.py"}
MODULES = {"subprocess", "multiprocessing", "pty"}
FUNCTIONS = {"fork", "forkpty", "posix_spawn", "posix_spawnp", "system", "popen", "ProcessPoolExecutor"}
FUNCTIONS |= {f"{kind}{how}" for kind in ("spawn", "exec") for how in ("l", "le", "lp", "lpe", "v", "ve", "vp", "vpe")}


def ways_to_fork(source: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.partition(".")[0] in MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = {node.module or "", *(alias.name for alias in node.names)}
            yield from (name for name in names if name.partition(".")[0] in MODULES or name in FUNCTIONS)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "os":
            yield from (f"os.{name}" for name in {node.attr} & FUNCTIONS)


@pytest.mark.parametrize(
    "source",
    [
        "import subprocess",
        "from multiprocessing import Process",
        "from os import fork",
        "import os\nos.posix_spawn('/bin/true', [], {})",
        "import os\nos.execv('/bin/true', [])",
        "from concurrent.futures import ProcessPoolExecutor",
    ],
)
def test_a_planted_way_is_found(source: str) -> None:
    assert list(ways_to_fork(source))


def test_the_plugin_has_no_way_to_fork() -> None:
    files = {
        str(path.relative_to(ROOT)): path
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if not path.name.endswith(("_pb2.py", "_pb2_grpc.py"))
    }
    assert len(files) > 100
    found = {name: list(ways_to_fork(path.read_text())) for name, path in files.items() if name not in TOOLS}
    assert {name: ways for name, ways in found.items() if ways} == {}
