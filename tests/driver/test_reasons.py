import pytest

from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.quantity import MIB
from fracgpu.driver.reasons import Reason


def test_message_says_how_many_and_by_how_much() -> None:
    reason = Reason.insufficient_memory(affected=2, total=3, need_bytes=45000 * MIB, max_free_bytes=33140 * MIB)
    assert reason.message == "CardInsufficientMemory (2/3 GPUs: need 45000Mi, max free 33140Mi)"
    assert str(reason) == reason.message


@pytest.mark.parametrize(
    ("reason", "message"),
    [
        (Reason.insufficient_cores(affected=1, total=1, need=60, max_free=40), "CardInsufficientCore (1/1 GPUs: need"),
        (Reason(code=ReasonCode.CARD_NOT_HEALTH, affected=1, total=4), "CardNotHealth (1/4 GPUs)"),
        (Reason(code=ReasonCode.NODE_INSUFFICIENT_DEVICE, affected=2, total=2, unit="nodes"), "(2/2 nodes)"),
        (Reason(code=ReasonCode.CLASS_NOT_FOUND, detail="no class x"), "ClassNotFound (no class x)"),
        (Reason(code=ReasonCode.AMOUNTS_DROPPED), "AmountsDropped"),
    ],
    ids=lambda v: v.code if isinstance(v, Reason) else "",
)
def test_messages(reason: Reason, message: str) -> None:
    assert message in reason.message


def test_counts_go_together() -> None:
    with pytest.raises(ValueError, match="affected and total"):
        Reason(code=ReasonCode.CARD_NOT_HEALTH, affected=1)


def test_equal_reasons_collapse_in_a_set() -> None:
    assert len({Reason(code=ReasonCode.CARD_NOT_HEALTH), Reason(code=ReasonCode.CARD_NOT_HEALTH)}) == 1


def test_codes_are_spelled_as_published() -> None:
    assert {str(code) for code in ReasonCode} >= {
        "CardInsufficientMemory",
        "CardInsufficientCore",
        "CardTimeSlicingExhausted",
        "CardTypeMismatch",
        "CardUuidMismatch",
        "CardNotHealth",
        "NodeInsufficientDevice",
        "AmountsDisagree",
        "AmountsDropped",
        "SelectorNotSupported",
    }
