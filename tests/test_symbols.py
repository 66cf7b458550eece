import numpy as np
import pytest

from compand import CorruptError
from compand.symbols import digits, id_dtype, pack, pack_reference, row_bytes, unpack, unpack_reference, width

ALPHABETS = [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 15, 16, 17, 31, 255, 256, 257, 1000, 1024, 65535, 65536, 65537, 1 << 20,
             (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32]


@pytest.mark.parametrize("k", ALPHABETS)
def test_symbols_of_every_alphabet_come_back_exactly(k):
    rng = np.random.default_rng(k % 1000)
    for m in (0, 1, 2, 3, 7, 8, 9, 31, 64, 100, 129):
        ids = rng.integers(0, k, (5, m), dtype=np.uint64)
        ids[:, :1] = k - 1
        packed = pack(ids, k)
        assert packed.shape == (5, row_bytes(m, k)) and packed.dtype == np.uint8
        back = unpack(packed, m, k)
        assert back.dtype == id_dtype(k)
        assert np.array_equal(back, ids)
        if m and k > 1:
            assert np.array_equal(packed, pack_reference(ids, k))
            assert np.array_equal(unpack_reference(packed, m, k), ids)


def test_a_ternary_digit_takes_1_6_bits():
    assert digits(3) == 5 and row_bytes(640, 3) == 128
    assert digits(2) == digits(4) == digits(7) == digits(256) == 0
    assert (width(1), width(2), width(1 << 32)) == (0, 1, 32)


def test_symbols_outside_the_alphabet_are_refused():
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        pack(np.array([[5]]), 5)
    with pytest.raises(ValueError, match=r"\[0, 5\)"):
        pack(np.array([[-1]]), 5)
    with pytest.raises(CorruptError, match="not below the alphabet size 9"):
        unpack(np.full((1, 1), 15, np.uint8), 1, 9)
    with pytest.raises(CorruptError, match="need rows of 2 bytes"):
        unpack(np.zeros((1, 3), np.uint8), 4, 16)
    with pytest.raises(CorruptError):
        unpack(np.full((1, 1), 255, np.uint8), 5, 3)
