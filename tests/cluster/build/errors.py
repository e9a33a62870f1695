"""What can keep an artefact of the e2e tier from being made."""

from __future__ import annotations

from fracgpu.driver.errors import FracgpuError


class BuildError(FracgpuError):
    """Base of the errors here. Never a reason to skip: whoever runs this tier wants all of it."""


class CommandFailed(BuildError):
    """A program ended with an error; the text has its last lines, the log all of them."""


class PackageMissing(BuildError):
    """The machine lacks a program and cannot be given it from here; the remedy is the command that does."""


class MirrorMissing(BuildError):
    """The machine's apt configuration names no mirror of Debian."""


class LockEntryMissing(BuildError):
    """A lock file does not pin a package that an image has."""


class NotRoot(BuildError):
    """Only root can make root file systems: their files have owners, and programs run inside them."""
