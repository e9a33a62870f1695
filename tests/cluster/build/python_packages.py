"""Python packages for an image, in exactly the versions of requirements.lock, whatever Python runs the build.

The lock file pins everything that a developer has; an image gets the few packages that it needs, with what those need.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.cluster.build.command import run
from tests.cluster.build.errors import LockEntryMissing

RECIPE: Final = Path(__file__).resolve()
LOCK: Final = RECIPE.parents[3] / "requirements.lock"
_OLDEST_MANYLINUX: Final = 5


def read_lock(text: str) -> dict[str, str]:
    """Return the entries of a lock file as pip-compile writes it: canonical name -> `name==version` and its hashes."""
    # An entry's further lines are indented; comments among them belong to it.
    entries = re.findall(r"^(?!#)\S.*\n(?:[ \t]+.*\n)*", text if text.endswith("\n") else text + "\n", re.MULTILINE)
    return {str(canonicalize_name(entry.partition("==")[0])): entry for entry in entries}


def closure(requirements: Iterable[str], *, python: tuple[int, int]) -> set[str]:
    """Return the canonical names of packages and of all that they need on a Linux with some Python.

    The packages themselves say what they need, so they must be installed here, as the lock file's are.

    Args:
        requirements: as in pyproject.toml
        python: the version that it is about

    Raises:
        LockEntryMissing: one is not installed

    """
    environment = {"python_version": f"{python[0]}.{python[1]}", "python_full_version": f"{python[0]}.{python[1]}.0"}
    found: set[str] = set()
    awaiting = [(Requirement(text), "") for text in requirements]
    seen = set()
    while awaiting:
        requirement, extra = awaiting.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = str(canonicalize_name(requirement.name))
        found.add(name)
        for wanted in ("", *sorted(requirement.extras)):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                awaiting += [(Requirement(text), wanted) for text in _needs(name)]
    return found


def locked(names: Iterable[str], lock: Mapping[str, str]) -> str:
    """Return the part of a lock file that is about some packages.

    Raises:
        LockEntryMissing: one is not in it

    """
    wanted = sorted(names)
    if missing := [name for name in wanted if name not in lock]:
        raise LockEntryMissing(", ".join(missing), "not in requirements.lock", remedy="run: make lock")
    return "".join(lock[name] for name in wanted)


def install(requirements: str, target: Path, scratch: Path, *, python: tuple[int, int], glibc: tuple[int, int]) -> None:
    """Install packages into a directory, as they are for another Python than this one, and not compiled.

    Args:
        requirements: part of a lock file
        target: what will be the directory of Python packages
        scratch: a directory for files of no further use
        python: the version that will use them
        glibc: that of the system where they will be used

    Raises:
        CommandFailed: a package has nothing for that system, or its hash is not the locked one

    """
    listed = scratch / "requirements.lock"
    listed.write_text(requirements)
    platforms = ["linux_x86_64", "manylinux1_x86_64", "manylinux2010_x86_64", "manylinux2014_x86_64"]
    platforms += [f"manylinux_{glibc[0]}_{minor}_x86_64" for minor in range(_OLDEST_MANYLINUX, glibc[1] + 1)]
    system = [f"--platform={platform}" for platform in platforms]
    system += ["--implementation=cp", f"--python-version={python[0]}.{python[1]}", "--only-binary=:all:"]
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-compile"]
    run([*pip, "--no-deps", "--require-hashes", *system, "--target", target, "--requirement", listed])


def _needs(name: str) -> list[str]:
    try:
        return importlib.metadata.requires(name) or []
    except importlib.metadata.PackageNotFoundError as error:
        raise LockEntryMissing(f"package {name}", "is not installed here", remedy="run: make native") from error
