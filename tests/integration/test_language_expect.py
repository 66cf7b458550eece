"""What is expected of specs before anything is coded, against what comes."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_eval, language_fit  # noqa: E402
from compand.integration.language_expect import expected  # noqa: E402


def test_what_is_expected_is_near_what_comes(tmp_path):
    model = make(tmp_path / "model")
    found = []
    for spec in ("hadamard,int:3", "hadamard,int:5", "(hadamard,int:3)+salient:0.3:4"):
        language_fit.compress(model, tmp_path / "m.cpd", spec, TEXT, sequences=16, length=64, overwrite=True)
        came = language_eval.evaluate(tmp_path / "m.cpd", model, TEXT[9000:], length=64, sequences=8)["kld"]
        found.append((expected(model, spec, TEXT, length=64), came))
        assert 0.3 < found[-1][0] / found[-1][1] < 3  # of a tiny random model
    assert found[1][0] < 0.2 * found[0][0] and found[2][0] < found[0][0]
    few = expected(model, lambda name: "hadamard,int:3" if "layers.1" in name else None, TEXT, length=64)
    assert 0 < few < 0.7 * found[0][0]
    assert expected(model, "hadamard,int:3", " ".join(TEXT.split()[:70]), length=64) > 0  # one sequence
