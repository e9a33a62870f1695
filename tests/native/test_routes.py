"""The flat list of hooks, each spelling by every way to it: dlsym, a direct link, cuGetProcAddress; on every driver.

`programs/routing.c` asks cuGetProcAddress in its three spellings, with all flags, for the versions before, at and
after every one in which a symbol changed its meaning.
"""

import re
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from fracgpu.native.libraries import NativeLibraries
from tests.native.drivers import DRIVERS, SYMBOLS, Driver

LINKED = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#define SYMBOLS(S) {symbols}
#define DECLARE(name) extern int name(void);
SYMBOLS(DECLARE)
#define ENTRY(name) {{#name, (void *)name}},
static const struct {{ const char *name; void *address; }} linked[] = {{ SYMBOLS(ENTRY) }};
int main(void)
{{
    void *library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD);
    for (unsigned i = 0; i < sizeof(linked) / sizeof(linked[0]); i++) {{
        Dl_info by_link, by_name;
        if (!dladdr(linked[i].address, &by_link) || !dladdr(dlsym(library, linked[i].name), &by_name))
            return 1;
        printf("%s %s %s\\n", linked[i].name, by_link.dli_fname, by_name.dli_fname);
    }}
    return 0;
}}
"""


def versions() -> list[int]:
    changes = {symbol.since for symbol in SYMBOLS}
    return sorted({near for since in changes for near in (since - 10, since, since + 10)} | {0, -1, 99999})


def put_driver(prefix: Any, driver: Driver, libraries: NativeLibraries) -> None:
    prefix.use("driver/libcuda.so.1", driver.directory(libraries) / "libcuda.so.1")


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_cu_get_proc_address_leads_to_the_hook_and_nothing_else_does(
    prefix: Any, program: Callable[[str], Path], driver: Driver, native_build: NativeLibraries, hooks: Sequence[Any]
) -> None:
    put_driver(prefix, driver, native_build)
    symbols = sorted(hook.symbol for hook in hooks if hook.library == "cuda")
    names = {symbol.base for symbol in SYMBOLS} | {"cuNoSuchFunction", ""}
    paths = [prefix.directory / "libcuda.so.1", prefix.directory / "driver" / "libcuda.so.1"]
    asked = ",".join(map(str, versions()))
    result = prefix.run(program("routing"), *paths, asked, *symbols, *sorted(names - set(symbols)))
    assert int(result.stdout) > 500


def test_the_first_askers_need_not_wait_for_each_other(
    prefix: Any, program: Callable[[str], Path], hooks: Sequence[Any]
) -> None:
    # Symbols of their own name: what is asked for is what comes back. No driver lacks them.
    plain = {symbol.name for symbol in SYMBOLS if symbol.name == symbol.base and symbol.since <= 11080}
    plain -= {symbol.base for symbol in SYMBOLS if symbol.name != symbol.base and not symbol.per_thread}
    prefix.run(program("first_routes"), *[hook.symbol for hook in hooks if hook.symbol in plain])


@pytest.fixture(scope="module")
def linked(
    tmp_path_factory: pytest.TempPathFactory,
    native_build: NativeLibraries,
    hooks: Sequence[Any],
    c_compiler: tuple[str, ...],
) -> Path:
    """A program that is linked with every hooked symbol and one that is not hooked, as nvcc links -lcuda."""
    directory = tmp_path_factory.mktemp("linked")
    names = [hook.symbol for hook in hooks if hook.library == "cuda"] + ["cuDriverGetVersion"]
    source = directory / "linked.c"
    source.write_text(LINKED.format(symbols=" ".join(f"S({name})" for name in names)))
    # Against the model, whose stubs directory every toolkit has the like of, and what only the shim has from there.
    libraries = [str(DRIVERS[-1].directory(native_build) / "libcuda.so.1"), "-ldl"]
    flags = ["-std=c11", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIE", "-pie"]
    subprocess.run([*c_compiler, *flags, str(source), *libraries, "-o", str(directory / "linked")], check=True)
    return directory / "linked"


@pytest.mark.parametrize("driver", DRIVERS, ids=str)
def test_a_link_and_a_name_lead_to_the_hook(
    prefix: Any, linked: Path, driver: Driver, native_build: NativeLibraries, hooks: Sequence[Any]
) -> None:
    put_driver(prefix, driver, native_build)
    shim, real = str(prefix.directory / "libcuda.so.1"), str(prefix.directory / "driver" / "libcuda.so.1")
    places = {name: set(files) for name, *files in map(str.split, prefix.run(linked).stdout.splitlines())}
    assert {str(Path(path)) for path in places.pop("cuDriverGetVersion")} == {real}
    assert set(places) == {hook.symbol for hook in hooks if hook.library == "cuda"}
    assert {path for files in places.values() for path in files} == {shim}


@pytest.mark.parametrize("library", ["standalone_cuda", "container_cuda"])
def test_the_shim_exports_the_list_and_nothing_else(
    native_build: NativeLibraries, hooks: Sequence[Any], library: str
) -> None:
    command = ["nm", "-D", "--defined-only", str(getattr(native_build, library))]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    assert set(re.findall(r" T (\w+)$", output, flags=re.MULTILINE)) == {
        hook.symbol for hook in hooks if hook.library == "cuda"
    }
