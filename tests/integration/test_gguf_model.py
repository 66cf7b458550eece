"""Model folders become GGUF files: the same model and tokens when read back, types as asked for, damage told."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

import compand
from compand.cli.app import app
from compand.errors import CompandError, FormatError, InputError, UnsupportedError
from compand.modality.gguf import Gguf

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers  # noqa: E402

from compand.integration.gguf_folder import to_folder  # noqa: E402
from compand.integration.gguf_mixture import names, type_of  # noqa: E402
from compand.integration.gguf_model import from_folder  # noqa: E402
from compand.integration.gguf_tokenizer import PATTERNS  # noqa: E402

TEXT = "The cat sat on the mat, and 12 dogs won't see it. Größe! " * 30 + "\n\n  indented\ttext 007 \n"
ROWS = 400


def tokenizer(kind):
    """Byte-level BPE cut in one of three ways, or BPE as SentencePiece has it."""
    if kind == "pieces":
        found = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
        found.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
        special = ["<unk>", "<s>", "</s>", *(f"<0x{i:02X}>" for i in range(256))]
        found.train_from_iterator(["".join("▁" + w for w in TEXT.split())], trainers.BpeTrainer(
            vocab_size=360, special_tokens=special, max_token_length=8, show_progress=False))
        raw = json.loads(found.to_str())
        raw["added_tokens"] = raw["added_tokens"][:3]
        found = Tokenizer.from_str(json.dumps(raw))
        found.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
        found.post_processor = processors.TemplateProcessing(single=["<s>", "$A"], special_tokens=[("<s>", 1)])
        return transformers.PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<s>", eos_token="</s>", unk_token="<unk>")
    found = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=kind == "gpt-2")
    found.pre_tokenizer = level if kind == "gpt-2" else pre_tokenizers.Sequence(
        [pre_tokenizers.Split(__import__("tokenizers").Regex(PATTERNS[kind]), "isolated"), level])
    found.decoder = decoders.ByteLevel()
    found.train_from_iterator([TEXT], trainers.BpeTrainer(vocab_size=360, special_tokens=["<|end|>"], show_progress=False,
                                                          initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
    return transformers.PreTrainedTokenizerFast(tokenizer_object=found, bos_token="<|end|>", eos_token="<|end|>")


def made(folder, family="Llama", words="gpt-2", hidden=64, ffn=256, **more):
    torch.manual_seed(0)
    config = getattr(transformers, f"{family}Config")(**{
        "vocab_size": ROWS, "hidden_size": hidden, "intermediate_size": ffn, "num_hidden_layers": 2, "num_attention_heads": 4,
        "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 256, "tie_word_embeddings": family != "Qwen2", **more})
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.copy_(0.1 * torch.randn_like(p) + (name.endswith("norm.weight") and "Gemma" not in family))
    model.save_pretrained(folder)
    tokenizer(words).save_pretrained(folder)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(torch.arange(0, 60)[None]).logits


@pytest.mark.parametrize(("family", "words", "more"), [
    ("Llama", "pieces", {}), ("Llama", "llama-bpe", {"attention_bias": True}), ("Qwen2", "qwen2", {}), ("Qwen3", "qwen2", {}),
    ("Gemma3Text", "pieces", {"num_hidden_layers": 7, "sliding_window": 16, "query_pre_attn_scalar": 16}), ("Llama", "gpt-2", {
        "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5}})])
def test_there_and_back(tmp_path, family, words, more):
    model = made(tmp_path / "m", family, words, **more)
    result = from_folder(tmp_path / "m", tmp_path / "m.gguf")
    assert result["types"] == {"F32": sum(p.ndim == 2 for p in model.parameters())} and not result["fitted"]
    to_folder(tmp_path / "m.gguf", tmp_path / "again", dtype="float32")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again", dtype=torch.float32).eval()
    torch.testing.assert_close(logits(again), logits(model), rtol=1e-5, atol=1e-5)
    ours, theirs = (transformers.AutoTokenizer.from_pretrained(tmp_path / n) for n in ("again", "m"))
    for said in (TEXT, "a  b", "1234567 I'm\n\n\nx", "ÄÖ 日本"):
        assert ours(said)["input_ids"] == theirs(said)["input_ids"]
        assert ours.decode(ours(said)["input_ids"]) == theirs.decode(theirs(said)["input_ids"])
    assert (ours.bos_token, ours.eos_token) == (theirs.bos_token, theirs.eos_token)
    with Gguf(tmp_path / "m.gguf") as source:
        kinds = source.metadata["tokenizer.ggml.token_type"]
        assert source.metadata["tokenizer.ggml.tokens"][-1] == f"[PAD{ROWS - 1}]" and kinds[-1] == 5
        assert (kinds == 6).sum() == (256 if words == "pieces" else 0)
        assert source.metadata["tokenizer.ggml.add_bos_token"] == (words == "pieces")


def test_rotary_frequencies_of_llama3(tmp_path):
    turn = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 64,
            "rope_theta": 5e5}
    model = made(tmp_path / "m", rope_parameters=turn)
    from_folder(tmp_path / "m", tmp_path / "m.gguf")
    with Gguf(tmp_path / "m.gguf") as source:
        factors = next(i for i in source.items() if i.name == "rope_freqs.weight").load()
    plain = 5e5 ** (-np.arange(0, 16, 2) / 16)
    np.testing.assert_allclose(plain / factors, model.model.rotary_emb.inv_freq, rtol=1e-6)
    assert len(set(np.round(factors, 3))) > 2


def test_types_as_llama_cpp_gives_them():
    def of(mixture, own, i=0, shape=(256, 256), **more):
        return type_of(mixture, f"blk.{i}.{own}.weight", shape, 16, **{"tied": True, **more})

    assert [of("Q4_K_M", "ffn_down", i) for i in range(16)] == [
        "Q6_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q4_K", "Q4_K", "Q6_K", "Q6_K", "Q6_K"]
    assert [of("Q4_K_S", "attn_v", i) for i in (3, 4)] == ["Q5_K", "Q4_K"] and of("Q5_K_M", "attn_q") == "Q5_K"
    assert [of("Q3_K_M", own) for own in ("attn_v", "ffn_down", "attn_output", "ffn_up")] == ["Q5_K", "Q5_K", "Q4_K", "Q3_K"]
    assert [of("Q2_K", own) for own in ("attn_v", "ffn_down", "attn_output", "ffn_up")] == ["Q3_K", "Q3_K", "Q3_K", "Q2_K"]
    assert of("Q2_K", "attn_v", shared=4) == "Q4_K" and of("IQ4_XS", "attn_v") == of("IQ4_XS", "ffn_down") == "IQ4_XS"
    assert [of(m, "ffn_up", shape=(256, 640)) for m in ("Q4_K_M", "Q2_K", "IQ4_XS", "Q6_K", "Q4_0")] == [
        "Q5_0", "Q4_0", "IQ4_NL", "Q8_0", "Q4_0"]
    assert of("Q4_0", "ffn_up", shape=(256, 50)) == "F16"
    ends = {"shape": (400, 256), "layers": 16}
    assert type_of("Q4_K_M", "token_embd.weight", tied=True, **ends) == type_of("Q4_0", "output.weight", tied=False, **ends) == "Q6_K"
    assert type_of("Q4_K_M", "token_embd.weight", tied=False, **ends) == "Q4_K"
    assert type_of("Q2_K", "token_embd.weight", tied=True, ends="Q8_0", **ends) == "Q8_0"
    assert type_of("Q2_K", "blk.0.attn_norm.weight", (256,), 16, tied=True) == "F32"
    with pytest.raises(InputError, match="Q4_K_M"):
        of("Q9_K", "attn_v")
    assert set(type_of(m, f"blk.{i}.{own}.weight", (8, 256), 9, tied=True) for m in names() for i in range(9)
               for own in ("attn_v", "ffn_down", "attn_output", "attn_q")) <= set(names())


def test_the_command_line(tmp_path):
    torch.set_num_threads(1)
    model = made(tmp_path / "m", hidden=256, words="gpt-2", num_hidden_layers=1)
    (tmp_path / "text.txt").write_text("".join(np.random.default_rng(0).choice(TEXT.split(" "), 9000)))

    def run(*words):
        result = CliRunner().invoke(app, ["transcode", *map(str, words), "--json"])
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout)

    found = run(tmp_path / "m", tmp_path / "a.gguf", "--type", "Q4_K_M")
    assert found["types"] == {"Q6_K": 3, "Q4_K": 4, "Q5_0": 1}  # rows of 64 of the output of attention
    fitted = run(tmp_path / "m", tmp_path / "b.gguf", "--type", "Q4_K_M", "--calib", tmp_path / "text.txt", "--tokens", 1024)
    assert fitted["fitted"] and fitted["bytes"] == found["bytes"] and fitted["types"] == found["types"]
    compand.modality.pack(tmp_path / "m", tmp_path / "m.cpd", lossless=True)
    told = CliRunner().invoke(app, ["decompress", str(tmp_path / "m.cpd"), "--to", "gguf", "-o", str(tmp_path / "x.gguf")])
    assert told.exit_code == 1 and "compand transcode" in told.output.replace("\n", " ")
    run(tmp_path / "m.cpd", tmp_path / "c.gguf", "--type", "Q4_K_M", "--ends", "Q4_0")
    run(tmp_path / "a.gguf", tmp_path / "d.gguf", "--type", "Q8_0")
    lost = {}
    for name in "abcd":
        to_folder(tmp_path / f"{name}.gguf", tmp_path / name, dtype="float32")
        again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / name, dtype=torch.float32).eval()
        lost[name] = float(torch.nn.functional.kl_div(logits(again).log_softmax(-1), logits(model).log_softmax(-1), log_target=True,
                                                      reduction="batchmean"))
    assert 0 < lost["a"] < lost["c"] and abs(lost["d"] - lost["a"]) < 0.1 * lost["a"] and lost["b"] < lost["c"]
    for words in (["m", "x.cpd"], ["m", "x"], ["a.gguf", "x.cpd"], ["m", "x.gguf", "--quality", "3"], ["m.cpd", "x", "--type", "Q4_0"]):
        paths = [str(tmp_path / w) if w[0] in "max" else w for w in words]
        result = CliRunner().invoke(app, ["transcode", *paths])
        assert result.exit_code in (1, 2) and not any(p.name.startswith("x") for p in tmp_path.iterdir()), words


@pytest.mark.parametrize(("change", "error", "said"), [
    ({"model_type": "mamba"}, UnsupportedError, "mamba"), ({"model_type": None}, UnsupportedError, "None"),
    ({"num_hidden_layers": 1}, UnsupportedError, "layers.1"), ({"num_attention_heads": 5}, FormatError, "5 heads"),
    ({"hidden_size": "x"}, FormatError, "hidden_size"), ({"rms_norm_eps": -1}, FormatError, "rms_norm_eps"),
    ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4}}, UnsupportedError, "yarn"),
    ({"rope_parameters": 3}, FormatError, "damaged"),
    ({"model_type": "mistral", "sliding_window": 7}, UnsupportedError, "window"),
    ({"num_key_value_heads": True}, FormatError, "key_value")])
def test_faults_of_the_configuration(tmp_path, change, error, said):
    made(tmp_path / "m")
    path = tmp_path / "m" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(error, match=said):
        from_folder(tmp_path / "m", tmp_path / "m.gguf")
    assert not (tmp_path / "m.gguf").exists()


def test_faults_of_the_tokenizer(tmp_path):
    made(tmp_path / "m")
    path = tmp_path / "m" / "tokenizer.json"
    kept = path.read_text()
    good = json.loads(kept)
    model = good["model"]
    for change, error in (({"model": {**model, "type": "Unigram"}}, UnsupportedError), ({"model": 3}, FormatError),
                          ({"model": {}}, FormatError), ({"model": {**model, "merges": [["a"]]}}, FormatError),
                          ({"model": {**model, "vocab": {"a": ROWS}}}, FormatError),
                          ({"model": {**model, "vocab": {"a": -1}}}, FormatError), ({"model": {**model, "vocab": {"a": "0"}}}, FormatError),
                          ({"pre_tokenizer": {"type": "Whitespace"}}, UnsupportedError), ({"added_tokens": [3]}, FormatError),
                          ({"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": True}}, UnsupportedError)):
        path.write_text(json.dumps({**good, **change}))
        with pytest.raises(error):
            from_folder(tmp_path / "m", tmp_path / "m.gguf")
    path.unlink()
    with pytest.raises(FormatError, match="no tokenizer.json"):
        from_folder(tmp_path / "m", tmp_path / "m.gguf")
    rng, config = np.random.default_rng(0), tmp_path / "m" / "config.json"
    for file, text in [(path, kept), (config, config.read_text())]:
        for _ in range(30):
            bad = bytearray(text.encode())
            for at in rng.integers(0, len(bad), 4):
                bad[at] = rng.integers(256)
            path.write_text(kept)
            file.write_bytes(bytes(bad))
            try:
                from_folder(tmp_path / "m", tmp_path / "m.gguf", overwrite=True)
            except CompandError:
                pass
