"""The direction of imports is the architecture; MAY_IMPORT below is that direction, package by package."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

MAY_IMPORT = {
    "driver": set[str](),
    "cdi": {"driver"},
    "proto": {"driver"},
    "native": {"driver"},
    "controller": {"cdi", "proto", "native", "driver"},
    "kubeletplugin": {"cdi", "proto", "native", "driver"},
    "sim": {"controller", "kubeletplugin", "cdi", "proto", "native", "driver"},
    "cli": {"sim", "controller", "kubeletplugin", "cdi", "proto", "native", "driver"},
}


def imported_modules(source: str) -> Iterator[str]:
    """Yield the dotted names that a module imports, wherever in it the statement stands."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute: from fracgpu.package import name"
            module = node.module or ""
            yield from (f"{module}.{alias.name}" for alias in node.names) if module == "fracgpu" else (module,)


def violations(package: str, source: str) -> list[str]:
    """Return the imports of `source`, a module of `package`, that architecture does not allow."""
    bare = set(MAY_IMPORT)
    found = []
    for name in imported_modules(source):
        head, _, rest = name.partition(".")
        if head == "fracgpu" and rest.split(".")[0] not in MAY_IMPORT[package] | {package}:
            found.append(name)
        if head in bare:
            found.append(f"{name} (bare)")
    return found


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_follow_the_direction(package: str) -> None:
    assert sources(package)
    wrong = {
        str(path.relative_to(ROOT)): bad for path in sources(package) if (bad := violations(package, path.read_text()))
    }
    assert wrong == {}


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("driver", "from fracgpu.cdi import spec"),
        ("controller", "import fracgpu.kubeletplugin.prepare.plan"),
        ("kubeletplugin", "from fracgpu import controller"),
        ("cdi", "def late():\n    from fracgpu.native import abi"),
        ("sim", "from cli import main"),
    ],
    ids=["upward", "sideways", "from the namespace", "inside a function", "bare"],
)
def test_a_wrong_import_is_found(package: str, source: str) -> None:
    assert violations(package, source)
