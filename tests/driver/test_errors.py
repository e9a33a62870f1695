import pickle

import pytest

from fracgpu.driver import errors
from fracgpu.driver.codes import ReasonCode
from fracgpu.driver.errors import AmountsError, AmountsZero, FracgpuError

ALL = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FracgpuError)]


@pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
def test_text_names_object_finding_and_remedy(kind: type[FracgpuError]) -> None:
    error = kind("claim ns/a", "has none", remedy="give it one")
    assert str(error) == "claim ns/a: has none; give it one"
    assert (error.subject, error.what, error.remedy) == ("claim ns/a", "has none", "give it one")


def test_survives_pickling() -> None:
    error = pickle.loads(pickle.dumps(AmountsZero("claim ns/a", "has none", remedy="give it one")))  # noqa: S301
    assert isinstance(error, AmountsZero)
    assert str(error) == "claim ns/a: has none; give it one"


@pytest.mark.parametrize(
    "kind", [kind for kind in ALL if issubclass(kind, AmountsError)], ids=lambda kind: kind.__name__
)
def test_amounts_errors_carry_the_code_of_their_name(kind: type[AmountsError]) -> None:
    if kind is AmountsError:
        assert kind.code is ReasonCode.AMOUNTS_INVALID
    else:
        assert kind.code == kind.__name__
