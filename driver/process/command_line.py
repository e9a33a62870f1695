"""Options of a process: one error for whatever is wrong with them, raised before anything is touched.

A wrong option must show at start, with the flag's name, and not when somebody needs the process.
"""

import argparse
import ipaddress
from pathlib import Path
from typing import Final, NoReturn

from fracgpu.driver.errors import OptionInvalid

_MAX_PORT: Final = 65535


class Parser(argparse.ArgumentParser):
    """Raises OptionInvalid where argparse would print and exit."""

    def error(self, message: str) -> NoReturn:
        """Raise OptionInvalid for argparse's message, which begins with the flag if it is about one."""
        flag, _, what = message.partition(": ")
        flag = flag.removeprefix("argument ")
        if not flag.startswith("-"):
            flag, what = "command line", message
        raise OptionInvalid(flag, what, remedy="see --help")


def not_allowed(flag: str, value: str, remedy: str) -> OptionInvalid:
    """Return the error of a value that an option does not take."""
    return OptionInvalid(flag, f"{value!r} is not allowed", remedy=remedy)


def check_http(address: str, port: int | None) -> None:
    """Raise OptionInvalid unless --http-address and --http-port (None: no endpoint) have the form of what they name."""
    try:
        ipaddress.ip_address(address)
    except ValueError as error:
        raise not_allowed("--http-address", address, "give an IP address of this node") from error
    if port is not None and (isinstance(port, bool) or not 0 <= port <= _MAX_PORT):
        raise not_allowed("--http-port", str(port), f"give 0..{_MAX_PORT}, 0 for any free port")


def check_path(flag: str, path: Path | None) -> None:
    """Raise OptionInvalid unless `path` is absolute and goes nowhere up; None stands for an option not given."""
    if path is not None and not (path.is_absolute() and ".." not in path.parts):
        raise not_allowed(flag, str(path), "give an absolute path without ..")
