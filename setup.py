"""Build the C parts into the wheel.

pyproject.toml says everything else. The shims, the model GPU and the probes are ordinary shared objects and programs,
not Python extensions, so a wheel serves every Python 3; they are built for glibc 2.17, which is what the platform tag
says.
"""

import platform
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_py import build_py
from setuptools.dist import Distribution

ROOT = Path(__file__).parent.resolve()
# What of native/Makefile's output is for users; the rest is objects and tests.
PRODUCTS = ("container", "standalone", "preload", "fake", "probe")
# The native parts are built for the machine that builds the wheel: x86_64 or aarch64.
PLATFORM_TAG = f"manylinux_2_17_{platform.machine()}"


class BuildWithNative(build_py):
    """Copy the Python packages, then let native/Makefile put its products beside them."""

    def run(self) -> None:
        """Build everything; an editable install uses build/native of the checkout instead.

        Raises:
            subprocess.CalledProcessError: the C build failed; its own output says why.

        """
        super().run()
        if self.editable_mode:
            return
        built = ROOT / "build" / "native"
        subprocess.run(["make", "-C", str(ROOT / "native"), f"OUT={built}", f"PYTHON={sys.executable}"], check=True)
        for product in PRODUCTS:
            target = Path(self.build_lib) / "fracgpu" / "native" / "lib" / product
            shutil.copytree(built / product, target, dirs_exist_ok=True)


class PlatformWheel(bdist_wheel):
    """A wheel for one platform and any Python 3."""

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tag (python, abi, platform)."""
        return "py3", "none", PLATFORM_TAG


class NativeDistribution(Distribution):
    """A distribution that is never platform independent."""

    def has_ext_modules(self) -> bool:
        """Say so to setuptools."""
        return True


setup(cmdclass={"build_py": BuildWithNative, "bdist_wheel": PlatformWheel}, distclass=NativeDistribution)
