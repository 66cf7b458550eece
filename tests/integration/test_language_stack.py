"""Stacked language models: what each number of terms is worth, kept in the file; any memory; the command line."""

import json

import numpy as np
import pytest

import compand
from compand.errors import InputError
from compand.modality import stack

torch = pytest.importorskip("torch")
pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_language import TEXT, make  # noqa: E402

from compand.integration import language_eval, language_fit, language_stack  # noqa: E402
from compand.lm import load  # noqa: E402

SPEC = "hadamard,(int:2:mid=true+int:2:mid=true)"


@pytest.fixture(scope="module")
def stacked(tmp_path_factory):
    folder = tmp_path_factory.mktemp("stack")
    make(folder / "model")
    result = language_stack.compress(folder / "model", folder / "s.cpd", SPEC, TEXT, sequences=6, length=64)
    return folder, result


def test_order_is_measured_and_kept(stacked):
    folder, result = stacked
    order = result["order"]
    assert len(order) == 3 * 7 + 1 and all(len(each) == 2 for each in order.values())
    assert np.mean([a > b > 0 for a, b in order.values()]) > 0.8
    with compand.open(folder / "s.cpd") as file:
        kept = file.meta["stack"]["lost"]
        assert kept.keys() == order.keys() and result["bytes"] == file.nbytes
        worst = max(order, key=lambda n: (order[n][0] - order[n][1]) / file[n].nbytes)
        most = sum(stack.sizes(file[n])[-1] for n in order)
        least = sum(stack.sizes(file[n])[0] for n in order)
        rest = 48 * 7 * 4
        assert stack.within(file, rest + least + stack.sizes(file[worst])[1] - stack.sizes(file[worst])[0])[worst] == 2
    score = []
    for memory in (rest + least, rest + (least + most) // 2, rest + most):
        stack.cut(folder / "s.cpd", folder / "cut.cpd", memory, overwrite=True)
        score.append(language_eval.evaluate(folder / "cut.cpd", folder / "model", TEXT[9000:], length=64, sequences=4)["kld"])
        model, few = load(folder / "s.cpd", memory=memory), load(folder / "cut.cpd")
        np.testing.assert_array_equal(model.logits([1, 2, 3], every=True), few.logits([1, 2, 3], every=True))
    assert score[0] > score[1] > score[2]


def test_transformers_load_within_a_memory(stacked):
    import compand.hf

    folder, _ = stacked
    ids = torch.tensor([[0, 5, 9, 33, 2]])
    for memory in (20_000, 28_000, 10**6):
        stack.cut(folder / "s.cpd", folder / "cut.cpd", memory, overwrite=True)
        found = [compand.hf.from_pretrained(folder / "s.cpd", memory=memory), compand.hf.from_pretrained(folder / "cut.cpd")]
        with torch.no_grad():
            a, b = (m(ids).logits for m in found)
        assert torch.equal(a, b)
    with pytest.raises(InputError, match="needed at least"):
        compand.hf.from_pretrained(folder / "s.cpd", memory=1000)


def test_nested_bits_are_a_stack(stacked):
    folder, _ = stacked
    compand.modality.pack(folder / "model", folder / "n.cpd", spec="nested:3x4x8")
    assert all(len(e) == 3 for e in language_stack.order(folder / "model", folder / "n.cpd", TEXT, sequences=1, length=64).values())
    whole = load(folder / "n.cpd")
    for share in (0.5, 0.7, 1):
        model = load(folder / "n.cpd", memory=int(share * whole.bytes))
        assert 0.8 * share * whole.bytes < model.bytes <= share * whole.bytes
    language_fit.compress(folder / "model", folder / "plain.cpd", "int:4", TEXT, sequences=6, length=64, overwrite=True)
    with pytest.raises(InputError, match="no matrix is a sum"):
        language_stack.order(folder / "model", folder / "plain.cpd", TEXT)


def test_command_line(stacked, tmp_path, monkeypatch):
    from typer.testing import CliRunner

    from compand.cli.app import app

    folder, _ = stacked
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.txt").write_text(TEXT)

    def run(*words):
        return CliRunner().invoke(app, [str(w) for w in words])

    done = run("compress", folder / "model", "-o", "s.cpd", "--bits", 3, "--stack", "--calib", "t.txt", "--effort", "low", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["spec"] == language_stack.spec_of(3, "low") and len(told["order"]) == 22
    size = (tmp_path / "s.cpd").stat().st_size
    done = run("compress", "s.cpd", "--size", int(size * 0.9), "-o", "few.cpd")
    assert done.exit_code == 0 and "terms of 22 matrices" in done.stdout and (tmp_path / "few.cpd").stat().st_size <= 0.9 * size
    assert run("compress", "s.cpd", "--size", 10, "-o", "no.cpd").exit_code == 1 and not (tmp_path / "no.cpd").exists()
    assert run("compress", "s.cpd", "--size", "1MB").exit_code == 2
    assert "sum of terms" in run("compress", folder / "model", "int:4", "-o", "x.cpd", "--stack", "--calib", "t.txt").stderr
    assert run("compress", folder / "model", "--bits", 3, "-o", "x.cpd", "--stack").exit_code == 2
    assert "--tune" in run("compress", folder / "model", "--bits", 3, "-o", "x.cpd", "--stack", "--tune", "--calib", "t.txt").stderr
