"""Plans of any module tree: slopes predict, bits go where they matter, budgets are kept, tied weights and positions."""

import numpy as np
import pytest

from compand.errors import InputError

torch = pytest.importorskip("torch")

from compand.integration.module_fit import fit  # noqa: E402
from compand.integration.module_plan import Measured, plan  # noqa: E402

nn = torch.nn


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Net(nn.Module):
    """One layer whose outputs are hardly heard, a convolution, an embedding that is the head too."""

    def __init__(self):
        super().__init__()
        self.words, self.head = nn.Embedding(256, 64), nn.Linear(64, 256, bias=False)
        self.head.weight = self.words.weight
        self.loud, self.quiet, self.conv = nn.Linear(64, 64), nn.Linear(64, 64), nn.Conv1d(64, 64, 3, padding=1)

    def forward(self, ids):
        x = self.words(ids)
        x = x + torch.tanh(self.loud(x)) + 0.01 * self.quiet(x)
        return self.head(x + self.conv(x.transpose(1, 2)).transpose(1, 2))


@pytest.fixture
def what():
    torch.manual_seed(0)
    net = Net().eval()
    net.words.weight.data *= 0.3
    batches = [torch.randint(0, 256, (4, 16)) for _ in range(8)]
    with torch.no_grad():
        wanted = [net(b).log_softmax(-1) for b in batches]

    def loss(numbers):
        said = [(wanted[i], net(batches[i]).log_softmax(-1)) for i in numbers.tolist()]
        return sum((p.exp() * (p - q)).sum(-1).mean() for p, q in said) / len(said)
    return Measured(net, net, batches, loss, {})


def test_bits_go_where_they_matter(what):
    before = {n: p.clone() for n, p in what.model.named_parameters()}
    seen = []
    found = plan(what, lambda name, m: "int:8" if name == "conv" else "", bits=5.5, rest=0, ladder=[f"int:{b}" for b in range(1, 9)],
                 progress=lambda *a: seen.append(a))
    assert seen[-1][:2] == (4, 4)
    assert set(found.specs) == {"head.weight", "loud.weight", "quiet.weight", "conv.weight"} and found.specs["conv.weight"] == "int:8"
    assert int(found.specs["quiet.weight"][4:]) < int(found.specs["loud.weight"][4:])
    assert found.bits <= 5.5 and found.slopes["loud.weight"] > 100 * found.slopes["quiet.weight"]
    for n, p in what.model.named_parameters():
        torch.testing.assert_close(p, before[n], rtol=0, atol=0)
    modules = dict(what.model.named_modules())
    by = {id(what.model.get_parameter(n)): spec for n, spec in found.specs.items()}
    fit(what.model, what.run, what.batches, lambda name, m: by[id(modules[name].weight)])
    with torch.no_grad():
        real = float(what.loss(torch.arange(8)))
    assert 0.3 * found.kld < real < 3 * found.kld


def test_other_bounds(what):
    found = plan(what, lambda name, m: "", kld=0.01, rest=0, ladder=[f"int:{b}" for b in range(1, 9)])
    assert 0.002 < found.kld <= 0.01
    small = plan(what, lambda name, m: "", size=found.bytes - 500, rest=0, ladder=[f"int:{b}" for b in range(1, 9)])
    assert small.bytes <= found.bytes - 500 and small.kld > found.kld
    with pytest.raises(InputError, match="0.5 bits a value"):
        plan(what, lambda name, m: "", bits=0.5, rest=0, ladder=["int:2", "int:4"])


def test_rows_that_matter(what):
    importance = np.zeros(256)
    importance[:20] = np.arange(20)
    rows = Measured(what.model, what.run, [b % 20 for b in what.batches], what.loss, {"head.weight": importance})
    found = plan(rows, lambda name, m: "", bits=4, rest=0)
    assert found.slopes["head.weight"].shape == (5, 2)
