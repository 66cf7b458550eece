"""Batch norms folded; torch nets as integer nets that give the same answers; what cannot be exported is named."""

import numpy as np
import pytest

from compand import Codec
from compand.errors import InputError, UnsupportedError

torch = pytest.importorskip("torch")

from compand.integration import module_fit  # noqa: E402
from compand.integration.batch_norm import fold  # noqa: E402
from compand.integration.integer_export import export, integers  # noqa: E402

nn = torch.nn


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 16, 3, stride=2, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.deep = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.BatchNorm2d(16), nn.ReLU())
        self.point = nn.Sequential(nn.Conv2d(16, 16, 1, bias=False), nn.BatchNorm2d(16, affine=False))
        self.pool, self.fc = nn.AdaptiveAvgPool2d(1), nn.Linear(16, 10)

    def forward(self, x):
        x = self.stem(x)
        x = x + self.point(self.deep(x))
        return self.fc(self.pool(x).flatten(1))


STEP = 1 / 64


@pytest.fixture
def trained():
    torch.manual_seed(0)
    net, ints = Net(), [torch.randint(-127, 128, (16, 3, 16, 16)) for _ in range(4)]
    with torch.no_grad():
        for m in net.modules():
            if isinstance(m, nn.BatchNorm2d) and m.affine:
                m.weight.uniform_(0.5, 2), m.bias.uniform_(-1, 1)
        for _ in range(10):
            net(torch.randn(16, 3, 16, 16) * 2)
    return net.eval(), ints, [i.float() * STEP for i in ints]


def test_folded_norms_are_the_same_function(trained):
    net, _, data = trained
    before = net(data[0])
    assert fold(net, net, data[0]) == ["stem.2", "deep.1", "point.1"] and not any(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    torch.testing.assert_close(net(data[0]), before, atol=1e-5, rtol=1e-5)
    assert fold(net, net, data[0]) == []


def test_norms_that_others_read_stay():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.norm, self.b = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            y = self.a(x)
            return self.b(y) + self.b(self.norm(y))

    net = Two().eval()
    assert fold(net, net, torch.randn(1, 3, 4, 4)) == []


@pytest.mark.parametrize(("spec", "least"), [("int:8", 0.9995), ("int:4", 0.98)])
def test_export(trained, spec, least):
    net, ints, data = trained
    with torch.no_grad():
        before = net(data[0]).numpy()
        fold(net, net, data[0])
        found = module_fit.fit(net, net, data, lambda n, m: spec)
        after = net(data[0]).numpy()
    whole = export(net, data, found.codes, step=STEP, low=-127, high=127)
    y = whole.run(ints[0].numpy())
    assert [n.op for n in whole.nodes] == ["conv", "conv", "conv", "add", "mean", "conv"]
    assert whole.nodes[0].high < 255 or whole.nodes[0].low == 0
    if spec == "int:4":
        assert max(np.abs(n.arrays["weight"]).max() for n in whole.nodes if n.op == "conv") <= 8
    assert np.corrcoef(y.ravel(), after.ravel())[0, 1] > 0.999 and np.corrcoef(y.ravel(), before.ravel())[0, 1] > least
    assert (y.argmax(1) == after.argmax(1)).mean() >= 0.75  # of noise, whose best two are near each other


@pytest.mark.parametrize("small", [0.0, 1e-9, 1e-14])
def test_a_channel_of_little_more_than_its_bias(small):
    net = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.Conv2d(4, 2, 1)).eval()
    x = torch.randint(-127, 128, (4, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        net[0].weight[1] *= small
        net[0].bias[1] = 1.5
        net[2].weight[:, 1] = torch.tensor([1.0, -1.0])[:, None, None]
        found = module_fit.fit(net, net, [x * STEP], lambda n, m: "int:8")
        y = net(x * STEP).numpy()
    ours = export(net, [x * STEP], found.codes, step=STEP).run(x.numpy())
    assert np.corrcoef(ours.ravel(), y.ravel())[0, 1] > 0.999


def test_weights_of_codes():
    w = np.random.default_rng(0).standard_normal((6, 20)).astype(np.float32)
    for spec in ("int:4", "int:8:search=absmax", "int:3:group=20"):
        codes = Codec(spec).encode(w)
        ids, scale = integers(codes, w)
        np.testing.assert_allclose(ids * scale[:, None], codes.codec.decode(codes), rtol=1e-6)
    for spec in ("int:4:group=10", "int:1", "hadamard,int:4", "table:4", "int:4:sym=false"):
        with pytest.raises(InputError, match="integers times one scale"):
            integers(Codec(spec).encode(w) if spec != "table:4" else Codec(spec).fit(w).encode(w), w)


@pytest.mark.parametrize("layer", [nn.Sigmoid(), nn.Conv2d(3, 3, 3, dilation=2), nn.BatchNorm2d(3), nn.MaxPool2d(2)])
def test_what_cannot_be_exported_is_named(layer):
    net = nn.Sequential(nn.Conv2d(3, 3, 1), layer, nn.Conv2d(3, 3, 1)).eval()
    with pytest.raises(UnsupportedError, match=r"integer nets|dilation"):
        export(net, [torch.randn(2, 3, 8, 8)], step=STEP)
