"""A pytest plugin of the whole e2e tier: what docs/dev/sharp-edges.md calls proven here ran here, and passed.

A table that names a test says nothing about whether anybody still runs it. `make e2e` without arguments loads this.
"""

from __future__ import annotations

import pytest

from tests.project.sharp_edges import PAGE, real_tests


class ProvenEdges:
    """Follows the tests of one session; `expected` are ids without parameters."""

    def __init__(self, expected: set[str]) -> None:
        """Nothing has run yet."""
        self._expected = expected
        self._passed: set[str] = set()
        self._not_passed: set[str] = set()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Take note of how a test, or what goes before and after it, ended."""
        test = report.nodeid.partition("[")[0]
        if not report.passed:
            self._not_passed.add(test)
        elif report.when == "call":
            self._passed.add(test)

    @property
    def unproven(self) -> list[str]:
        """What did not run, or not pass in all its cases."""
        return sorted(self._expected - (self._passed - self._not_passed))

    # Before the terminal's own, which prints the summary and the exit status.
    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Fail a session that would otherwise be taken for proof."""
        if self.unproven and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Say how many tests the table rests on, and which of them it cannot rest on."""
        unproven = self.unproven
        count = len(self._expected)
        terminalreporter.write_line(f"sharp edges: {count - len(unproven)} of {count} tests of the table passed here")
        for test in unproven:
            terminalreporter.write_line(f"sharp edges: did not run or not pass: {test}")


def pytest_configure(config: pytest.Config) -> None:
    """Follow the session."""
    config.pluginmanager.register(ProvenEdges(real_tests(PAGE.read_text())))
