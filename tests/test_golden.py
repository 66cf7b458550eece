"""Files written once decode for ever, on every instruction set. Never rewrite tests/golden; see tools/make_golden.py."""

from pathlib import Path

import numpy as np
import pytest

import compand
from compand import _native
from compand.registry import builtin

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("name", sorted(builtin()))
def test_stage_has_a_golden_file(name):
    assert (GOLDEN / f"{name}.cpd").exists(), "run tools/make_golden.py and commit what it adds"


@pytest.mark.parametrize("isa", ["scalar", "avx2", "avx512"])
@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.cpd")), ids=lambda p: p.stem)
def test_old_files_decode_for_ever(path, isa):
    if not _native.set_isa(isa):
        pytest.skip(f"this machine has no {isa}")
    try:
        with compand.open(path) as file:
            file.verify("full")
            (entry,) = file.values()
            x_hat, expected = entry.array(), np.load(path.with_suffix(".npy"))
            assert x_hat.shape == expected.shape and x_hat.dtype == entry.dtype
            if entry.codec.stage.exact:
                assert x_hat.tobytes() == expected.tobytes()
            else:
                assert np.allclose(x_hat.astype(np.float32), expected.astype(np.float32), rtol=1e-5, atol=1e-6)
    finally:
        _native.set_isa("auto")
