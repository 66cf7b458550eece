"""Every test of a kernel leaves the instruction set and the threads as it found them."""

import pytest

from compand import _native


@pytest.fixture(autouse=True)
def restore():
    yield
    _native.set_isa("auto")
    _native.set_threads(0)
