"""Remembers for how long something has looked unused.

What looks unused for a moment may be about to be used: an API server that answers from an old cache, a plugin of
another version that has just put its libraries there. So nothing goes at the first look. Wall clocks jump and files lie
about their age after a copy; what counts is how long this process has seen the thing unused, look after look.
"""

from collections.abc import Callable, Hashable


class Patience:
    """Says of each thing whether it has been seen unused at all looks of the last `grace_seconds`, by `clock`."""

    def __init__(self, grace_seconds: float, clock: Callable[[], float]) -> None:
        self._grace_seconds = grace_seconds
        self._clock = clock
        self._since: dict[Hashable, float] = {}
        self._seen: set[Hashable] = set()

    def look(self) -> None:
        """Begin a look: things that the former look did not see unused begin anew."""
        self._since = {thing: since for thing, since in self._since.items() if thing in self._seen}
        self._seen = set()

    def unused(self, thing: Hashable) -> bool:
        """State that `thing` is unused now; return whether that has been so for long enough, in two looks at least."""
        now = self._clock()
        first = thing not in self._since
        since = self._since.setdefault(thing, now)
        self._seen.add(thing)
        return not first and now - since >= self._grace_seconds
