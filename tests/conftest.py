"""What all tests share."""

import sys
from pathlib import Path

import pytest

from compand import _native


class Absent:
    """Says that torch is not installed where it is not: the folder tests/torch would be taken for it, and nothing skipped."""

    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")


if not any((Path(folder) / "torch" / "__init__.py").exists() for folder in sys.path):
    sys.meta_path.insert(0, Absent)


@pytest.fixture(autouse=True)
def restore():
    """Tests may choose an instruction set, a number of threads and whose threads; the next one starts with the machine's own."""
    _native.borrow_threads("")  # whatever has been imported
    yield
    _native.set_isa("auto")
    _native.set_threads(0)
