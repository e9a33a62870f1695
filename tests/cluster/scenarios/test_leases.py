"""Leases are answered by the real API server as by the emulator, on which leader election is tested."""

from __future__ import annotations

import pytest

from tests.cluster.lone_plane import LonePlane
from tests.sim.api.lease_calls import CALLS, Call, ask, check


@pytest.mark.parametrize("call", CALLS, ids=str)
def test_a_lease_is_answered_as_by_the_emulator(plane: LonePlane, call: Call) -> None:
    check(ask(plane.admin, call), call)
