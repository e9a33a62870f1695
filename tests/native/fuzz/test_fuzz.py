"""The fuzz target itself: it gets past the first checks, and finds a bound check that is missing within seconds.

The fuzzing is `make fuzz`; this is to know that it means something.
"""

import shutil
from pathlib import Path

import pytest

from tests.cluster.build.errors import BuildError
from tests.native.fuzz.build import LIMITER, FuzzerUnavailable, build_target
from tests.native.fuzz.run import Found, fuzz
from tests.native.fuzz.seeds import kept
from tests.native.loading.debian import PackageUnreachable

# By what name the bug goes; the file, what stands there, and what is put in its place.
PLANTED = {
    "slots beyond the file": (
        "ledger.c",
        "if (file_bytes < (off_t)header->header_bytes",
        "if (file_bytes + (1 << 24) < (off_t)header->header_bytes",
    ),
    "feedback beyond the file": (
        "page.c",
        "if (end > (uint64_t)file_bytes)",
        "if (end > (uint64_t)file_bytes + (1 << 24))",
    ),
    "an id without an end": (
        "page.c",
        "memchr(config->allocation_id, '\\0', sizeof(config->allocation_id)) == NULL",
        "false",
    ),
}


def built(directory: Path, limiter: Path = LIMITER) -> Path:
    try:
        return build_target(directory, limiter)
    except (PackageUnreachable, FuzzerUnavailable) as error:
        pytest.skip(f"no libFuzzer here: {error}")


def run(directory: Path, program: Path, seconds: int) -> Found:
    return fuzz(program, directory, seconds, "-seed=1")


def test_target_is_reached_and_nothing_is_found(tmp_path: Path) -> None:
    found = run(tmp_path, built(tmp_path), 5)
    assert found.crasher is None, found.log
    assert found.reached, found.log


@pytest.mark.parametrize("name", PLANTED)
def test_planted_bug_is_found(tmp_path: Path, name: str) -> None:
    file, check, without = PLANTED[name]
    limiter = shutil.copytree(LIMITER, tmp_path / "limiter")
    (tmp_path / "abi").symlink_to(LIMITER.parent / "abi")
    content = (limiter / file).read_text()
    assert check in content
    (limiter / file).write_text(content.replace(check, without))
    found = run(tmp_path, built(tmp_path, limiter), 30)
    assert found.crasher, found.log


def test_kept_inputs_are_readable() -> None:
    assert all(one[:1] in (b"C", b"S") for one in kept())


def test_everything_else_fails_loudly(tmp_path: Path) -> None:
    with pytest.raises(BuildError):
        build_target(tmp_path, tmp_path)
