"""Fixed-width tables and JSON for people and programs."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any, Final

from fracgpu.cli.printable import printable
from fracgpu.cli.streams import put

_GAP: Final = "  "
NOTHING: Final = "-"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, right: Sequence[str] = ()) -> list[str]:
    """Return lines with aligned columns; those whose heads are in `right` are aligned to the right."""
    cells = [[printable(cell) or NOTHING for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
    return [
        _GAP.join(
            cell.rjust(width) if title in right else cell.ljust(width)
            for cell, width, title in zip(row, widths, head, strict=True)
        ).rstrip()
        for row in cells
    ]


def print_lines(command: str, lines: Sequence[str]) -> bool:
    """Write lines to standard output; return whether they could be written, and say so if not."""
    error = put(sys.stdout, "".join(f"{line}\n" for line in lines))
    if error is not None:
        put(sys.stderr, f"fracgpu {command}: standard output: {error.strerror}; write it elsewhere\n")
    return error is None


def as_json(document: Any) -> list[str]:
    """Return a document as the lines of JSON."""
    return json.dumps(document, indent=2, ensure_ascii=False).splitlines()


def complain(command: str, error: Exception) -> None:
    """Write an error as one line to standard error."""
    put(sys.stderr, f"fracgpu {command}: {printable(str(error))}\n")
