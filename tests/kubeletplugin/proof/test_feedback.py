"""What the processes of an allocation are told."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from fracgpu.kubeletplugin.proof.feedback import FeedbackPublisher, feedback_of
from fracgpu.native.config_page import encode_config_page
from fracgpu.native.feedback import Feedback, SlotFeedback, read_feedback
from tests.kubeletplugin.proof.observer_setting import SLOT
from tests.kubeletplugin.proof.verdict_setting import PAGE, evidence, process

NOTHING = Feedback(utilization_measured=False)
TOLD = Feedback(utilization_measured=False, slots=(SlotFeedback(index=3, generation=9, used_bytes=5, host_pid=77),))
SEEN = process(pid=77, driver_bytes=5, slot=replace(SLOT, index=3, generation=9))


def test_each_process_with_a_slot_and_a_number_is_told() -> None:
    assert feedback_of(evidence(processes=(SEEN,))) == TOLD
    assert feedback_of(evidence(processes=(process(slot=None), replace(SEEN, driver_bytes=None)))) == NOTHING
    assert feedback_of(evidence(processes=(SEEN,), silent="lost")) == NOTHING


def test_it_is_told_in_the_file_that_is_there(tmp_path: Path, monkeypatch: Any) -> None:
    module = "fracgpu.kubeletplugin.proof.feedback.allocation_directory"
    monkeypatch.setattr(module, lambda _options, _allocation: tmp_path)
    publisher = FeedbackPublisher(None)  # type: ignore[arg-type]
    one, path = evidence(processes=(SEEN,)), tmp_path / "config"
    publisher.publish((one,), asked_ns=1)
    for content in (encode_config_page(PAGE), encode_config_page(PAGE)[:4096], encode_config_page(PAGE)):
        path.unlink(missing_ok=True)
        path.write_bytes(content)
        publisher.publish((one,), asked_ns=1)
        assert read_feedback(path.read_bytes()) == (TOLD if len(content) > 4096 else None)
    publisher.publish((), asked_ns=1)
    publisher.close()
