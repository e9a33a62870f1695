"""Other C libraries than the machine's, and an emulator of another processor, from Debian's packages.

They are fetched without root, pinned by version and hash, unpacked into the cache of the e2e tier's builds, and never
installed: programs run with the loader that lies there. Where apt or its mirrors are not to be had, a test says so and
skips.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Final

from tests.cluster.build.cache import Cache, cache_root
from tests.cluster.build.command import run
from tests.cluster.build.errors import BuildError, CommandFailed

_HELPER: Final = "/usr/lib/apt/apt-helper"
# For packages that a mirror does not have any more. Debian keeps there what was in its archive on a day.
_SNAPSHOT: Final = "https://snapshot.debian.org/archive/debian/20261120T000000Z/"
_NO_SANDBOX: Final = "--option=APT::Sandbox::User=root"


class PackageUnreachable(BuildError):
    """No source that this machine's apt knows gives the package: no apt, no network, or it has moved on."""


@dataclass(frozen=True, slots=True)
class Package:
    """A file of Debian's archive, by its path below pool/main and its SHA-256."""

    pool: str
    sha256: str

    @property
    def name(self) -> str:
        """The file's name without its ending."""
        return Path(self.pool).stem


BULLSEYE: Final = Package(
    "g/glibc/libc6_2.31-13+deb11u11_amd64.deb", "05f7264da867b37f4c5ce49266b558ea1e81e05a9464f623152fca70f3550282"
)
BOOKWORM: Final = Package(
    "g/glibc/libc6_2.36-9+deb12u14_amd64.deb", "ba4f88f73dbc3ae9055f3c20f4523bfdbaf1ad13ff95e258924f77d20b4fbedf"
)
TRIXIE: Final = Package(
    "g/glibc/libc6_2.41-12+deb13u4_amd64.deb", "967aa62605721081c3eb2a17650611a792aa802d76a6511d1840242623d204c9"
)
FORKY: Final = Package(
    "g/glibc/libc6_2.43-7_amd64.deb", "5c71715c51103beb4fbba9fe9f8dff604af6610dfa71c70bff342f54a7860803"
)
MUSL: Final = Package(
    "m/musl/musl_1.2.5-3.1~deb13u1_amd64.deb", "fd4231e1c189c0ebe01182747f83817593fefa7f6b690c484410646288b60058"
)
ARM64: Final = {
    "glibc-2.31": Package(
        "g/glibc/libc6_2.31-13+deb11u11_arm64.deb", "baaa9aa184e2f21738c5819055e6740cc5b22f198e3f416e33f82b40ff6933d8"
    ),
    "glibc-2.41": Package(
        "g/glibc/libc6_2.41-12+deb13u4_arm64.deb", "8784eda966b189c777a384dac5ce009e8fc9b52d006926c5a013e7fa8aa688cc"
    ),
}
QEMU: Final = Package(
    "q/qemu/qemu-user-static_7.2+dfsg-7+deb12u18+b3_amd64.deb",
    "c3e3ba2bd87f8c5b9a5da5ef21b5a3b82d7c63b89dd448d9ddaa4eabc5b6e402",
)
GLIBCS: Final = {"glibc-2.31": BULLSEYE, "glibc-2.36": BOOKWORM, "glibc-2.41": TRIXIE, "glibc-newest": FORKY}


def unpacked(package: Package) -> Path:
    """Return the directory of a package's files; it stays until this process ends.

    Raises:
        PackageUnreachable: see there
        BuildError: it is no package
        OSError: the cache cannot be written

    """

    def make(target: Path) -> None:
        archive = target / "package.deb"
        _fetch(package, archive)
        run(["dpkg-deb", "--extract", archive, target])
        archive.unlink()

    return _cache().get(f"package-{package.name}", package.sha256[:20], make)


@lru_cache(maxsize=1)
def _cache() -> Cache:
    return Cache(cache_root())


def _fetch(package: Package, target: Path) -> None:
    """Fetch from the first source that has it; apt checks the hash, so any source is as good as another."""
    said = []
    for source in (*_sources(), _SNAPSHOT):
        try:
            run([_HELPER, _NO_SANDBOX, "download-file", f"{source}pool/main/{package.pool}", target, _hash(package)])
        except CommandFailed as error:
            said.append(str(error))
        else:
            return
    raise PackageUnreachable(package.name, "cannot be fetched", remedy="\n".join(said) or "install apt")


def _hash(package: Package) -> str:
    return f"SHA256:{package.sha256}"


def _sources() -> list[str]:
    try:
        listed = run(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Component: main"])
    except CommandFailed:
        return []
    return list(dict.fromkeys(listed.split()))
