"""Products on a device: the Triton kernels, by Triton's interpreter where there is no GPU."""

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import compand

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")
needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton is not installed")

SPECS = ["int:4:group=64", "int:3", "int:5:sym=false", "int:8:group=32", "sign:group=64", "table:16", "float:e2m1:scale=mx",
         "trellis:3:memory=12", "trellis:2:memory=12:group=64", "trellis:4:memory=12:factors=2", "hadamard:odd=overlap,trellis:1:memory=12",
         "hadamard:odd=pad,int:4+int:4:group=64"]
CODE = """
import sys
import numpy as np, torch, compand
from compand.hf.device import product
rng = np.random.default_rng(0)
for spec in sys.argv[1:]:
    for n, d, m in ((33, 130, 1), (50, 257, 19), (5, 66, 3)):
        w, x = rng.standard_normal((n, d), dtype=np.float32), rng.standard_normal((m, d), dtype=np.float32)
        codes = compand.Codec(spec).fit(w).encode(w)
        times = product(codes, torch.device("cpu"))
        y, full = times(torch.from_numpy(x)).numpy(), codes.codec.decode(codes)
        assert y.shape == (m, n) and times.d == d
        assert np.abs(y - x @ full.T).max() < (0.01 if spec == "table:16" else 1e-4), (spec, n, d, m)
assert product(compand.Codec("vq:16:dim=2").fit(w).encode(w), torch.device("cpu")) is None  # no kernel
"""


@needs_triton
def test_kernels_give_what_decoding_gives():
    env = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE, *SPECS], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_without_a_kernel_weights_are_decoded(monkeypatch):
    from compand.hf import device, linear

    layer = linear.CodedLinear.of(torch.nn.Linear(64, 32, bias=False), "int:4:group=64")
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    assert layer.device_product() is None
    w = layer.dequantized()
    x = torch.randn(3, 64)
    assert torch.allclose(layer(x), x @ w.T, atol=0.1)


@needs_triton
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
@pytest.mark.parametrize("spec", SPECS)
def test_layers_on_a_gpu(spec):
    from compand.hf import CodedLinear

    rng = np.random.default_rng(0)
    linear = torch.nn.Linear(257, 50)
    linear.weight.data = torch.from_numpy(rng.standard_normal((50, 257), dtype=np.float32))
    layer = CodedLinear.of(linear, spec).cuda()
    for m in (1, 19):
        x = torch.randn(2, m, 257, device="cuda")
        y = layer(x)
        assert layer.device_product() is not None and y.shape == (2, m, 50)
        assert (y - (x @ layer.dequantized().T + layer.bias)).abs().max() < (0.01 if spec == "table:16" else 1e-3)
    assert compand.matmul(np.zeros((1, 257), np.float32), layer.codes).shape == (1, 50)
