"""``fracgpu migrate``: read, translate, write, and say what is to be said, one line each, on stderr.

Nothing is sent anywhere. What has no translation is written as it was, so the output is always the whole set.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from fracgpu.cli.errors import UsageWrong
from fracgpu.cli.migrate.documents import Document, documents_of, represent
from fracgpu.cli.migrate.objects import objects_of
from fracgpu.cli.migrate.options import STANDARD_STREAM, migrate_options
from fracgpu.cli.migrate.sources import ManifestUnreadable, read_sources
from fracgpu.cli.printable import printable
from fracgpu.cli.streams import put
from fracgpu.controller.convert.convert import convert
from fracgpu.controller.convert.edits import Edit, Json
from fracgpu.controller.convert.edits import Path as Steps
from fracgpu.controller.convert.findings import Findings, Weight
from fracgpu.controller.convert.options import ConvertOptions
from fracgpu.driver.errors import FracgpuError

EXIT_TRANSLATED, EXIT_INCOMPLETE, EXIT_USAGE = 0, 1, 2
_SEPARATOR: Final = "---\n"
_COMMENTS: Final = "its comments are dropped: a document that changes is written anew"


class OutputFailed(FracgpuError):
    """The result can not be written."""


@dataclass(slots=True)
class Migration:
    """The result so far: documents to write, lines to say, and how much there was to do."""

    options: ConvertOptions
    existing: set[tuple[str, str]]
    pieces: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    translated: int = 0
    refused: int = 0
    templates: int = 0

    def add(self, document: Document) -> None:
        """Translate one document and add it, the templates that it needs before it. Raises ManifestUnreadable."""
        edits: list[tuple[Steps, tuple[Edit, ...]]] = []
        for path, obj in objects_of(document):
            conversion = convert(obj, self.options)
            self._say(document, [finding.message for finding in conversion.findings])
            self.refused += any(finding.weight is Weight.REFUSED for finding in conversion.findings)
            if conversion.edits:
                self.translated += 1
                edits.append((path, conversion.edits))
            if conversion.template is not None:
                self._add_template(conversion.template)
        if not edits:
            self.pieces.append(_as_written(document))
            return
        if document.has_comments:
            note = Findings(document.title)
            note.note(_COMMENTS)
            self._say(document, [finding.message for finding in note.found])
        for path, changes in edits:
            document = document.edited(changes, path)
        self.pieces.append(document.rendered())

    def _add_template(self, template: Json) -> None:
        identity = _identity(template)
        if identity not in self.existing:
            self.existing.add(identity)
            self.templates += 1
            self.pieces.append(represent(template))

    def _say(self, document: Document, messages: list[str]) -> None:
        self.lines += [f"{document.source}:{document.line}: {message}" for message in messages]

    @property
    def summary(self) -> str:
        """One line: how much was done and how much was not."""
        left = f", left as they were: {self.refused}" if self.refused else ""
        return f"fracgpu migrate: objects translated: {self.translated}, templates added: {self.templates}{left}"


def run_migrate(parsed: argparse.Namespace) -> int:
    """Translate as the command line asks; return the exit status."""
    options = migrate_options(parsed)
    try:
        documents = [
            document
            for source in read_sources(options.files, recursive=options.recursive, output=options.output)
            for document in documents_of(source)
        ]
        known = {_identity(obj) for document in documents for _, obj in objects_of(document) if _is_template(obj)}
        migration = Migration(options.convert, known)
        for document in documents:
            migration.add(document)
        _write(options.output, _SEPARATOR.join(migration.pieces))
    except UsageWrong as error:
        put(sys.stderr, f"fracgpu migrate: {printable(str(error))}\n")
        return EXIT_USAGE
    except (ManifestUnreadable, OutputFailed) as error:
        put(sys.stderr, f"fracgpu migrate: {printable(str(error))}; nothing was written\n")
        return EXIT_INCOMPLETE
    put(sys.stderr, "".join(f"{printable(line)}\n" for line in (*migration.lines, migration.summary)))
    return EXIT_INCOMPLETE if migration.refused else EXIT_TRANSLATED


def _is_template(obj: Json) -> bool:
    return obj["kind"] == "ResourceClaimTemplate" and isinstance(obj.get("metadata"), dict)


def _identity(template: Json) -> tuple[str, str]:
    meta = template["metadata"]
    return (str(meta.get("namespace", "")), str(meta.get("name", "")))


def _as_written(document: Document) -> str:
    text = document.text.removeprefix("\r").removeprefix("\n")
    return text if text.endswith("\n") else f"{text}\n"


def _write(output: str, text: str) -> None:
    """Write all of the text or nothing of it. Raises OutputFailed."""
    if output == STANDARD_STREAM:
        error = put(sys.stdout, text)
        if error is not None:
            raise OutputFailed("standard output", f"can not be written: {error.strerror}", remedy="write to a file")
        return
    target = Path(output)
    try:
        with tempfile.NamedTemporaryFile(
            "w", encoding="utf-8", newline="", dir=target.parent, prefix=f".{target.name}.", delete=False
        ) as file:
            file.write(text)
        Path(file.name).chmod(_mode_of(target))
        Path(file.name).replace(target)
    except OSError as error:
        raise OutputFailed(output, f"can not be written: {error.strerror}", remedy="name another file") from error


def _mode_of(target: Path) -> int:
    """Return the mode that the file has, or that a new one gets."""
    try:
        return target.stat().st_mode & 0o777
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
