"""Whole language models, on a small random Llama and its untied, biased cousin."""

import json

import numpy as np
import pytest

from compand import open as open_file
from compand.errors import FormatError, InputError, OverwriteError
from compand.fit.hessian import Hessian
from compand.integration import language_eval, language_fit
from compand.integration.language import Language
from compand.modality import unpack

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

WORDS = [f"w{i}" for i in range(94)]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 4000))


def make(folder, kind="llama", tied=True):
    from tokenizers import Tokenizer, models, pre_tokenizers

    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "<unk>", *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(folder)
    sizes = {"vocab_size": 96, "hidden_size": 48, "intermediate_size": 80, "num_hidden_layers": 3, "num_attention_heads": 4,
             "num_key_value_heads": 2, "head_dim": 12, "tie_word_embeddings": tied, "max_position_embeddings": 256}
    bias = {"attention_bias": kind == "biased"} if kind in ("llama", "biased") else {}
    kinds = {"mistral": transformers.MistralConfig, "gemma": transformers.Gemma3TextConfig}
    config = kinds.get(kind, transformers.LlamaConfig)(**sizes, **bias)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4) if p.ndim == 2 else p.add_(0.1 * torch.randn_like(p))
    model.to(torch.bfloat16 if kind == "llama" else torch.float32).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return make(tmp_path_factory.mktemp("llama"))


def test_layers_on_demand_are_the_model(model):
    whole = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    language = Language(model)
    ids = language.tokens(TEXT, 32, 2)
    assert ids.shape == (2, 32) and (ids[:, 0] == 0).all() and language.tied
    with torch.no_grad():
        hidden = language_eval._hidden(language, ids)
        for h, row in zip(hidden, ids, strict=True):
            torch.testing.assert_close(language.logits(h), whole(row[None]).logits[0])
    assert all(p.device.type == "meta" for p in language.layers.parameters())
    language.close()


@pytest.mark.parametrize(("kind", "tied"), [("llama", True), ("mistral", False)])
def test_compress_evaluate_restore(tmp_path, kind, tied):
    folder, out = make(tmp_path / "model", kind, tied), tmp_path / "out.cpd"
    seen = []
    result = language_fit.compress(folder, out, "hadamard,int:4", TEXT, sequences=6, length=64, progress=lambda *a: seen.append(a))
    assert result["bytes"] == out.stat().st_size and not (tmp_path / "out.cpd.parts").exists()
    assert [s[0] for s in seen] == [0, 1, 2, 3, 4] and len(result["lost"]) == 3 * 7 + 1 + (not tied)
    assert all(0 <= v < 0.05 for v in result["lost"].values())
    report = language_eval.evaluate(out, folder, TEXT[9000:], length=64, sequences=3)
    assert 0 < report["kld"] < report["kld_99"] < 3 and 0.5 < report["top1"] < 1 and report["tokens"] == 189
    exact = language_eval.evaluate(folder, folder, TEXT[9000:], length=64, sequences=1)
    assert abs(exact["kld"]) < 1e-6 and exact["top1"] == 1 and exact["perplexity"] == exact["perplexity_reference"]
    unpack(out, tmp_path / "restored")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "restored")
    with open_file(out) as file:
        name = "model.layers.0.mlp.down_proj.weight"
        np.testing.assert_array_equal(again.get_parameter(name).detach().float().numpy(), file[name].array().astype(np.float32))
        assert str(file[name].spec) == "hadamard,int:4"
    with pytest.raises(OverwriteError):
        language_fit.compress(folder, out, "int:4", TEXT)


def test_biases_keep_the_mean_of_the_outputs(tmp_path):
    folder, out = make(tmp_path / "model", "biased"), tmp_path / "out.cpd"
    result = language_fit.compress(folder, out, "hadamard,int:2:mid=true", TEXT, sequences=6, length=64)
    language = Language(folder)
    ids = language.tokens(TEXT, 64, 6)
    with torch.no_grad(), open_file(out) as file:
        hidden = [language.load(language.embedding)(row[None]) for row in ids]
        first = language.load(language.layers[0])
        seen = []
        first.self_attn.v_proj.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
        for h in hidden:
            first(h, **language.arguments(ids[:1])[0])
        x, name = torch.cat(seen).reshape(-1, 48).numpy(), "model.layers.0.self_attn.v_proj"
        before = x @ language.weight(f"{name}.weight").T + language.weight(f"{name}.bias")
        after = x @ file[f"{name}.weight"].array().T + file[f"{name}.bias"].array()
    language.close()
    assert np.abs((after - before).mean(0)).max() < 1e-4 < np.abs(after - before).max() and result["lost"][f"{name}.bias"] == 0


def test_second_order_beats_rounding(model, tmp_path):
    fed = language_fit.compress(model, tmp_path / "a.cpd", "hadamard,trellis:2:memory=12", TEXT, sequences=8, length=64)
    original = Hessian.matrix
    try:
        Hessian.matrix = property(lambda self: np.eye(len(self.total)))
        language_fit.compress(model, tmp_path / "b.cpd", "hadamard,trellis:2:memory=12", TEXT, sequences=8, length=64)
    finally:
        Hessian.matrix = original
    a, b = (language_eval.evaluate(tmp_path / f, model, TEXT[9000:], length=64, sequences=6) for f in ("a.cpd", "b.cpd"))
    assert a["kld"] < b["kld"] * 0.95 and a["bits"] == pytest.approx(b["bits"], rel=0.01) and fed["values"] > 0


def test_a_stopped_run_goes_on_to_the_same_bytes(model, tmp_path):
    whole, out = tmp_path / "whole.cpd", tmp_path / "out.cpd"
    language_fit.compress(model, whole, "int:3:group=16", TEXT, sequences=4, length=48)

    class Killed(Exception):
        pass

    def stop(done, total, name):
        if done == 2:
            raise Killed

    with pytest.raises(Killed):
        language_fit.compress(model, out, "int:3:group=16", TEXT, sequences=4, length=48, progress=stop)
    parts = tmp_path / "out.cpd.parts"
    assert sorted(p.name for p in parts.glob("*.cpd")) == ["model.layers.0.cpd", "model.layers.1.cpd"]
    (parts / "model.layers.1.cpd").write_bytes(b"cut short")
    before = (parts / "model.layers.0.cpd").stat().st_mtime_ns
    with pytest.raises(Killed):
        language_fit.compress(model, out, "int:3:group=16", TEXT, sequences=4, length=48, progress=stop)
    assert (parts / "model.layers.0.cpd").stat().st_mtime_ns == before
    language_fit.compress(model, out, "int:3:group=16", TEXT, sequences=4, length=48)
    assert out.read_bytes() == whole.read_bytes()
    with pytest.raises(Killed):
        language_fit.compress(model, tmp_path / "c.cpd", "int:3:group=16", TEXT, sequences=4, length=48, progress=stop)
    language_fit.compress(model, tmp_path / "c.cpd", "int:4:group=16", TEXT, sequences=4, length=48)  # other settings start anew
    assert open_file(tmp_path / "c.cpd")["model.layers.0.mlp.up_proj.weight"].spec == "int:4:group=16"


def test_faults_are_named(model, tmp_path):
    with pytest.raises(InputError, match="give more text"):
        language_fit.compress(model, tmp_path / "x.cpd", "int:4", "w1 w2", length=64)
    with pytest.raises(InputError, match="bits must be"):
        language_fit.specs_of(9)
    (tmp_path / "empty").mkdir()
    with pytest.raises(FormatError, match="config.json"):
        Language(tmp_path / "empty")
    (tmp_path / "y.cpd.parts").mkdir()
    (tmp_path / "y.cpd.parts" / "mine.txt").write_text("keep")
    with pytest.raises(InputError, match="move it away"):
        language_fit.compress(model, tmp_path / "y.cpd", "int:4", TEXT, sequences=2, length=32)
    assert (tmp_path / "y.cpd.parts" / "mine.txt").read_text() == "keep"
    with pytest.raises(InputError, match="whole rows"):
        language_fit.compress(model, tmp_path / "z.cpd", "ecsq:2", TEXT, sequences=2, length=32)
    assert not (tmp_path / "z.cpd.parts").exists()
    assert json.loads((model / "config.json").read_text())["num_hidden_layers"] == 3


def test_a_model_writes_its_own_calibration_text(model, tmp_path):
    from compand.integration.language_generate import generate

    seen = []
    ids = generate(model, sequences=6, length=64, seed=3, progress=lambda *a: seen.append(a))
    assert ids.shape == (6, 64) and (ids[:, 0] == 0).all() and (ids[:, 1:] > 1).all()  # special tokens are not drawn
    assert seen[-1] == (63, 63) and len(seen) == 63
    assert torch.equal(ids, generate(model, sequences=6, length=64, seed=3, batch=4))
    assert not torch.equal(ids, generate(model, sequences=6, length=64, seed=4))
    language = Language(model)
    language.whole()
    with torch.no_grad():  # each token is drawn as the model, which here sees the whole sequence at once, says
        p = torch.stack([language.logits(language.states(row)) for row in ids])[:, :-1]
        p[..., :2] = -torch.inf
        own = -p.log_softmax(-1).gather(-1, ids[:, 1:, None]).mean()
        entropy = torch.distributions.Categorical(logits=p).entropy().mean()
        other = -p.log_softmax(-1).gather(-1, ids[:, 1:].flip(0)[..., None]).mean()
    assert abs(own - entropy) < 0.1 < other - entropy
    assert torch.equal(language.tokens(ids, 32, 2), ids[:2, :32])
    for wrong in (ids[:, :8], ids[0], ids + 96):
        with pytest.raises(InputError, match="belong"):
            language.tokens(wrong, 32)
    language.close()
    kept = {name: language_fit.compress(model, tmp_path / name, "hadamard,trellis:2:memory=12", text, sequences=6, length=64)
            for name, text in (("own.cpd", ids), ("text.cpd", TEXT))}
    a, b = (language_eval.evaluate(tmp_path / f, model, TEXT[9000:], length=64, sequences=4)["kld"] for f in kept)
    assert a < 2 * b


def test_an_end_begins_a_new_document(tmp_path):
    from compand.integration.language_generate import generate

    folder = make(tmp_path / "model")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.eos_token = "w5"
    tokenizer.save_pretrained(folder)
    ids = generate(folder, sequences=8, length=128)
    ends = (ids[:, :-1] == tokenizer.eos_token_id).nonzero()
    assert len(ends) > 2 and all(ids[i, t + 1] == 0 for i, t in ends)
    assert (ids[:, 1:] == 0).sum() == len(ends)


def test_command_line(model, tmp_path):
    from typer.testing import CliRunner

    from compand.cli.app import app

    def run(*args):
        result = CliRunner().invoke(app, [str(a) for a in args])
        return result.exit_code, result.output

    text, out = tmp_path / "text.txt", tmp_path / "m.cpd"
    text.write_text(TEXT * 3)
    code, said = run("compress", model, "-o", out, "--bits", "3", "--calib", text, "--effort", "low")
    assert code == 0 and "bits/value" in said and out.exists(), said
    code, said = run("eval", out, "--against", model, "--text", text, "--json")
    report = json.loads(said[said.index("{"):])
    assert code == 0 and 0 < report["kld"] < 1 and report["bits"] > 3
    code, said = run("eval", model, out, "--text", text, "--card")
    assert code == 0 and "KL divergence" in said and "the card is in" in said
    code, said = run("info", out)
    assert code == 0 and "Measured" in said and "same next token" in said and f"against {model.name}" in said
    assert run("eval", model, out, "--card")[0] == 2 and run("eval", out, model, "--text", text, "--card")[0] == 2
    assert run("eval", out)[0] == 2
    code, said = run("compress", model, "-o", out, "-f", "--bits", "4.5", "--calib", text, "--effort", "low", "--json")
    report, _ = json.JSONDecoder().raw_decode(said[said.index("{"):])  # remarks on stderr may follow
    assert code == 0 and len(set(report["specs"].values())) > 1 and report["expected"]["kld"] > 0
    assert {"spec", "bytes", "kld"} <= set(report["plan"][0])
    code, said = run("compress", model, "-o", out, "-f", "--size", "60kB", "--calib", text, "--effort", "low", "-v")
    assert code == 0 and 40_000 < out.stat().st_size <= 60_000 and "more than the next smaller won" in said, said
    assert run("compress", model, "--kld", "0.1")[0] == run("compress", model, "--size", "60kB", "--plan", "--calib", text)[0] == 2
    code, said = run("compress", model, "-o", out, "-f", "--bits", "2", "--calib", "self", "--effort", "low", "--seed", "5")
    assert code == 0 and "writes itself (seed 5)" in said and "tuned" not in said
    text.write_text(" ".join(TEXT.split()[:300]))
    two = ("-o", out, "-f", "--bits", "2", "--calib", text, "--effort", "low", "--tune")
    code, said = run("compress", model, *two)
    assert code == 0 and "tuned]" in said
    before = out.read_bytes()
    code, said = run("compress", model, *two, "--fit", "kronecker")
    assert code == 0 and out.read_bytes() != before, said
    code, said = run("compress", model, *two, "--blocks", "--pv", "--device", "cpu", "--json")
    report, _ = json.JSONDecoder().raw_decode(said[said.index("{"):])
    assert code == 0 and len(report["pv"]["moved"]) == 2 and not list(tmp_path.glob("*.moved")) and out.stat().st_size == report["bytes"]
    code, said = run("compress", model, "vq:16:dim=4", "-o", tmp_path / "v.cpd", "--calib", text, "--effort", "low", "--tune", "--pv")
    assert code == 0 and "codes stay as they are" in said
    for words in ([], ["--bits", "2", "--effort", "much"], ["--bits", "2", "--fit", "much"], ["--lossless"],
                  ["--bits", "2", "--device", "tpu"]):
        assert run("compress", model, "--calib", text, *words)[0] == 2
    for words in (["--no-tune"], ["--fit", "kronecker"], ["--blocks"], ["--pv"], ["--device", "cpu"]):
        assert run("compress", model, "--bits", "4", *words)[0] == 2
    code, said = run("compress", model / "model.safetensors", "--bits", "3", "--calib", text)
    assert code == 2 and "model folder" in said
    (tmp_path / "m.gguf").write_bytes(b"GGUF")
    code, said = run("compress", tmp_path / "m.gguf", "--bits", "3", "--calib", text)
    assert code == 2 and "transcode" in said
    code, said = run("info", out, "--json")
    groups = json.loads(said)["bytes_by_group"]
    assert groups["symbols"] > 2 * groups["scales"] > 0


def test_act_order_is_another_order(model, tmp_path):
    made = {}
    for order in ("natural", "activity"):
        language_fit.compress(model, tmp_path / "o.cpd", "int:3", TEXT, sequences=4, length=64, order=order, overwrite=True)
        with open_file(tmp_path / "o.cpd") as file:
            made[order] = file["model.layers.0.mlp.up_proj.weight"].array()
    assert not np.array_equal(made["natural"], made["activity"])


def test_without_text_bits_mean_the_same(model, tmp_path):
    from typer.testing import CliRunner

    from compand.cli.app import app

    def run(*args):
        result = CliRunner().invoke(app, [str(a) for a in args])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    made = run("compress", model, "--bits", "3", "-o", tmp_path / "a.cpd", "--json")
    assert made["spec"] == "hadamard,trellis:3" and made["relative_error"] < 0.2
    lossy = {a["name"] for a in made["arrays"] if a["relative_error"]}
    assert len(lossy) == 3 * 7 + 1  # all matrices
    most = made["bits_per_value"] + 1
    made = run("compress", model, "--bits", f"{most + 0.01:.2f}", "-o", tmp_path / "b.cpd", "--json")
    assert most - 0.7 < made["bits_per_value"] <= most + 0.01
    assert {a["spec"].partition(":")[0] for a in made["arrays"] if a["relative_error"]} <= {
        "hadamard,trellis", "hadamard,(trellis", "hadamard,int"}
    result = CliRunner().invoke(app, ["compress", str(model), "--bits", "3", "-o", str(tmp_path / "c.cpd")])
    assert "--calib FILE" in result.output
