"""What all tests share."""

import pytest

from compand import _native


@pytest.fixture(autouse=True)
def restore():
    """Tests may choose an instruction set and a number of threads; the next one starts with the machine's own."""
    yield
    _native.set_isa("auto")
    _native.set_threads(0)
