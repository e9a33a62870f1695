"""Places at which a process may be killed, each before one effect that outlives the process.

Kubernetes kills a node plugin whenever it likes. That everything can be resumed after any effect can only be shown if
the effects can be counted and interrupted one by one, so `kill_point` stands before every fsync, rename, mkdir, unlink
and write to the API server in the code that must survive. Numbers are given in the order in which a run reaches the
points; a test counts them once and then kills a process at each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

Observer = Callable[[str], None]
"""Is told the name of the effect that comes next; it may end the process or raise."""

_observer: Observer | None = None


def kill_point(effect: str) -> None:
    """State that `effect` comes next. Costs one comparison unless somebody watches."""
    if _observer is not None:
        _observer(effect)


@contextmanager
def watched(observer: Observer) -> Iterator[None]:
    """Tell `observer` of every kill point that any thread of this process reaches while the block runs."""
    global _observer
    former, _observer = _observer, observer
    try:
        yield
    finally:
        _observer = former
