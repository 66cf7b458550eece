import numpy as np
import pytest

from compand import SpecError, parse
from compand.stage import Form
from compand.transform.rotate import orthogonal


@pytest.mark.parametrize("d", [1, 2, 7, 130])
def test_orthogonal_inverse_and_libraries(hold, normal, d):
    for n in (1, 9):
        x = normal(n, d)
        y = hold("rotate:seed=3", x, 3e-6)
        np.testing.assert_allclose(np.linalg.norm(y, axis=1), np.linalg.norm(x, axis=1), rtol=1e-5)
    np.testing.assert_allclose(orthogonal(0, d) @ orthogonal(0, d).T, np.eye(d), atol=1e-13)
    assert not parse("rotate").exact


def test_too_wide():
    with pytest.raises(SpecError, match="hadamard"):
        parse("rotate").out(Form(1, 1025))
