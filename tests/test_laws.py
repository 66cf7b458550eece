"""Every registered stage obeys every law."""

import pytest

from compand.registry import builtin
from compand.testing import laws

try:
    import torch  # noqa: F401  the torch law runs only where torch is loaded
except ImportError:
    pass


@pytest.mark.parametrize("name", sorted(builtin()))
def test_stage_obeys_the_laws(name):
    laws.check(builtin()[name])


@pytest.mark.parametrize("spec", [*dict.fromkeys(e for cls in builtin().values() for e in cls.examples),
    "hadamard,int:4:group=64", "center,pca:8,int:8", "int:3+int:3+int:4", "sparse:0.02+int:3:group=16", "lowrank:2+int:4",
    "(hadamard,int:3)+salient:0.2:4",
    "(center,int:4)+sign+sign", "scale:rms:per=row,float:e4m3", "pq:4x4+int:8", "hadamard,vq:16:dim=4+vq:16:dim=4,rans", "planes,rans",
])
def test_expression_obeys_the_laws(spec):
    codec = laws.Codec(spec)
    for x in laws.samples(3):
        for law in laws.LAWS:
            if law is not laws.law_text_is_canonical:
                law(codec.stage, x)


def test_a_law_can_fail():
    class Forgetful(laws.parse("raw").__class__, name="forgetful"):
        def decode(self, parts, form):
            return parts["values"] * 0

    from compand import registry
    try:
        with pytest.raises(AssertionError, match="forgetful on .* breaks law_lossless"):
            laws.obey(Forgetful(), laws.samples()[0])
    finally:
        registry._stages.pop("forgetful")
