import io
import json
import logging
import re
import shlex
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.errors import ConfigInvalid
from fracgpu.driver.log import JsonFormatter, LogfmtFormatter, claim_logger, configure_logging

LOGGER = logging.getLogger("fracgpu.test")


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield io.StringIO()
    root.handlers[:] = handlers
    root.setLevel(level)


def record(message: str, **extra: object) -> logging.LogRecord:
    made = LOGGER.makeRecord(LOGGER.name, logging.INFO, "f.py", 1, message, (), None, extra=extra)
    made.created = 1767225600.25
    return made


def test_logfmt_line() -> None:
    line = LogfmtFormatter().format(record("prepared it", node="n1", claim="ns/a", attempt=2, ok=True))
    assert line == (
        'time=2026-01-01T00:00:00.250Z level=info logger=fracgpu.test msg="prepared it" '
        "claim=ns/a node=n1 attempt=2 ok=true"
    )


def test_json_line() -> None:
    line = JsonFormatter().format(record("prepared it", node="n1", claim="ns/a", attempt=2, ok=True, path=b"x"))
    assert json.loads(line) == {
        "time": "2026-01-01T00:00:00.250Z",
        "level": "info",
        "logger": "fracgpu.test",
        "msg": "prepared it",
        "claim": "ns/a",
        "node": "n1",
        "attempt": 2,
        "ok": True,
        "path": "b'x'",
    }


@given(st.text(), st.text())
def test_any_text_stays_on_one_line_and_is_read_back(message: str, field: str) -> None:
    line = LogfmtFormatter().format(record(message.replace("%", ""), claim=field))
    assert not re.search(r"[\n\r\x00-\x1f]", line)
    quoted = re.fullmatch(r'time=\S+ level=info logger=fracgpu\.test msg=(?:\S+|".*") claim=(\S+|".*")', line)
    assert quoted is not None
    value = line.rpartition(" claim=")[2] if " claim=" not in field else None
    if value is not None:
        assert (json.loads(value) if value.startswith('"') else value) == field


@pytest.mark.parametrize("text", ["", "a b", 'a"b', "a=b", "a\\b", "a\nb", "\t"])
def test_values_that_would_break_a_line_are_quoted(text: str) -> None:
    line = LogfmtFormatter().format(record("m", claim=text))
    assert line.endswith(f" claim={json.dumps(text)}")


def test_configured_lines_carry_level_fields_and_errors(stream: io.StringIO) -> None:
    configure_logging("info", json=False, stream=stream)
    logger = claim_logger(LOGGER, claim="ns/a", op="Prepare", pod=None)
    logger.debug("not shown")
    logger.bind(gpu="GPU-1", op=None).info("shown", extra={"claim": "ns/b"})
    try:
        raise ValueError("broken\nin two")
    except ValueError:
        logger.exception("failed")
    shown, failed = stream.getvalue().splitlines()
    assert shlex.split(shown)[3:] == ["msg=shown", "claim=ns/b", "gpu=GPU-1"]
    assert "level=error" in failed
    assert "op=Prepare claim=ns/a" in failed
    assert r"ValueError: broken\nin two" in failed


def test_configuring_again_replaces_only_our_handler(stream: io.StringIO) -> None:
    root = logging.getLogger()
    foreign = logging.NullHandler()
    root.addHandler(foreign)
    before = len(root.handlers)
    configure_logging("INFO", json=False, stream=io.StringIO())
    configure_logging("warning", json=True, stream=stream)
    assert len(root.handlers) == before + 1
    assert foreign in root.handlers
    LOGGER.info("not shown")
    LOGGER.warning("shown")
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["msg"] == "shown"


def test_unknown_levels_are_refused() -> None:
    with pytest.raises(ConfigInvalid, match="allowed: debug, info, warning, error"):
        configure_logging("loud", json=False)
