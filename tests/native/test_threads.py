"""How many threads kernels use: asked for once, and again after a fork or when the number is set back."""

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import compand
from compand import _native

CODE = """
import os
from compand import _native as n
assert n.threads() == len(os.sched_getaffinity(0))
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
if (child := os.fork()) == 0:
    os._exit(n.threads() != 1)
assert os.waitpid(child, 0)[1] == 0
n.set_threads(3)
assert n.threads() == 3
n.set_threads(0)
assert n.threads() == 1
"""


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system gives a process no set of CPUs")
def test_the_default_is_asked_for_again_when_it_may_have_changed():
    env = {k: v for k, v in os.environ.items() if k != "COMPAND_THREADS"}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", CODE], env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_kernels_called_by_several_threads_at_once_give_what_one_gives(request):
    request.addfinalizer(lambda: _native.set_threads(0))
    _native.set_threads(3)
    rng = np.random.default_rng(0)
    x, m = rng.standard_normal((600, 40), dtype=np.float32), rng.standard_normal((40, 40), dtype=np.float32)
    wanted = _native.scan_turned(x, m).tobytes()
    with ThreadPoolExecutor(4) as pool:
        assert all(pool.map(lambda _: _native.scan_turned(x, m).tobytes() == wanted, range(200)))


@pytest.mark.parametrize("spec", ["klt,grouped:8", "klt,ecsq:16:trellis=true,rans", "hadamard,int:4:group=16"])
def test_blocks_encoded_at_once_are_those_of_one_thread(request, spec):
    request.addfinalizer(lambda: _native.set_threads(0))
    x = np.random.default_rng(1).standard_normal((150_000, 32), dtype=np.float32)  # five blocks
    codec = compand.Codec(spec).fit(x[:5000])
    found = []
    for threads in (1, 2):
        _native.set_threads(threads)
        found.append(codec.encode(x).to_bytes())
    assert found[0] == found[1]
    x[140_000, 3] = np.nan
    with pytest.raises(compand.InputError, match="row 140000 "):
        codec.encode(x)
    first = next(codec.encode_blocks(x))  # what is not asked for is not waited for
    assert first.rows == 32_768
