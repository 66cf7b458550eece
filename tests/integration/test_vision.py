"""Classifiers of pictures: compressed with pictures and with none, restored as folders, measured by their classes."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from compand import open as open_file
from compand.errors import FormatError, InputError, OverwriteError
from compand.modality import unpack

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers", reason="compand[hf] is not installed")
Image = pytest.importorskip("PIL.Image", reason="compand[image] is not installed")

from compand.integration import vision  # noqa: E402

SIDE = 32
CLASSES = ("across", "down", "dots", "slope")


def drawn(rng, label: int) -> np.ndarray:
    """A noisy picture of stripes, dots or a slope: uint8 (32, 32, 3)."""
    y, x = np.mgrid[:SIDE, :SIDE] / SIDE
    f, phase = rng.uniform(3, 6), rng.uniform(0, 6)
    wave = [np.sin(6.3 * f * y + phase), np.sin(6.3 * f * x + phase), np.sin(6.3 * f * x + phase) * np.sin(6.3 * f * y),
            2 * (x + y) - 2 + 0 * f][label]
    colour = rng.uniform(0.3, 1, 3)
    return np.clip(128 + 90 * wave[..., None] * colour + rng.normal(0, 12, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)


def saved(net, folder):
    net.eval().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps({
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": SIDE, "width": SIDE}, "do_normalize": True,
        "image_mean": [0.5] * 3, "image_std": [0.5] * 3}))
    return folder


@pytest.fixture(scope="module")
def resnet(tmp_path_factory):
    """A small ResNet that tells the four kinds apart."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    config = transformers.ResNetConfig(embedding_size=16, hidden_sizes=[16, 32], depths=[1, 1], layer_type="basic",
                                       id2label=dict(enumerate(CLASSES)), label2id={c: i for i, c in enumerate(CLASSES)})
    net = transformers.ResNetForImageClassification(config).train()
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    for _ in range(40):
        labels = rng.integers(0, 4, 32)
        x = np.stack([drawn(rng, i) for i in labels]).astype(np.float32) / 127.5 - 1
        loss = torch.nn.functional.cross_entropy(net(torch.from_numpy(x.transpose(0, 3, 1, 2))).logits, torch.from_numpy(labels))
        optimizer.zero_grad(), loss.backward(), optimizer.step()
    return saved(net, tmp_path_factory.mktemp("resnet"))


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    rng, folder = np.random.default_rng(1), tmp_path_factory.mktemp("photos")
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir()
        for i in range(10):
            Image.fromarray(drawn(rng, label)).save(folder / name / f"{i}.png")
    return folder


def test_compress_evaluate_restore(resnet, photos, tmp_path):
    out, paths, seen = tmp_path / "net.cpd", vision.pictures(photos), []
    result = vision.compress(resnet, out, "hadamard,int:4", paths, count=16, progress=lambda *a: seen.append(a[2]))
    assert result["bytes"] == out.stat().st_size and result["pictures"] == 16 and seen[-1] == "" and len(result["lost"]) > 5
    with open_file(out) as file:
        assert file["resnet.embedder.embedder.convolution.weight"].spec == "int:8"  # what meets the pixels
        assert file["resnet.encoder.stages.1.layers.0.layer.1.convolution.weight"].spec == "hadamard,int:4"
        assert file["classifier.1.weight"].spec == "int:8"  # 32 weights of an output
        norm = "resnet.encoder.stages.1.layers.0.layer.1.normalization"
        assert np.array_equal(file[f"{norm}.weight"].array(), np.ones(32, np.float32)) and np.any(file[f"{norm}.running_mean"].array())
    found = vision.evaluate(out, resnet, paths)
    assert found["pictures"] == 40 and found["top1"] > 0.9 and found["accuracy_reference"] > 0.9 and 0 < found["kld"] < 0.2
    assert found["accuracy"] > 0.85 and found["sure"] > 20 and found["top1_sure"] >= found["top1"] and found["kld"] < found["kld_99"]
    unpack(out, tmp_path / "restored")
    again = vision.evaluate(tmp_path / "restored", resnet, paths)
    assert {**again, "bits": 0, "bytes": 0} == {**found, "bits": 0, "bytes": 0}
    own = tmp_path / "self.cpd"
    assert vision.compress(resnet, own, "hadamard,int:4", None, count=8)["pictures"] == 8
    assert vision.evaluate(own, resnet, paths)["kld"] < 6 * found["kld"]
    worse = tmp_path / "worse.cpd"
    vision.compress(resnet, worse, "hadamard,int:2", paths, count=16)
    assert vision.evaluate(worse, resnet, paths)["kld"] > 2 * found["kld"]
    with pytest.raises(OverwriteError):
        vision.compress(resnet, out, "int:4", paths)


def test_a_folded_net_is_the_same_function_in_its_own_class(resnet, photos, tmp_path):
    out, paths = tmp_path / "net.cpd", vision.pictures(photos)
    vision.compress(resnet, out, "int:16", paths, count=8)
    found = vision.evaluate(out, resnet, paths)
    assert found["kld"] < 1e-5 and found["top1"] == 1  # the pixels' convolution has 8 bits


def test_without_norms(photos, tmp_path):
    torch.manual_seed(0)
    config = transformers.ViTConfig(hidden_size=64, num_hidden_layers=2, num_attention_heads=4, intermediate_size=128, image_size=SIDE,
                                    patch_size=8, num_labels=5)
    folder = saved(transformers.ViTForImageClassification(config), tmp_path)
    out, paths = tmp_path / "vit.cpd", vision.pictures(photos)
    vision.compress(folder, out, "hadamard,int:4", paths, count=16)
    found = vision.evaluate(out, folder, paths)
    assert 0 < found["kld"] < 0.05 and "accuracy" not in found
    with open_file(out) as file:
        assert sum(file[n].spec == "hadamard,int:4" for n in file) >= 2 * 6 + 1
    with pytest.raises(InputError, match="pictures"):
        vision.compress(folder, tmp_path / "self.cpd", "int:4", None)


def test_pictures_are_read_as_the_processor_takes_them(resnet, tmp_path):
    _, processor = vision.open_classifier(resnet)
    rng = np.random.default_rng(0)
    for name, x in (("grey.png", rng.integers(0, 255, (40, 50), np.uint8)), ("alpha.png", rng.integers(0, 255, (40, 50, 4), np.uint8)),
                    ("deep.png", rng.integers(0, 65535, (40, 50), np.uint16))):
        Image.fromarray(x).save(tmp_path / name)
    assert vision.pixels(processor, vision.pictures(tmp_path)).shape == (3, 3, SIDE, SIDE)
    (tmp_path / "not.png").write_bytes(b"text")
    with pytest.raises(FormatError):
        vision.pixels(processor, [tmp_path / "not.png"])
    with pytest.raises(InputError, match="no pictures"):
        vision.pictures(tmp_path / "nothing.d" if (tmp_path / "nothing.d").mkdir() is None else "")


@pytest.mark.parametrize(("config", "what"), [
    ('{"architectures": ["ResNetForImageClassification"]}', True), ('{"architectures": ["BertModel"]}', False), ("{}", False), ("[", False),
    ("[]", False), ('{"architectures": 3}', False)])
def test_which_folders_classify_pictures(tmp_path, config, what):
    (tmp_path / "config.json").write_text(config)
    assert vision.is_vision(tmp_path) is what


def test_command_line(resnet, photos, tmp_path):
    from compand.cli.app import app

    def call(*words):
        return CliRunner().invoke(app, [*map(str, words)])

    out = tmp_path / "o.cpd"
    result = call("compress", resnet, "--bits", 4, "--effort", "low", "--calib", photos, "-o", out, "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["pictures"] == 40, result.output
    result = call("eval", out, "--against", resnet, "--pictures", photos, "--json")
    found = json.loads(result.stdout)
    assert result.exit_code == 0 and found["top1"] > 0.85 and found["bits"] == pytest.approx(8 * out.stat().st_size / 30000, rel=0.5)
    result = call("eval", out, "--against", resnet, "--pictures", photos, "--card")
    assert result.exit_code == 0 and f"same class {found['top1']:.1%} of 40 pictures" in result.stdout
    result = call("info", out)
    assert "Measured" in result.stdout and f"same class {found['top1']:.1%}" in result.stdout and "right" in result.stdout
    result = call("eval", out, "--against", resnet, "--pictures", tmp_path / "nowhere")
    assert result.exit_code == 1
    (tmp_path / "config.json").write_text('{"architectures": ["BertModel"]}')
    result = call("eval", tmp_path, "--against", resnet, "--pictures", photos)
    assert result.exit_code == 1 and "classifier of pictures" in result.output
    result = call("compress", resnet, "--bits", 4, "--tune", "--calib", photos, "-o", out, "-f")
    assert result.exit_code == 2
