"""Stages marked exact give the same bytes on every machine: whatever instructions NumPy, BLAS and the kernels find."""

import hashlib
import itertools
import json
import os
import subprocess
import sys

import numpy as np
import pytest

import compand
from compand import fields
from compand.registry import builtin
from compand.testing import laws

try:
    from numpy._core._multiarray_umath import __cpu_dispatch__ as CHOSEN
except ImportError:  # before NumPy 2
    from numpy.core._multiarray_umath import __cpu_dispatch__ as CHOSEN

MACHINES = {
    "old": {"NPY_DISABLE_CPU_FEATURES": " ".join(CHOSEN), "OPENBLAS_CORETYPE": "Nehalem", "OPENBLAS_NUM_THREADS": "1",
            "COMPAND_ISA": "scalar", "COMPAND_THREADS": "1"},
    "middle": {"NPY_DISABLE_CPU_FEATURES": " ".join(f for f in CHOSEN if f not in ("X86_V3", "AVX2", "FMA3")),
               "OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "2", "COMPAND_ISA": "avx2", "COMPAND_THREADS": "3"},
}


def variants(cls) -> list[str]:
    """The examples of a stage class, and each with one argument at each of its other choices."""
    found = list(cls.examples) or [cls.name]
    for example in [laws.codec_of(compand.parse(s)).stage for s in found]:
        for stage in getattr(example, "items", (example,)):
            if type(stage) is not cls:
                continue
            for f in fields.of(cls):
                for value in f.choices or ((True, False) if f.type is bool else ()):
                    try:
                        other = cls(**{g.name: value if g is f else getattr(stage, g.name) for g in fields.of(cls)})
                        found.append(laws.codec_of(other).spec)
                    except compand.CompandError:
                        pass
    return list(dict.fromkeys(found))


def digests() -> dict[str, str]:
    """SHA-256 of what each exact spec makes of some of the arrays of `laws.samples`."""
    out, arrays = {}, [laws.samples(1)[i] for i in (0, 3, 6, 11)] + laws.samples(2, 160)[:1]
    specs = itertools.chain.from_iterable(variants(cls) for cls in builtin().values() if cls.exact)
    for spec in specs:
        codec = laws.codec_of(compand.parse(spec))
        if not codec.stage.exact or "memory=16" in spec:  # slow without vectors, and no other code than with 12
            continue
        digest = hashlib.sha256()
        for x in arrays:
            if fitted := laws.fitted(codec.stage, x):
                codes = fitted.encode(x)
                digest.update(codes.to_bytes())
                digest.update(np.ascontiguousarray(fitted.decode(codes)).tobytes())
        out[spec] = digest.hexdigest()
    return out


@pytest.fixture(scope="module")
def here():
    return digests()


@pytest.mark.parametrize("machine", MACHINES)
def test_another_machine_makes_the_same_bytes(here, machine):
    env = {**os.environ, **MACHINES[machine]}
    there = subprocess.run([sys.executable, __file__], env=env, capture_output=True, text=True, timeout=120)
    assert there.returncode == 0, there.stderr[-2000:]
    found = json.loads(there.stdout)
    assert found.keys() == here.keys() and len(here) > 60
    assert [spec for spec in here if found[spec] != here[spec]] == []


def test_the_level_asked_for_by_the_environment_is_what_auto_goes_back_to():
    code = ("from compand import _native as n; levels = [n.isa()]\n"
            "for name in ('avx512', 'auto', 'avx2', 'auto'): n.set_isa(name); levels.append(n.isa())\n"
            "print(levels[0], levels[2], levels[4])")
    for asked in ("scalar", "auto", "nonsense"):
        env = {**os.environ, "COMPAND_ISA": asked}
        out = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
        assert out.returncode == 0, out.stderr
        assert len(set(out.stdout.split())) == 1 and (asked != "scalar" or out.stdout.split()[0] == "scalar")


if __name__ == "__main__":
    print(json.dumps(digests()))
