"""Where a language model computes: names of devices, and sums of inputs that are on a GPU."""

import numpy as np
import pytest

from compand.errors import InputError
from compand.fit.hessian import Hessian

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_fit  # noqa: E402
from compand.integration.language import device_of  # noqa: E402


def test_names_of_devices(monkeypatch):
    assert device_of("cpu") == torch.device("cpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert device_of() == torch.device("cpu")
    with pytest.raises(InputError, match="no GPU"):
        device_of("cuda:1")
    with pytest.raises(InputError, match="auto, cpu or cuda"):
        device_of("tpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert device_of() == torch.device("cuda") and device_of("cuda:1") == torch.device("cuda:1")


def test_a_device_that_is_not_here_is_told_before_any_work(tmp_path, monkeypatch):
    model = make(tmp_path / "model")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(InputError, match="no GPU"):
        language_fit.compress(model, tmp_path / "out.cpd", "int:4", TEXT, sequences=4, length=32, device="cuda")
    assert not list(tmp_path.glob("out*"))
    language_fit.compress(model, tmp_path / "out.cpd", "int:4", TEXT, sequences=4, length=32, device="cpu")
    language_fit.compress(model, tmp_path / "auto.cpd", "int:4", TEXT, sequences=4, length=32)
    assert (tmp_path / "out.cpd").read_bytes() == (tmp_path / "auto.cpd").read_bytes()


def test_inputs_on_a_device_make_the_same_hessian():
    class There:  # a tensor of another device, as far as Hessian asks
        def __init__(self, x):
            self.x, self.device = x, torch.device("cuda")

        def detach(self):
            return self.x

    x, a, b = torch.randn(40, 6), Hessian(6), Hessian(6)
    a.add(x)
    b.add(There(x))
    np.testing.assert_allclose(a.matrix, b.matrix, rtol=1e-4, atol=1e-6)
    assert a.count == b.count == 40
    np.testing.assert_allclose(a.mean, b.mean, rtol=1e-4, atol=1e-6)
