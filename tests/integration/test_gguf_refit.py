"""Refitted GGUF files: same bytes but for the codes, less lost, rotary order kept, faults told."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from compand.errors import CompandError, FormatError, InputError, OverwriteError
from compand.modality import detect
from compand.modality.gguf import Gguf
from compand.modality.gguf_grid import GRIDS
from compand.modality.gguf_write import write_gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

from compand.integration import gguf_refit  # noqa: E402
from compand.integration.gguf_folder import LAYER, NAMES  # noqa: E402

WORDS = [f"w{i}" for i in range(94)]
TEXT = " ".join(np.random.default_rng(0).choice(WORDS, 4000))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small random llama as folder, GGUF of full precision and quantized GGUF."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    root = tmp_path_factory.mktemp("refit")
    torch.manual_seed(0)
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<s>", "<unk>", *WORDS])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", unk_token="<unk>").save_pretrained(root / "hf")
    config = transformers.LlamaConfig(vocab_size=96, hidden_size=64, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                                      num_key_value_heads=2, head_dim=16, tie_word_embeddings=True, max_position_embeddings=256)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(4) if p.ndim == 2 else p.add_(0.1 * torch.randn_like(p))
    model.float().save_pretrained(root / "hf")
    tensors, kinds = {}, {"attn_v": "Q8_0", "ffn_down": "Q3_K", "token_embd": "IQ4_NL"}
    for name, p in model.named_parameters():
        x = p.detach().numpy()
        words = name.split(".")
        if "layers" in words:
            own = {v: k for k, v in LAYER.items()}[".".join(words[3:-1])]
            name = f"blk.{words[2]}.{own}.weight"
            if own in ("attn_q", "attn_k"):  # halves → pairs
                x = x.reshape(4 if own == "attn_q" else 2, 2, 8, 64).swapaxes(1, 2).reshape(x.shape)
        else:
            own = {v: k for k, v in NAMES.items()}[".".join(words[:-1])]
            name = f"{own}.weight"
        tensors[name] = (x, kinds.get(own, "Q4_0") if x.ndim == 2 else "F32")
    meta = {"general.architecture": "llama", "llama.attention.head_count": 4, "llama.attention.head_count_kv": 2, "llama.block_count": 2,
            "llama.embedding_length": 64, "llama.feed_forward_length": 256, "llama.attention.layer_norm_rms_epsilon": 1e-6,
            "llama.context_length": 256}
    write_gguf(root / "full.gguf", {n: ("F32", x) for n, (x, _) in tensors.items()}, meta)
    write_gguf(root / "small.gguf", {n: (kind, x) for n, (x, kind) in tensors.items()}, meta)
    rng = np.random.default_rng(1)
    sums = {}
    for n, (x, _) in tensors.items():
        if x.ndim == 2:
            sums[f"{n}.in_sum2"] = ("F32", rng.uniform(0.1, 5, x.shape[-1:]).astype(np.float32) * 7)
            sums[f"{n}.counts"] = ("F32", np.float32([7]))
    write_gguf(root / "imatrix.gguf", sums, {"general.type": "imatrix"})
    return root


def arrays(path):
    with detect(path) as source:
        return {i.name: np.array(i.load()) for i in source.items()}, source.tensors, source.metadata


def test_text(made, tmp_path):
    seen = []
    result = gguf_refit.refit(made / "small.gguf", made / "hf", tmp_path / "out.gguf", calibration=TEXT, sequences=8, length=64,
                              progress=lambda *a: seen.append(a[2]))
    before, tensors, meta = arrays(made / "small.gguf")
    after, same, again = arrays(tmp_path / "out.gguf")
    full, _, _ = arrays(made / "full.gguf")
    assert tensors == same and str(meta) == str(again) and result["bytes"] == (made / "small.gguf").stat().st_size
    assert result["kept"] == [f"blk.{i}.attn_v.weight" for i in (0, 1)] and seen[-1] == "token_embd.weight" and len(seen) == 13
    for name, (old, new) in result["lost"].items():
        assert 0 < new < 0.75 * old, name
        assert not np.array_equal(before[name], after[name])
        size = np.square(full[name]).mean()  # rows are in the order of the file: weights themselves stay near
        assert np.square(after[name] - full[name]).mean() < 6 * np.square(before[name] - full[name]).mean() < 0.3 * size
    for name in set(before) - set(result["lost"]):
        np.testing.assert_array_equal(before[name], after[name])
    with pytest.raises(OverwriteError):
        gguf_refit.refit(made / "small.gguf", made / "hf", tmp_path / "out.gguf", calibration=TEXT, sequences=1, length=64)


@pytest.mark.parametrize("reference", ["full.gguf", "hf"])
@pytest.mark.parametrize("imatrix", [True, False])
def test_imatrix_or_nothing(made, tmp_path, reference, imatrix):
    path = made / "imatrix.gguf" if imatrix else None
    result = gguf_refit.refit(made / "small.gguf", made / reference, tmp_path / "out.gguf", imatrix=path)
    assert len(result["lost"]) == 13 and all(new <= old for old, new in result["lost"].values())
    mean = [np.mean([v[i] for v in result["lost"].values()]) for i in (0, 1)]
    assert mean[1] < (0.95 if imatrix else 1.0) * mean[0]


def test_command_line(made, tmp_path):
    from compand.cli.app import app

    (tmp_path / "text.txt").write_text(TEXT)
    args = ["refit", str(made / "small.gguf"), "--reference", str(made / "hf"), "-o", str(tmp_path / "o.gguf")]
    result = CliRunner().invoke(app, [*args, "--calib", str(tmp_path / "text.txt"), "--tokens", "1024", "--sweeps", "1", "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["bytes"] == (tmp_path / "o.gguf").stat().st_size
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 1 and "exists" in result.stderr
    result = CliRunner().invoke(app, [*args, "-f"])
    assert result.exit_code == 0 and "as before" in result.stdout


def test_faults(made, tmp_path):
    out = tmp_path / "out.gguf"
    with pytest.raises(InputError, match="no tensor of a type"):
        gguf_refit.refit(made / "full.gguf", made / "hf", out)
    with pytest.raises(InputError, match="not both"):
        gguf_refit.refit(made / "small.gguf", made / "hf", out, calibration=TEXT, imatrix=made / "imatrix.gguf")
    with pytest.raises(InputError, match="no imatrix"):
        gguf_refit.refit(made / "small.gguf", made / "hf", out, imatrix=made / "full.gguf")
    write_gguf(tmp_path / "other.gguf", {"token_embd.weight": ("F32", np.zeros((96, 32), np.float32))})
    with pytest.raises(InputError, match="same model"):
        gguf_refit.refit(made / "small.gguf", tmp_path / "other.gguf", out)
    with Gguf(made / "small.gguf") as source:
        kept = {t.name: (t.type.name, source.file.array(source.data_start + t.start, "uint8", (t.shape[0], t.nbytes // t.shape[0])))
                for t in source.tensors if t.type.name in GRIDS}
        write_gguf(tmp_path / "odd.gguf", kept, {**source.metadata, "llama.attention.head_count": 5})
    with pytest.raises(FormatError, match="head_count"):
        gguf_refit.refit(tmp_path / "odd.gguf", made / "hf", out)
    (tmp_path / "cut.gguf").write_bytes((made / "small.gguf").read_bytes()[:5000])
    with pytest.raises(CompandError):
        gguf_refit.refit(tmp_path / "cut.gguf", made / "hf", out)
    assert not out.exists()
