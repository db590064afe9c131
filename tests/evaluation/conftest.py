import pytest
from digit_nets import fitted

from inure.data import ImageSet, load
from inure.models import Classifier


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    """The 360 test digits."""
    return load("digits", "test")


@pytest.fixture(scope="session")
def cnn() -> Classifier:
    """About 95 % right, about 60 % robust under linf:0.06."""
    return fitted("cnn_tiny", epochs=8, lr=1e-2)


@pytest.fixture(scope="session")
def vit() -> Classifier:
    """About 60 % right, about 40 % robust under linf:0.03."""
    return fitted("vit_digits", epochs=5, lr=3e-3)
