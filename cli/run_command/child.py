"""Starts the command and stays out of its way.

The command shares our terminal and process group, so job control works as if fracgpu were not there. Signals are
taken one by one from the kernel's queue instead of by handlers: only there it shows whether the terminal sent one,
which then has reached the command as well, or another process sent it to us alone, and it is passed on. One signal of
the terminal is for us alone: when it is gone, the kernel tells the leader of the session, and nobody else.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from fracgpu.cli.errors import RunRefused

EXIT_NOT_EXECUTABLE, EXIT_NOT_FOUND = 126, 127
_EXIT_SIGNAL_BASE = 128
_FORWARDED = frozenset(
    {
        signal.SIGTERM,
        signal.SIGINT,
        signal.SIGHUP,
        signal.SIGQUIT,
        signal.SIGUSR1,
        signal.SIGUSR2,
        signal.SIGWINCH,
    }
)
# si_code of a signal that the kernel itself sends, as the terminal does to the whole foreground group (sigaction(2)).
_SI_KERNEL = 0x80
# What Python ignores for itself, and no other program expects to find ignored.
_IGNORED_BY_PYTHON = (signal.SIGPIPE, signal.SIGXFSZ)


class CommandNotStarted(RunRefused):
    """The command is not there or can not be executed."""

    def __init__(self, subject: str, what: str, *, remedy: str, exit_status: int = EXIT_NOT_FOUND) -> None:
        super().__init__(subject, what, remedy=remedy)
        self.exit_status = exit_status


class HeldSignals:
    """A context in which the signals to pass on wait in the kernel's queue.

    Those that a parent had us ignore (nohup) are passed on, too: the command ignores them as it would without us, or
    has chosen otherwise.
    """

    def __init__(self) -> None:
        self._waited = _FORWARDED | {signal.SIGCHLD}
        self._mask_before: set[signal.Signals | int] = set()

    def __enter__(self) -> Self:
        self._mask_before = set(signal.pthread_sigmask(signal.SIG_BLOCK, self._waited))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # What arrived since the command ended has no addressee any more, and must not end us in the middle of cleaning.
        while signal.sigtimedwait(self._waited, 0) is not None:
            pass
        signal.pthread_sigmask(signal.SIG_SETMASK, self._mask_before)

    def arrived(self) -> int | None:
        """Return a signal that would have ended us before the command was started, if there is one."""
        ignored = {number for number in _FORWARDED if signal.getsignal(number) is signal.SIG_IGN}
        taken = signal.sigtimedwait(_FORWARDED - ignored - {signal.SIGWINCH}, 0)
        return None if taken is None else taken.si_signo

    def start(self, command: Sequence[str], environment: Mapping[str, str]) -> int:
        """Start the command, found in PATH, with the signals as they were; return its PID. Raises CommandNotStarted."""
        if not command[0]:
            raise CommandNotStarted("the command", "is an empty name", remedy="give a program after --")
        try:
            return os.posix_spawnp(
                command[0],
                list(command),
                dict(environment),
                setsigmask=self._mask_before,
                setsigdef=_IGNORED_BY_PYTHON,
            )
        except OSError as error:
            raise _not_started(command[0], error) from error

    def wait(self, pid: int) -> int:
        """Wait for the command, passing signals on; return its exit status, 128+n when signal n ended it."""
        while True:
            taken = signal.sigwaitinfo(self._waited)
            if taken.si_signo == signal.SIGCHLD:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    code = os.waitstatus_to_exitcode(status)
                    return code if code >= 0 else _EXIT_SIGNAL_BASE - code
            elif taken.si_code != _SI_KERNEL or (taken.si_signo == signal.SIGHUP and os.getsid(0) == os.getpid()):
                # A program that changes its user, such as sudo, is not ours to signal; it watches the terminal itself.
                with contextlib.suppress(PermissionError):
                    os.kill(pid, taken.si_signo)


def _not_started(name: str, error: OSError) -> CommandNotStarted:
    what, status = os.strerror(error.errno or errno.ENOENT), EXIT_NOT_EXECUTABLE
    if error.errno in (errno.EACCES, errno.ENOEXEC):
        remedy = "make it an executable program; a script says in its first line what runs it"
    elif error.errno not in (errno.ENOENT, errno.ENOTDIR):
        remedy = "correct that and try again"
    elif shutil.which(name) is not None:
        what = "is there, and the interpreter or loader that it names is not"
        remedy = "correct its first line, or install what it needs (file, ldd)"
    else:
        remedy, status = "give its path, or correct PATH", EXIT_NOT_FOUND
    return CommandNotStarted(f"command {name}", what, remedy=remedy, exit_status=status)


def keep_exit_statuses() -> None:
    """Undo what a careless parent may have left: with SIGCHLD ignored the kernel throws exit statuses away."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)


def exit_status_of(number: int) -> int:
    """Return the exit status of a program that signal `number` ended, as shells report it."""
    return _EXIT_SIGNAL_BASE + number
