"""prepare → train → convert: the numbers stay the same, bit for bit, into the file and out of it."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from compand.errors import InputError  # noqa: E402
from compand.torch import Recipe, convert, load, prepare, save  # noqa: E402


def model(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 4))


def task(seed=1, n=512):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 16, generator=generator)
    return x, torch.stack([x[:, :4].sum(1), x[:, 4:8].prod(1), x[:, 8].abs(), x[:, 9] * x[:, 10]], 1)


def train(net, steps=150, lr=3e-3):
    optimizer = torch.optim.Adam(net.parameters(), lr)
    x, y = task()
    net.train()
    for _ in range(steps):
        loss = (net(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return float(loss.detach())


KINDS = {"int": ("int:4:group=16", None, None), "bitnet": ("ternary:rule=absmean", "int:8:search=absmax", None),
         "lsq": ("int:4:per=tensor", None, Recipe(estimator="lsq", update="gradient", commit=0.0, codebook=0.0)),
         "quest": ("hadamard,int:4", "hadamard,int:8", Recipe(estimator="trust", update="gradient", commit=0.0, codebook=0.0)),
         "vq": ("vq:16:dim=2", None, Recipe(estimator="straight", commit=0.0)), "nf4": ("table:nf4:group=16", None, None),
         "residual": ("sign+sign", None, None)}


@pytest.mark.parametrize("kind", KINDS)
def test_converted_computes_what_was_trained(kind, tmp_path):
    weights, activations, recipe = KINDS[kind]
    net = prepare(model(), weights, activations=activations, **({"recipe": recipe} if recipe else {}))
    train(net, 5)
    x, _ = task(2)
    net.eval()
    with torch.no_grad():
        expected = net(x)
        convert(net)
        assert torch.equal(net(x), expected)
    if activations is None:
        save(net, tmp_path / "net.cpd")
        with torch.no_grad():
            assert torch.equal(load(model(3), tmp_path / "net.cpd")(x), expected)


def test_training_with_the_quantizer_beats_quantizing_after():
    plain = model()
    train(plain)
    x, y = task()
    with torch.no_grad():
        after = float((convert(prepare(plain, "int:2:group=16"))(x) - y).square().mean())
    net = prepare(model(), "int:2:group=16")
    train(net)
    with torch.no_grad():
        during = float((convert(net)(x) - y).square().mean())
    assert during < 0.8 * after


def test_the_file_is_as_small_as_its_codes(tmp_path):
    net = convert(prepare(nn.Sequential(nn.Linear(1024, 512, bias=False)), "int:4:group=64"))
    assert save(net, tmp_path / "net.cpd") < 1024 * 512 * 4.35 / 8
    with pytest.raises(InputError, match="convert"):
        save(model(), tmp_path / "plain.cpd")


def test_chosen_layers_only():
    net = prepare(model(), "int:4", where=lambda name, m: name == "2")
    assert not hasattr(net[0], "parametrizations") and hasattr(net[2], "parametrizations")
    with pytest.raises(InputError, match="no layer"):
        prepare(model(), where=lambda name, m: False)
