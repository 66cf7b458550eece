"""Recognisers: recordings read, windows, compressed by clips, restored as folders, measured by transcripts, on the command line."""

import json
import wave

import numpy as np
import pytest
from typer.testing import CliRunner

from compand.errors import CompandError, FormatError, InputError, OverwriteError
from compand.integration import clips

RNG = np.random.default_rng(0)
RATE = clips.RATE


def write(path, x, rate=RATE, channels=1):
    with wave.open(str(path), "wb") as f:
        f.setnchannels(channels)
        f.setsampwidth(2)
        f.setframerate(rate)
        f.writeframes((x * 32767).astype("<i2").tobytes())


def tone(seconds, pitch, rate=RATE):
    return (0.5 * np.sin(2 * np.pi * pitch * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def test_recordings(tmp_path):
    stereo = np.stack([tone(0.5, 300, 8000), tone(0.5, 300, 8000)], axis=1)
    write(tmp_path / "b.wav", stereo, 8000, 2)
    write(tmp_path / "a.wav", tone(0.5, 300))
    found = clips.read_all(tmp_path)
    assert list(found) == ["a.wav", "b.wav"] and [x.shape for x in found.values()] == [(RATE // 2,)] * 2
    inner = slice(200, -200)
    np.testing.assert_allclose(found["b.wav"][inner], found["a.wav"][inner], atol=0.01)
    assert clips.is_clips(tmp_path) and clips.is_clips(tmp_path / "a.wav") and not clips.is_clips(tmp_path / "a.txt")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="no recordings"):
        clips.read_all(tmp_path / "empty")


@pytest.mark.parametrize("cut", [*range(0, 44, 4), 45, 60])
def test_broken_recordings(tmp_path, cut):
    path = tmp_path / "x.wav"
    write(path, tone(0.01, 300))
    data = bytearray(path.read_bytes())
    path.write_bytes(data[:cut])
    for change in (None, 0, 0xFF):
        if change is not None:
            data[cut] = change
            path.write_bytes(data)
        try:
            assert np.isfinite(clips.read(path)).all()
        except CompandError:
            continue


torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")

from compand.integration import module_tune, speech  # noqa: E402


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    from tokenizers import Tokenizer, models, pre_tokenizers

    folder = tmp_path_factory.mktemp("whisper")
    torch.manual_seed(0)
    words = ["<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|transcribe|>", "<|notimestamps|>", *(f"w{i}" for i in range(91))]
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder)
    config = transformers.WhisperConfig(vocab_size=96, d_model=64, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
                                        decoder_attention_heads=2, encoder_ffn_dim=96, decoder_ffn_dim=96, max_target_positions=72,
                                        pad_token_id=0, bos_token_id=0, eos_token_id=0, decoder_start_token_id=1)
    net = transformers.WhisperForConditionalGeneration(config)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if p.ndim > 1 and "positions" not in name:
                p.mul_(4)
    net.generation_config.suppress_tokens = [1, 2, 3, 4]
    net.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def heard():
    return [tone(1, 200 + 90 * i) + 0.1 * RNG.standard_normal(RATE).astype(np.float32) for i in range(3)]


def test_tokens_are_those_of_generate(model, heard):
    own = speech.Recogniser(model)
    assert own.start == [1, 2, 3, 4]
    x = own.features(heard)
    rows = own.tokens(x)
    ids = torch.tensor([own.start] * len(heard))
    with torch.no_grad():  # again without what the model remembers
        for _ in range(max(map(len, rows))):
            z = own.net(input_features=x, decoder_input_ids=ids, use_cache=False).logits[:, -1]
            z[:, own.never] = -torch.inf
            ids = torch.cat([ids, z.argmax(-1, keepdim=True)], dim=1)
    for row, full in zip(rows, ids[:, 4:].tolist(), strict=True):
        assert row == full[:len(row)] and 0 not in row
    assert len(own.transcribe(heard)) == 3


def test_compress_evaluate_restore(model, heard, tmp_path):
    from compand import open as open_file
    from compand.modality import unpack

    out = tmp_path / "out.cpd"
    result = speech.compress(model, out, "int:6:group=32", heard, tune=False, effort="low")
    assert result["windows"] == 1 and result["bytes"] == out.stat().st_size
    with open_file(out) as file:
        coded = [n for n in file if file[n].spec == "int:6:group=32"]
        assert "model.decoder.embed_tokens.weight" in coded and "model.encoder.conv2.weight" in coded
        assert "model.decoder.layers.1.encoder_attn.k_proj.weight" in coded
    report = speech.evaluate(out, model, heard)
    assert set(report) >= {"bits", "same", "same_text", "words_changed"} and len(report["transcripts"]) == 3
    assert speech.evaluate(model, model, heard[:1])["same_text"] == 1
    unpack(out, tmp_path / "restored")
    speech.Recogniser(tmp_path / "restored")
    with pytest.raises(OverwriteError):
        speech.compress(model, out, "int:4", heard)
    with pytest.raises(InputError, match="no clips"):
        speech.compress(model, tmp_path / "other.cpd", "int:4", [])
    with pytest.raises(FormatError):
        speech.Recogniser(tmp_path)


def test_command_line(model, heard, tmp_path, monkeypatch):
    from compand.cli.app import app

    monkeypatch.setitem(speech.EFFORT, "medium", (1, 1, 2, 2, 4))

    folder, out = tmp_path / "clips", tmp_path / "o.cpd"
    folder.mkdir()
    for i, x in enumerate(heard[:2]):
        write(folder / f"{i}.wav", x / 2)
    result = CliRunner().invoke(app, ["compress", str(model), "--bits", "5", "--calib", str(folder), "-o", str(out)])
    assert result.exit_code == 0, result.output
    result = CliRunner().invoke(app, ["eval", str(out), "--against", str(model), "--clips", str(folder), "--json"])
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["clips"] == 2 and [t["clip"] for t in found["transcripts"]] == ["0.wav", "1.wav"]
    result = CliRunner().invoke(app, ["eval", str(out), "--against", str(model), "--clips", str(folder)])
    assert "same words" in result.stdout
    result = CliRunner().invoke(app, ["compress", str(model), "--bits", "5", "--calib", str(out), "-f", "-o", str(out)])
    assert result.exit_code == 2 and "recordings" in result.output
    result = CliRunner().invoke(app, ["compress", str(model), "--bits", "4", "-o", str(tmp_path / "free.cpd")])
    assert result.exit_code == 0, result.output
    speech.evaluate(tmp_path / "free.cpd", model, heard[:1])


@pytest.mark.parametrize(("config", "what"), [
    ('{"architectures": ["WhisperForConditionalGeneration"], "is_encoder_decoder": true, "num_mel_bins": 80}', True),
    ('{"architectures": ["T5ForConditionalGeneration"], "is_encoder_decoder": true}', False), ("[]", False), ("", False)])
def test_which_folders_are_recognisers(tmp_path, config, what):
    (tmp_path / "config.json").write_text(config)
    assert speech.is_speech(tmp_path) is what


def test_tuned_and_stopped(model, heard, tmp_path, monkeypatch):
    monkeypatch.setitem(speech.EFFORT, "low", (0, 0, 2, 4, 8))
    monkeypatch.setattr(module_tune, "LARGE", 0)  # in bfloat16, where the machine knows it
    long = [np.tile(x, 16) for x in heard for _ in range(2)]

    class Killed(Exception):
        pass

    def stop(at):
        def progress(done, total, what):
            if "tuning" in what or "." in what:
                seen.append((done, total))
            if len(seen) > at:
                raise Killed
        seen = []
        return progress

    result = speech.compress(model, tmp_path / "whole.cpd", "int:3", long, effort="low", seed=1)
    assert len(result["losses"]) == 4 + 8 and result["windows"] == 6
    out = tmp_path / "out.cpd"
    for at in (3, 24):
        with pytest.raises(Killed):
            speech.compress(model, out, "int:3", long, effort="low", seed=1, progress=stop(at))
    assert (tmp_path / "out.cpd.parts").exists()
    speech.compress(model, out, "int:3", long, effort="low", seed=1)
    assert out.read_bytes() == (tmp_path / "whole.cpd").read_bytes() and not (tmp_path / "out.cpd.parts").exists()
    plain, lesson = tmp_path / "plain.cpd", speech.Lesson(speech.Recogniser(model), [x + 0.01 for x in long[:3]], drawn=1)
    speech.compress(model, plain, "int:3", long, tune=False, effort="low")
    losses = []
    for path in (out, plain):
        with speech.as_folder(path) as folder, torch.no_grad():
            lesson.own = speech.Recogniser(folder)
            losses.append(float(lesson.loss(torch.arange(3))))
    assert losses[0] < losses[1]
