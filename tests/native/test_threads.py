"""How many threads kernels use: asked for once, and again after a fork or when the number is set back."""

import os
import subprocess
import sys

import pytest

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
