"""Logs that a machine can split and a person can read.

One line per record, on stderr, as key=value pairs (logfmt) or as JSON. What a line is about (claim, pod, gpu, node, op)
is a field, not part of the sentence, so that all lines of one claim can be found.
"""

from __future__ import annotations

import json as json_codec
import logging
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

from fracgpu.driver.errors import ConfigInvalid

FIELDS: Final = ("op", "claim", "pod", "gpu", "node")
"""Field names that lead every line that has them, in this order; further fields follow by name."""

LEVELS: Final = ("debug", "info", "warning", "error")
_STANDARD: Final = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_PLAIN: Final = re.compile(r"[^\s\"=\\\x00-\x1f\x7f]+")


class FieldLogger(logging.LoggerAdapter[logging.Logger]):
    """A logger that adds its fields to every record; fields of the single call win."""

    def process(self, msg: Any, kwargs: MutableMapping[str, Any]) -> tuple[Any, MutableMapping[str, Any]]:
        """Merge this logger's fields with those of the call."""
        kwargs["extra"] = {**(self.extra or {}), **(kwargs.get("extra") or {})}
        return msg, kwargs

    def bind(self, **fields: object) -> FieldLogger:
        """Return a logger with these fields added; None leaves a field out."""
        return FieldLogger(self.logger, _present({**(self.extra or {}), **fields}))


def claim_logger(
    logger: logging.Logger,
    *,
    claim: str | None = None,
    pod: str | None = None,
    gpu: str | None = None,
    node: str | None = None,
    op: str | None = None,
) -> FieldLogger:
    """Return a logger whose lines are about this claim (`namespace/name`), pod, GPU (UUID), node and operation."""
    return FieldLogger(logger, _present({"op": op, "claim": claim, "pod": pod, "gpu": gpu, "node": node}))


def configure_logging(level: str, *, json: bool, stream: TextIO | None = None) -> None:
    """Send all records of `level` (debug, info, warning, error) and above to `stream`, by default stderr.

    Replaces what an earlier call set and leaves handlers of others alone. Raises ConfigInvalid for another level.
    """
    if level.lower() not in LEVELS:
        raise ConfigInvalid("log level", f"{level!r:.80} is unknown", remedy=f"allowed: {', '.join(LEVELS)}")
    handler = _OurHandler(stream if stream is not None else sys.stderr)
    handler.setFormatter(JsonFormatter() if json else LogfmtFormatter())
    root = logging.getLogger()
    for former in [h for h in root.handlers if isinstance(h, _OurHandler)]:
        root.removeHandler(former)
    root.addHandler(handler)
    # What libraries tell at these levels (each HTTP request, the event loop's selector) buries what we say.
    root.setLevel(max(logging.WARNING, logging.getLevelNamesMapping()[level.upper()]))
    logging.getLogger("fracgpu").setLevel(level.upper())


class LogfmtFormatter(logging.Formatter):
    """One line of key=value pairs; a value is quoted when it has to be."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one line without a line break in it."""
        return " ".join(f"{_key(key)}={_quoted(value)}" for key, value in _pairs(self, record).items())


class JsonFormatter(logging.Formatter):
    """One JSON object per line, all values strings except integers and booleans."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as one JSON object."""
        plain = {k: v if isinstance(v, (bool, int)) else str(v) for k, v in _pairs(self, record).items()}
        return json_codec.dumps(plain, ensure_ascii=False, separators=(",", ":"))


class _OurHandler(logging.StreamHandler[TextIO]):
    """Marks the handler that configure_logging may replace."""


def _present(fields: Mapping[str, object]) -> dict[str, object]:
    return {name: value for name, value in fields.items() if value is not None}


def _pairs(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, object]:
    own = {name: value for name, value in record.__dict__.items() if name not in _STANDARD}
    ordered = [*(name for name in FIELDS if name in own), *sorted(own.keys() - set(FIELDS))]
    pairs: dict[str, object] = {
        "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "logger": record.name,
        "msg": record.getMessage(),
    }
    pairs.update((name, own[name]) for name in ordered if name not in pairs)
    if record.exc_info:
        pairs["error"] = formatter.formatException(record.exc_info)
    return pairs


def _key(name: str) -> str:
    return re.sub(r"[\s\"=\x00-\x1f\x7f]", "_", name)


def _quoted(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if _PLAIN.fullmatch(text) else json_codec.dumps(text, ensure_ascii=False)
