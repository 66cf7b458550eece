"""Codings of inputs in files: written, read, applied as they were fitted, and refused where they are not what they say."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import compand
from compand import Codec
from compand.errors import CompandError, InputError
from compand.modality import unpack

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

from test_encoder import TEXT, model  # noqa: E402, F401
from test_language import TEXT as WORDS  # noqa: E402
from test_language import make  # noqa: E402

from compand.integration import activation_file, encoder, language_eval  # noqa: E402
from compand.integration.activation_file import ACTIVATIONS, Coding, Codings, inner, packed, plain, specs_of, turned_back  # noqa: E402
from compand.integration.activation_fit import coded  # noqa: E402
from compand.torch.activation import CodedInputs  # noqa: E402

RNG = np.random.default_rng(0)
INPUTS = ["int:8:search=absmax", "int:8:per=tensor", "smooth:0.5,int:8:per=tensor", "hadamard,int:4", "permute,int:4:group=32",
          "scale:absmax:column,int:4:per=tensor", "smooth:0.5,hadamard,int:4"]


@pytest.mark.parametrize("inputs", INPUTS)
@pytest.mark.parametrize("weights", ["int:4:group=32", "hadamard,int:4"])
def test_codes_decode_to_the_weights_as_they_are(inputs, weights):
    linear = torch.nn.Linear(64, 16)
    x = (RNG.standard_normal((256, 64)) * np.exp(RNG.standard_normal(64))).astype(np.float32)
    layer = coded(linear, x, inputs, weights, correct=False)
    w = linear.weight.detach().numpy()
    codes = plain(layer.codes, layer.inputs)
    decoded = np.asarray(codes.codec.decode(codes), np.float32)
    assert np.square(x @ (decoded - w).T).sum() < 0.1 * np.square(x @ w.T).sum()
    again = inner(codes, layer.inputs)
    assert again.codec == layer.codes.codec
    same = CodedInputs(layer.inputs, again, linear.bias)
    assert torch.equal(same(torch.from_numpy(x[:9])), CodedInputs(layer.inputs, layer.codes, linear.bias)(torch.from_numpy(x[:9])))
    if turned_back(layer.inputs):
        with pytest.raises(CompandError, match="do not go with"):
            inner(Codec("int:4").encode(w), layer.inputs)


def test_an_encoder_is_written_read_and_measured(model, tmp_path):  # noqa: F811
    out = tmp_path / "w4a8.cpd"
    result = activation_file.compress(model, out, "int:4", TEXT, sequences=64, inputs="smooth:0.5,int:8:per=tensor")
    assert result["bytes"] == out.stat().st_size and len(result["lost"]) == 2 * 6 + 1 + 2
    with compand.open(out) as file:
        assert file[ACTIVATIONS].kind == "file"
        assert file["encoder.layer.0.output.dense.weight"].spec == "scale:absmax:column,int:4"
    own, tokenizer = encoder.open_encoder(model)
    plain_folder = unpack(out, tmp_path / "restored")
    nets = {"codes": encoder.open_encoder(plain_folder, out)[0], "floats": encoder.open_encoder(plain_folder)[0]}
    (tmp_path / "restored" / ACTIVATIONS).unlink()
    nets["weights alone"] = encoder.open_encoder(plain_folder)[0]
    texts = TEXT.splitlines()[:20]
    want, found = encoder.embed(own, tokenizer, texts), {k: encoder.embed(n, tokenizer, texts) for k, n in nets.items()}
    assert sum(isinstance(m, CodedInputs) for m in nets["codes"].modules()) == 13
    assert not any(isinstance(m, CodedInputs) for m in nets["weights alone"].modules())
    np.testing.assert_allclose(found["codes"], found["floats"], atol=2e-3)
    assert not np.array_equal(found["codes"], found["weights alone"])
    assert all((x * want).sum(1).mean() > 0.97 for x in found.values())
    report = encoder.evaluate(out, model, TEXT, count=40)
    assert 0.97 < report["cosine"] < 0.9999


def test_a_decoder_is_written_read_and_measured(tmp_path):
    folder, out = make(tmp_path / "model"), tmp_path / "w4a4.cpd"
    result = activation_file.compress(folder, out, "int:4", WORDS, inputs="hadamard,int:4", sequences=8, length=64)
    assert result["inputs"] == "hadamard,int:4" and result["bytes"] == out.stat().st_size
    with compand.open(out) as file:
        names = [n for n in file if file[n].spec == "hadamard,int:4" and n.endswith("proj.weight")]
    assert len(names) >= 3 * 4
    found = language_eval.evaluate(out, folder, WORDS[9000:], length=64, sequences=3)
    unpack(out, tmp_path / "restored")
    floats = language_eval.evaluate(tmp_path / "restored", folder, WORDS[9000:], length=64, sequences=3)
    assert floats["kld"] == pytest.approx(found["kld"], rel=0.05)
    (tmp_path / "restored" / ACTIVATIONS).unlink()
    alone = language_eval.evaluate(tmp_path / "restored", folder, WORDS[9000:], length=64, sequences=3)
    assert 0 < alone["kld"] < found["kld"] < 3


def hostile():
    row = Codec("int:8").encode(np.zeros((0, 64), np.float32))
    fitted = Codec("smooth:0.5,int:8").fit(RNG.standard_normal((9, 64)).astype(np.float32))
    name, fine = "encoder.layer.0.output.dense", Codec("int:8").encode(np.zeros((0, 128), np.float32))
    yield {"no.such.layer": row}
    yield {"embeddings.word_embeddings": row}
    yield {name: Codec("int:8").encode(np.zeros((0, 65), np.float32))}
    yield {name: Codec("raw").encode(np.zeros((0, 128), np.float32))}
    yield {name: Codec("planes,rans").encode(np.zeros((0, 128), np.float32))}
    yield {name: Codec("compand:tan,int:8").fit(RNG.standard_normal((9, 128)).astype(np.float32)).encode(np.zeros((0, 128), np.float32))}
    yield {name: Codec("scale:absmax:row,int:8").encode(np.zeros((0, 128), np.float32))}
    yield {name: fine, f"{name}.bias": Codec("raw").encode(np.zeros(3, np.float32))}
    yield {name: fine, f"{name}.bias": Codec("raw").encode(np.full(64, np.nan, np.float32))}
    yield {name: fine, f"{name}.bias": Codec("raw").encode(np.zeros(64, np.float16))}
    yield {name: Codec("int:8").encode(np.zeros(128, np.float32))}
    yield {"encoder.layer.0.attention.self.query": fitted.encode(np.zeros((0, 64), np.float32))}  # weights are not coded for it


@pytest.mark.parametrize("entries", list(hostile()))
def test_whatever_the_file_says_ends_in_an_error(model, tmp_path, entries):  # noqa: F811
    out = tmp_path / "x.cpd"
    encoder_bytes = tmp_path / ACTIVATIONS
    with compand.Writer(encoder_bytes) as file:
        for name, codes in entries.items():
            file.write_codes(name, codes)
    with compand.modality.detect(model) as source:
        compand.modality.pack(source, out, spec="int:8")
    net = transformers.AutoModel.from_pretrained(model)
    with pytest.raises(CompandError):
        Codings(tmp_path, out).put(net)


def test_damaged_files_end_in_an_error(tmp_path):
    codec = Codec("smooth:0.5,int:8").fit(RNG.standard_normal((9, 64)).astype(np.float32))
    good = packed({"a": Coding(codec, 64, np.zeros(4, np.float32))})
    path = tmp_path / ACTIVATIONS
    path.write_bytes(good)
    assert list(Codings(tmp_path).layers) == ["a"]
    for at in range(0, len(good), 7):
        path.write_bytes(good[:at] + bytes([good[at] ^ 255]) + good[at + 1:])
        try:
            Codings(tmp_path)
        except CompandError:
            continue
    path.write_bytes(good[:-9])
    with pytest.raises(CompandError):
        Codings(tmp_path)


def test_specs():
    assert specs_of("8", 4) == ("int:8:search=absmax", "int:4") and specs_of("4", 4)[0] == "hadamard,int:4"
    assert specs_of("smooth:0.5,int:8", 8) == ("smooth,int:8", "int:8") or specs_of("smooth:0.5,int:8", 8)[0].endswith("int:8")
    with pytest.raises(InputError, match="kept in a file"):
        turned_back(Codec("center,int:8").fit(RNG.standard_normal((9, 8)).astype(np.float32)))


def test_command_line(model, tmp_path):  # noqa: F811
    from compand.cli.app import app

    def call(*words):
        return CliRunner().invoke(app, [*map(str, words)])

    (tmp_path / "text.txt").write_text("\n".join(TEXT.splitlines()[:60]))
    out = tmp_path / "o.cpd"
    result = call("compress", model, "--bits", 8, "--activations", 8, "--calib", tmp_path / "text.txt", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["inputs"] == "int:8:search=absmax"
    result = call("eval", out, "--against", model, "--text", tmp_path / "text.txt", "--json")
    assert result.exit_code == 0 and 0.99 < json.loads(result.stdout)["cosine"] < 1
    result = call("compress", model, "--bits", 8, "--activations", 8, "-o", out, "-f")
    assert result.exit_code == 2 and "--calib" in result.output
    result = call("compress", model, "--bits", 8, "--activations", "center,int:8", "--calib", tmp_path / "text.txt", "-o", out, "-f")
    assert result.exit_code != 0 and "kept in a file" in result.output
