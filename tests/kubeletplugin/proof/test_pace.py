"""When a claim may be written, and that it is in the end."""

from dataclasses import replace
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fracgpu.driver.kube.errors import Immutable
from fracgpu.kubeletplugin.proof.claim_writer import ClaimWriter, Outcome
from fracgpu.kubeletplugin.proof.device_status import make_reports
from fracgpu.kubeletplugin.proof.pace import ClaimPace, TokenBucket
from fracgpu.proto.resource.v1.generated_pb2 import ResourceClaim
from tests.kubeletplugin.proof.reporter_setting import BAD, GOOD, OPEN, Setting, failure, observed


@pytest.fixture
def setting() -> Setting:
    one = Setting()
    one.api.add()
    return one


@given(st.lists(st.tuples(st.floats(0, 3), st.booleans()), max_size=60))
def test_the_bucket_never_gives_more_than_its_rate(times: list[tuple[float, bool]]) -> None:
    bucket = TokenBucket(rate=2.0, burst=3.0)
    now, given_at = 0.0, []
    for pause, asks in times:
        now += pause
        if asks and bucket.take(now):
            given_at.append(now)
    for first in range(len(given_at)):
        for last in range(first, len(given_at)):
            assert last - first + 1 <= 3 + 2.0 * (given_at[last] - given_at[first]) + 1e-6


@given(st.lists(st.tuples(st.sampled_from(list(Outcome)), st.floats(0, 500)), max_size=20))
def test_after_whatever_outcome_there_is_a_pause_and_an_end_of_it(history: list[tuple[Outcome, float]]) -> None:
    pace, now = ClaimPace(), 0.0
    reports = make_reports([observed()])
    changed = make_reports([observed(enforced=BAD)])
    for outcome, pause in history:
        pace.record(outcome, reports, now)
        assert not pace.is_due(changed, now + 0.9)
        assert pace.is_due(changed, now + 300)
        now += pause


def test_the_writer_names_a_claim_that_changed_between_two_reads(setting: Setting) -> None:
    setting.api.fails = [failure(Immutable)]
    inner = setting.api.get_claim_message

    def other(namespace: str, name: str) -> ResourceClaim:
        message = inner(namespace, name)
        message.metadata.uid = "another"
        return message

    setting.api.get_claim_message = other  # type: ignore[method-assign]
    writer = ClaimWriter(setting.api)
    one = observed()
    assert writer.write(one.claim, make_reports([replace(one)])).outcome is Outcome.GONE


def test_programs_that_come_and_go_are_not_written_about_each_time(setting: Setting) -> None:
    """An hour of a program each four seconds: some news at first, then one in a while, and never none."""
    written = []
    for second in range(0, 3600, 2):
        written += [second] * len(setting.see(observed(enforced=(OPEN, GOOD)[second // 2 % 2]), after=2))
    assert len(written) < 2 * 3600 / 30
    assert max(later - former for former, later in pairwise(written)) < 120


def test_bad_news_do_not_wait_for_those_before(setting: Setting) -> None:
    for enforced in (OPEN, GOOD) * 10:
        setting.see(observed(enforced=enforced), after=2)
    assert setting.see(observed(enforced=BAD), after=2) == ["patch c1"]
    assert setting.api.enforced() == "False/LibraryNotLoaded"


def test_a_container_that_breaks_the_rules_on_and_off_is_not_written_about_each_time(setting: Setting) -> None:
    count = sum(len(setting.see(observed(enforced=(BAD, GOOD)[n % 2]), after=2)) for n in range(900))
    assert count < 150
