"""Encoders: compressed by text, restored as folders, measured by embeddings; which folders are encoders."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from compand import open as open_file
from compand.errors import InputError, OverwriteError
from compand.modality import unpack

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

from compand.integration import encoder  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


WORDS = [f"w{i}" for i in range(94)]
RNG = np.random.default_rng(0)
TEXT = "\n".join(" ".join(RNG.choice(WORDS, RNG.integers(8, 20))) for _ in range(300))


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("bert")
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["[PAD]", "[UNK]", *WORDS])}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    config = transformers.BertConfig(vocab_size=96, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
                                     max_position_embeddings=128)
    net = transformers.BertModel(config)
    with torch.no_grad():
        for p in net.parameters():
            p.mul_(4) if p.ndim == 2 else p.add_(0.1 * torch.randn_like(p))
    net.save_pretrained(folder)
    return folder


def test_compress_evaluate_restore(model, tmp_path):
    out, seen = tmp_path / "out.cpd", []
    result = encoder.compress(model, out, "int:4:group=32", TEXT, sequences=128, progress=lambda *a: seen.append(a[2]))
    assert result["bytes"] == out.stat().st_size and seen[-1] == "" and len(result["lost"]) == 2 * 6 + 1 + 2
    with open_file(out) as file:
        assert file["encoder.layer.0.output.dense.weight"].spec == "int:4:group=32"
        assert file["embeddings.LayerNorm.weight"].spec != "int:4:group=32"
        assert file["embeddings.word_embeddings.weight"].spec == "int:4:group=32"
        assert file["embeddings.position_embeddings.weight"].spec == "hadamard,int:8"
    report = encoder.evaluate(out, model, TEXT[2000:], count=60)
    assert 0.97 < report["cosine"] < 1 and report["cosine_1"] <= report["cosine"] and 0.5 < report["neighbours"] < 1
    same = encoder.evaluate(model, model, TEXT, count=40)
    assert abs(same["cosine"] - 1) < 1e-5 and same["neighbours"] == 1
    unpack(out, tmp_path / "restored")
    transformers.AutoModel.from_pretrained(tmp_path / "restored")
    with pytest.raises(OverwriteError):
        encoder.compress(model, out, "int:4", TEXT)
    with pytest.raises(InputError, match="sentences"):
        encoder.compress(model, tmp_path / "other.cpd", "int:4", "short")


def test_tuned_planned_stopped(model, tmp_path, monkeypatch):
    monkeypatch.setitem(encoder.EFFORT, "medium", (3, 8, 16))
    found = {}
    for name, how, spec in (("plain", False, "int:2"), ("tuned", True, "int:2"), ("planned", True, {"bits": 3.5})):
        found[name] = encoder.compress(model, tmp_path / f"{name}.cpd", spec, TEXT, sequences=256, tune=how)
    cosine = {name: encoder.evaluate(tmp_path / f"{name}.cpd", model, TEXT[2000:], count=60)["cosine"] for name in found}
    assert 1 - cosine["tuned"] < 0.95 * (1 - cosine["plain"]) and cosine["planned"] > cosine["plain"]
    assert len(found["tuned"]["losses"]) == 2 * 8 + 16 and abs(found["tuned"]["bytes"] - found["plain"]["bytes"]) < 4096
    planned = found["planned"]
    assert planned["expected"]["bits"] <= 3.5 and len(set(planned["specs"].values())) > 1 and planned["expected"]["loss"] > 0

    class Killed(Exception):
        pass

    def stop(at):
        def progress(done, total, what):
            if done >= at:
                raise Killed
        return progress

    out = tmp_path / "again.cpd"
    for at in (2, 9, 20, 35):
        with pytest.raises(Killed):
            encoder.compress(model, out, {"bits": 3.5}, TEXT, sequences=256, progress=stop(at))
    assert (tmp_path / "again.cpd.parts" / "plan.json").exists()
    encoder.compress(model, out, {"bits": 3.5}, TEXT, sequences=256)
    assert out.read_bytes() == (tmp_path / "planned.cpd").read_bytes() and not (tmp_path / "again.cpd.parts").exists()
    with pytest.raises(InputError, match="bits a value"):
        encoder.compress(model, tmp_path / "small.cpd", {"bits": 0.1}, TEXT, sequences=128)


def test_pairs(model):
    lines = TEXT.splitlines()
    pairs = "\n".join(f"{i % 6}\t{lines[i]}\t{lines[i + 1]}" for i in range(30))
    report = encoder.evaluate(model, model, pairs, pairs=True)
    assert report["spearman"] == report["spearman_reference"] and -100 <= report["spearman"] <= 100
    with pytest.raises(InputError, match="pairs"):
        encoder.evaluate(model, model, TEXT, pairs=True)


def test_spearman_is_scipys():
    scipy = pytest.importorskip("scipy.stats")
    x, y = RNG.standard_normal(50).round(1), RNG.integers(0, 5, 50)
    assert encoder.spearman(x, y) == pytest.approx(scipy.spearmanr(x, y)[0])


@pytest.mark.parametrize(("config", "what"), [
    ('{"architectures": ["BertModel"]}', True), ('{"architectures": ["LlamaForCausalLM"]}', False), ("{}", False), ("[", False),
    ("[]", False), ('{"architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": true}', False)])
def test_which_folders_are_encoders(tmp_path, config, what):
    (tmp_path / "config.json").write_text(config)
    assert encoder.is_encoder(tmp_path) is what


def test_command_line(model, tmp_path):
    from compand.cli.app import app

    (tmp_path / "text.txt").write_text(TEXT)
    out = tmp_path / "o.cpd"
    words = ["compress", str(model), "--bits", "4", "--effort", "low", "--calib", str(tmp_path / "text.txt"), "-o", str(out)]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, [*words[:-1], str(tmp_path / "small.cpd"), "--plan", "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["expected"]["bits"] <= 4
    result = CliRunner().invoke(app, [*words[:2], "--kld", "0.1", *words[4:], "-f"])
    assert result.exit_code == 2 and "encoder" in result.output
    result = CliRunner().invoke(app, ["eval", str(out), "--against", str(model), "--text", str(tmp_path / "text.txt"), "--json"])
    assert result.exit_code == 0 and json.loads(result.stdout)["cosine"] > 0.9
    result = CliRunner().invoke(app, ["eval", str(out), "--against", str(model), "--text", str(tmp_path / "text.txt"), "--card"])
    assert "cosine" in result.stdout
    result = CliRunner().invoke(app, ["info", str(out)])
    assert result.exit_code == 0 and "Measured" in result.stdout and "cosine 0.9" in result.stdout
    (tmp_path / "decoder").mkdir()
    (tmp_path / "decoder" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    result = CliRunner().invoke(app, ["eval", str(tmp_path / "decoder"), "--against", str(model), "--text", str(tmp_path / "text.txt")])
    assert result.exit_code == 1 and "does not hold an encoder" in result.output
    result = CliRunner().invoke(app, ["compress", str(model), "--bits", "4", "--calib", "self", "-f", "-o", str(out)])
    assert result.exit_code == 2 and "encoder" in result.output
