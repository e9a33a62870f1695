"""Debian packages: programs that this machine lacks, and files of other Debian releases that it never installs.

Which mirror, which proxy and which keys, the machine's own apt configuration says.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Final

from tests.cluster.build.command import run
from tests.cluster.build.errors import CommandFailed, MirrorMissing, PackageMissing

_KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# Where programs for administrators are; an ordinary PATH may lack them.
_ADMIN_PATH: Final = ("/usr/local/sbin", "/usr/sbin", "/sbin")
_QUIET: Final = {"DEBIAN_FRONTEND": "noninteractive"}


def program(name: str, package: str) -> Path:
    """Return the path of a program, which is installed when it is missing and that is possible.

    Raises:
        PackageMissing: it is missing and this is not root, or not a machine with apt
        CommandFailed: apt cannot install it

    """
    if found := _find(name):
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PackageMissing(name, "is not on this machine", remedy=f"run: sudo apt-get install {package}")
    run(["apt-get", "-qq", "update"])
    run(["apt-get", "-qq", "install", "--yes", "--no-install-recommends", package], environment=_QUIET)
    if found := _find(name):
        return found
    raise PackageMissing(name, f"is not in what apt installed as {package}", remedy="look for the program's package")


def mirror() -> str:
    """Return the URL of the Debian mirror that this machine uses.

    Raises:
        MirrorMissing: it uses none
        CommandFailed: apt does not answer

    """
    # The origin of a mirror stands in its lists, which a machine may not have fetched yet.
    if found := _configured_mirror():
        return found
    run(["apt-get", "-qq", "update"])
    if found := _configured_mirror():
        return found
    raise MirrorMissing(
        "the machine's apt configuration",
        "names no Debian mirror",
        remedy="run this on Debian: the images of the e2e tier are made of Debian's packages",
    )


def proxy_environment() -> dict[str, str]:
    """Return the variables by which a program that is not apt uses apt's proxies; none where apt uses none."""
    found = {}
    for scheme in ("http", "https"):
        _, _, quoted = run(["apt-config", "shell", "proxy", f"Acquire::{scheme}::Proxy"]).partition("=")
        address = quoted.strip().strip("'")
        # "DIRECT" and "false" say that there is none.
        if "://" in address:
            found[f"{scheme}_proxy"] = address
    return found


def unpack(release: str, package: str, root: Path, *, scratch: Path) -> None:
    """Unpack a package's files below a directory; none of its scripts run.

    Args:
        release: the Debian release to take it from, which need not be this machine's
        package: its name
        root: where its files go
        scratch: an empty directory for apt's lists, to be removed by the caller

    Raises:
        MirrorMissing: see mirror()
        CommandFailed: the mirror does not have the release or the package

    """
    options = _separate(release, scratch)
    try:
        run(["apt-get", *options, "-qq", "update"])
        run(["apt-get", *options, "-qq", "download", package], cwd=scratch)
    except CommandFailed as error:
        raise CommandFailed(
            f"package {package} of Debian {release}", "cannot be fetched from this machine's mirror", remedy=str(error)
        ) from error
    (archive,) = scratch.glob(f"{package}_*.deb")
    run(["dpkg-deb", "--extract", archive, root])


def _find(name: str) -> Path | None:
    path = os.pathsep.join([os.environ.get("PATH", ""), *_ADMIN_PATH])
    found = shutil.which(name, path=path)
    return Path(found) if found else None


def _configured_mirror() -> str | None:
    columns = "$(ORIGIN) $(COMPONENT) $(RELEASE) $(REPO_URI)"
    for line in run(["apt-get", "indextargets", "--format", columns, "Created-By: Packages"]).splitlines():
        words = line.split()
        # Security and update archives have a dash in the name, and only what is new.
        if len(words) == len(columns.split()) and words[:2] == ["Debian", "main"] and "-" not in words[2]:
            return words[3].rstrip("/")
    return None


def _separate(release: str, scratch: Path) -> list[str]:
    """Return apt's options for a release of its own: nothing the machine's apt knows is read or changed."""
    for name in ("lists", "archives", "sources.d"):
        (scratch / name / "partial").mkdir(parents=True)
    (scratch / "status").touch()
    signed = f"[signed-by={_KEYRING}] " if _KEYRING.exists() else ""
    (scratch / "sources.list").write_text(f"deb {signed}{mirror()} {release} main\n")
    settings = {
        "Dir::Etc::sourcelist": scratch / "sources.list",
        "Dir::Etc::sourceparts": scratch / "sources.d",
        "Dir::State::lists": scratch / "lists",
        "Dir::State::status": scratch / "status",
        "Dir::Cache": scratch,
        "Dir::Cache::archives": scratch / "archives",
        # apt's own user may not look into a directory of root's.
        "APT::Sandbox::User": "root",
    }
    return [f"--option={name}={value}" for name, value in settings.items()]
